//! Claims about the spool, with real files; the process that dies is a copy of this test program.

mod full;
mod moved;

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use mcp_node_core::spool_format::{self, Frame};
use schemas::{KeyId, LeaseId, ProjectId, Quantity, RefusalReason, TenantId, Timestamp};
use uuid::Uuid;

use super::{file::SegmentFile, segment::Segment, *};

const SHARDS: u16 = 3;

fn start_with(path: &Path, limits: SpoolLimits) -> Result<Arc<Spool>, SpoolError> {
    let folder = Folder::open(path, None, &"n".parse().unwrap())?;
    Spool::start(folder, limits, 1_000, SHARDS)
}

fn start(path: &Path) -> Arc<Spool> {
    start_with(path, SpoolLimits::default()).unwrap()
}

fn segments(path: &Path) -> Vec<(u64, PathBuf)> {
    Segment::list(&path.join("segments")).unwrap()
}

/// A record that says a number.
fn record(number: u64) -> Record {
    Record::Refused {
        at: Timestamp(0),
        tenant: TenantId(Uuid::nil()),
        project: ProjectId(Uuid::nil()),
        key: KeyId(Uuid::nil()),
        tool: "t".into(),
        reason: RefusalReason::RateLimited,
        calls: Quantity(number),
    }
}

/// A lease of nobody that is closed.
fn closed() -> Record {
    let (lease, tenant) = (LeaseId(Uuid::nil()), TenantId(Uuid::nil()));
    Record::LeaseClosed { lease, tenant, spent: BTreeMap::new() }
}

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything of one shard that lies in the files: epoch, position, and the number said or `None` for an end.
/// Closed leases have no part in it.
fn on_file(path: &Path, shard: u16) -> Vec<(u64, u64, Option<u64>)> {
    let mut found = Vec::new();
    for (_, file) in segments(path) {
        let bytes = std::fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (frame, whole) = spool_format::decode(rest).unwrap();
            if frame.shard == Shard(shard) {
                match serde_json::from_slice(frame.payload).unwrap() {
                    Record::Refused { calls, .. } => {
                        found.push((frame.epoch.0, frame.seq, Some(calls.0)));
                    }
                    Record::EpochEnded => found.push((frame.epoch.0, frame.seq, None)),
                    Record::LeaseClosed { .. } => {}
                    other @ Record::Usage(_) => panic!("{other:?}"),
                }
            }
            rest = &rest[whole..];
        }
    }
    found
}

fn numbers(batch: &Batch) -> Vec<Option<u64>> {
    let text = format!("[{}]", std::str::from_utf8(&batch.joined).unwrap());
    let records: Vec<Record> = serde_json::from_str(&text).unwrap();
    assert_eq!(records.len(), batch.records);
    let number = |record: Record| match record {
        Record::Refused { calls, .. } => Some(calls.0),
        _ => None,
    };
    records.into_iter().map(number).collect()
}

async fn next(reader: Reader) -> (Reader, Batch) {
    let next = tokio::time::timeout(Duration::from_secs(10), reader.next_batch());
    let (reader, batch) = next.await.expect("there is something to read");
    (reader, batch.unwrap())
}

fn watermark(epoch: u64, seq: u64, as_of: u64) -> Watermark {
    Watermark { epochs: BTreeMap::from([(Epoch(epoch), seq)]), ended: None, as_of }
}

#[test]
fn the_end_of_an_epoch_is_written_as_it_is_recognised() {
    assert_eq!(serde_json::to_vec(&Record::EpochEnded).unwrap(), EPOCH_ENDED);
}

#[tokio::test]
async fn what_is_appended_is_read_back_in_order_by_shard() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    for number in 0..10 {
        spool.append(Shard(number % 2), &record(u64::from(number))).unwrap();
    }
    let mut reader = spool.reader(Shard(1));
    reader.seek(Position::default());
    let (mut reader, batch) = next(reader).await;
    assert_eq!((batch.epoch, batch.first_seq), (spool.epoch(), 1));
    assert_eq!(numbers(&batch), [1, 3, 5, 7, 9].map(Some));
    reader.confirm();
    spool.append(Shard(0), &record(100)).unwrap();
    spool.append(Shard(1), &record(11)).unwrap();
    let (_, batch) = next(reader).await;
    assert_eq!((batch.first_seq, numbers(&batch)), (6, vec![Some(11)]));
    spool.stop();
}

#[tokio::test]
async fn a_batch_that_was_not_confirmed_is_read_again_without_what_the_log_has() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    (0..5).for_each(|number| spool.append(Shard(0), &record(number)).unwrap());
    let (mut reader, batch) = next(spool.reader(Shard(0))).await;
    assert_eq!(batch.records, 5);
    reader.seek(Position::new(spool.epoch(), 2));
    let (mut reader, batch) = next(reader).await;
    assert_eq!((batch.first_seq, numbers(&batch)), (3, vec![Some(2), Some(3), Some(4)]));
    reader.confirm();
    reader.seek(Position::default());
    let (_, batch) = next(reader).await;
    assert_eq!(batch.first_seq, 1, "the log went back: everything that is here is sent again");
    spool.stop();
}

#[tokio::test]
async fn batches_are_bounded_and_segments_do_not_show_in_them() {
    let temp = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { segment_bytes: 20_000, ..SpoolLimits::default() };
    let spool = start_with(temp.path(), limits).unwrap();
    let count = 1_234;
    for number in 0..count {
        spool.append(Shard(1), &record(number)).unwrap();
        spool.append(Shard(2), &record(number)).unwrap();
    }
    assert!(segments(temp.path()).len() > 10, "many segments");
    let (mut reader, mut seen) = (spool.reader(Shard(1)), vec![]);
    while seen.len() < usize::try_from(count).unwrap() {
        let batch;
        (reader, batch) = next(reader).await;
        assert!(
            batch.records <= reader::BATCH_RECORDS && batch.joined.len() <= reader::BATCH_BYTES
        );
        assert_eq!(batch.first_seq, seen.len() as u64 + 1);
        seen.extend(numbers(&batch));
        reader.confirm();
    }
    assert_eq!(seen, (0..count).map(Some).collect::<Vec<_>>());
    spool.stop();
}

#[tokio::test]
async fn a_dead_epoch_is_replayed_and_ended_in_every_shard_once() {
    let temp = tempfile::tempdir().unwrap();
    let first = start(temp.path());
    first.append(Shard(0), &record(7)).unwrap();
    let dead = first.epoch().0;
    first.stop();
    drop(first);
    for _ in 0..2 {
        let spool = start(temp.path());
        assert!(spool.epoch().0 > dead);
        spool.stop();
    }
    assert_eq!(on_file(temp.path(), 0)[..2], [(dead, 1, Some(7)), (dead, 2, None)]);
    assert_eq!(on_file(temp.path(), 1)[0], (dead, 1, None));
    for shard in 0..SHARDS {
        let ends =
            on_file(temp.path(), shard).iter().filter(|r| r.0 == dead && r.2.is_none()).count();
        assert_eq!(ends, 1);
    }
    let spool = start(temp.path());
    let (mut reader, batch) = next(spool.reader(Shard(0))).await;
    assert_eq!((batch.epoch.0, numbers(&batch)), (dead, vec![Some(7), None]));
    reader.confirm();
    let (_, batch) = next(reader).await;
    assert_eq!(batch.epoch.0, dead + 1, "a batch is of one epoch");
    spool.stop();
}

#[test]
fn an_epoch_that_ended_in_order_is_not_ended_again_even_after_a_later_crash() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    let clean = spool.epoch().0;
    spool.append(Shard(0), &record(1)).unwrap();
    spool.end_epoch(&[Shard(2)]).unwrap();
    assert!(spool.append(Shard(0), &record(2)).is_err(), "nothing follows an end");
    spool.stop();
    drop(spool);
    for _ in 0..3 {
        let crashed = start(temp.path());
        crashed.append(Shard(1), &record(9)).unwrap();
        crashed.stop();
    }
    let ends = |shard| {
        on_file(temp.path(), shard).iter().filter(|r| r.0 == clean && r.2.is_none()).count()
    };
    assert_eq!(
        (ends(0), ends(1), ends(2)),
        (1, 0, 1),
        "where it was used or asked, and nowhere else"
    );
    let order: Vec<u64> = on_file(temp.path(), 1).iter().map(|record| record.0).collect();
    assert!(order.is_sorted(), "epochs follow one another: {order:?}");
}

#[test]
fn a_torn_tail_is_cut_wherever_it_was_torn() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    (0..3).for_each(|number| spool.append(Shard(0), &record(number)).unwrap());
    let path = segments(temp.path()).pop().unwrap().1;
    let epoch = spool.epoch().0;
    spool.stop();
    drop(spool);
    let whole = std::fs::read(&path).unwrap();
    let frame = {
        let mut bytes = Vec::new();
        let payload = serde_json::to_vec(&record(2)).unwrap();
        let frame = Frame { epoch: Epoch(epoch), shard: Shard(0), seq: 3, payload: &payload };
        spool_format::encode(frame, &mut bytes).unwrap();
        bytes.len()
    };
    for cut in 1..=frame {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join(path.file_name().unwrap());
        std::fs::write(&copy, &whole[..whole.len() - cut]).unwrap();
        let recovered = recover::recover(folder.path()).unwrap();
        assert_eq!(
            recovered.last_of(0),
            (Position::new(Epoch(epoch), 2), true),
            "{cut} bytes missing"
        );
        assert_eq!(std::fs::metadata(&copy).unwrap().len(), (whole.len() - frame) as u64);
        let torn = copy.with_extension(format!("torn-{}", whole.len() - frame));
        let kept = std::fs::read(torn).unwrap_or_default();
        assert_eq!(kept, whole[whole.len() - frame..whole.len() - cut], "what was cut is kept");
    }
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    start(temp.path()).stop();
    let expected = [(epoch, 1, Some(0)), (epoch, 2, Some(1)), (epoch, 3, None)];
    assert_eq!(on_file(temp.path(), 0)[..3], expected, "the count goes on behind the cut");
}

#[test]
fn a_record_that_does_not_continue_its_count_stops_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    let epoch = spool.epoch();
    spool.append(Shard(0), &record(1)).unwrap();
    spool.stop();
    drop(spool);
    let path = segments(temp.path()).pop().unwrap().1;
    let whole = std::fs::read(&path).unwrap();
    for seq in [1, 3] {
        let mut bytes = whole.clone();
        let payload = serde_json::to_vec(&record(2)).unwrap();
        spool_format::encode(Frame { epoch, shard: Shard(0), seq, payload: &payload }, &mut bytes)
            .unwrap();
        std::fs::write(&path, bytes).unwrap();
        let refused = start_with(temp.path(), SpoolLimits::default()).map(|_| ());
        assert!(matches!(refused, Err(SpoolError::Corrupt { .. })), "{seq}: {refused:?}");
    }
}

#[test]
fn a_last_segment_without_a_whole_head_is_as_if_it_had_never_begun() {
    let temp = tempfile::tempdir().unwrap();
    start(temp.path()).stop();
    let (index, path) = segments(temp.path()).pop().unwrap();
    let head = std::fs::read(&path).unwrap();
    let next = Segment::path_of(&temp.path().join("segments"), index + 1);
    std::fs::write(&next, &head[..head.len() - 1]).unwrap();
    let recovered = recover::recover(&temp.path().join("segments")).unwrap();
    assert_eq!(recovered.segments.len(), 1);
    assert!(!next.exists());
    start(temp.path()).stop();
}

#[test]
fn damage_before_the_last_segment_stops_the_start() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    (0..3).for_each(|number| spool.append(Shard(0), &record(number)).unwrap());
    let path = segments(temp.path()).pop().unwrap().1;
    spool.stop();
    drop(spool);
    start(temp.path()).stop();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let refused = start_with(temp.path(), SpoolLimits::default()).map(|_| ());
    assert!(matches!(refused, Err(SpoolError::Corrupt { .. })), "{refused:?}");
    std::fs::remove_file(&path).unwrap();
    let newest = segments(temp.path()).pop().unwrap();
    std::fs::rename(&newest.1, newest.1.with_file_name(format!("{:020}.seg", newest.0 + 1)))
        .unwrap();
    assert!(
        start_with(temp.path(), SpoolLimits::default()).is_err(),
        "a head that belongs elsewhere"
    );
}

#[test]
fn segments_go_when_the_ledger_has_counted_all_of_them_and_not_before() {
    let temp = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { segment_bytes: 2_000, max_bytes: 12_000, ..SpoolLimits::default() };
    let spool = start_with(temp.path(), limits).unwrap();
    let mut count = 0;
    while spool.accepts() {
        spool.append(Shard(0), &record(count)).unwrap();
        spool.append(Shard(1), &record(count)).unwrap();
        count += 1;
    }
    assert!(spool.trouble().is_some_and(|why| why.starts_with("full")));
    assert!(spool.append(Shard(0), &record(count)).is_ok(), "a call that runs is still recorded");
    let (epoch, count_segments) = (spool.epoch().0, || segments(temp.path()).len());
    let before = count_segments();
    spool.release(Shard(0), watermark(epoch, count + 1, 10));
    assert_eq!(count_segments(), before, "the other shard's records are in every segment");
    spool.release(Shard(1), watermark(epoch, count / 2, 10));
    let some = count_segments();
    assert!((2..before).contains(&some), "{some} of {before}");
    spool.release(Shard(1), watermark(epoch, count, 11));
    assert_eq!(count_segments(), 1, "only the active one is left");
    assert!(spool.accepts() && spool.bytes() < 2_500);
    spool.release(Shard(1), watermark(epoch, 0, 9));
    spool.stop();
    drop(spool);
    let again = start_with(temp.path(), limits).unwrap();
    assert_eq!(again.appended(Shard(1)).epoch, epoch, "counts go on over deleted segments");
    assert_eq!(on_file(temp.path(), 1).last(), Some(&(epoch, count + 1, None)));
    again.stop();
}

#[test]
fn an_epoch_that_the_ledger_has_ended_needs_no_watermark() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    spool.append(Shard(0), &record(1)).unwrap();
    let dead = spool.epoch();
    spool.stop();
    drop(spool);
    let spool = start(temp.path());
    let ended = Watermark { epochs: BTreeMap::new(), ended: Some(dead), as_of: 5 };
    (0..SHARDS).for_each(|shard| spool.release(Shard(shard), ended.clone()));
    assert_eq!(on_file(temp.path(), 0).iter().filter(|r| r.2.is_some()).count(), 0);
    spool.stop();
}

#[test]
fn a_disk_that_refuses_breaks_the_spool() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    spool.append(Shard(0), &record(1)).unwrap();
    {
        let mut files = spool.files.lock();
        let active = files.active_mut();
        let path = active.segment.path.clone();
        let file = OpenOptions::new().read(true).open(&path).unwrap(); // Cannot be written to.
        let file = SegmentFile::new(file, active.bytes);
        active.segment = Arc::new(Segment { index: active.segment.index, path, file });
    }
    assert!(spool.append(Shard(0), &record(2)).is_err());
    assert!(!spool.accepts());
    assert!(spool.append(Shard(1), &record(3)).is_err(), "once broken, broken for good");
    spool.stop();
    drop(spool);
    start(temp.path()).stop();
    assert_eq!(on_file(temp.path(), 0)[0].2, Some(1));
}

#[test]
fn leases_and_usage_fit_a_frame_whatever_their_names() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    spool.append(Shard(2), &closed()).unwrap();
    spool.stop();
}

const CHILD_FOLDER: &str = "TOLLBOOK_TEST_SPOOL";

/// Not a claim of its own: the process that `a_killed_process_loses_nothing_that_it_recorded` kills.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let spool = start_with(
        Path::new(&folder),
        SpoolLimits { segment_bytes: 30_000, ..SpoolLimits::default() },
    );
    let spool = spool.unwrap();
    let mut out = std::io::stdout().lock();
    for number in 0.. {
        spool.append(Shard(u16::try_from(number % 3).unwrap()), &record(number)).unwrap();
        writeln!(out, "recorded {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_recorded() {
    let temp = tempfile::tempdir().unwrap();
    let mut epochs = 0;
    for round in 0..4u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "spool::tests::child_that_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD_FOLDER, temp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = lines.filter_map(|line| line.split("recorded ").nth(1)?.parse::<u64>().ok());
        let mut last = None;
        let mut killed = false;
        for number in said {
            last = Some(number);
            if number >= 300 + round * 77 && !killed {
                child.kill().unwrap(); // SIGKILL, in the middle of whatever it does.
                killed = true;
            }
        }
        child.wait().unwrap();
        let last = last.expect("it recorded something");
        let spool = start(temp.path());
        epochs += 1;
        spool.stop();
        drop(spool);
        let all: Vec<_> = (0..SHARDS).flat_map(|shard| on_file(temp.path(), shard)).collect();
        let mut of_epochs: Vec<u64> = all.iter().filter(|r| r.2.is_some()).map(|r| r.0).collect();
        of_epochs.sort_unstable();
        of_epochs.dedup();
        assert_eq!(of_epochs.len(), epochs, "each process had its own epoch");
        let mut said: Vec<u64> =
            all.iter().filter(|r| Some(&r.0) == of_epochs.last()).filter_map(|r| r.2).collect();
        said.sort_unstable();
        assert!(said.len() as u64 > last, "{} recorded, {} on file", last + 1, said.len());
        assert_eq!(said, (0..said.len() as u64).collect::<Vec<_>>(), "no hole and no double");
    }
}
