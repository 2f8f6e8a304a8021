//! A folder that lies elsewhere than at the last start: whoever ran there may only be frozen.

use super::*;

/// Another folder with the same files.
fn copy(from: &Path) -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
            if from.is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy_into(&from, &to);
            } else {
                std::fs::copy(&from, &to).unwrap();
            }
        }
    }
    let temp = tempfile::tempdir().unwrap();
    copy_into(from, temp.path());
    temp
}

fn start_held(path: &Path, hold: Duration) -> Arc<Spool> {
    start_with(path, SpoolLimits { hold, ..SpoolLimits::default() }).unwrap()
}

/// How often an epoch has ended in a shard.
fn ends(path: &Path, shard: u16, epoch: Epoch) -> usize {
    let ended = |record: &&(u64, u64, Option<u64>)| record.0 == epoch.0 && record.2.is_none();
    on_file(path, shard).iter().filter(ended).count()
}

fn all_ends(path: &Path, epoch: Epoch) -> Vec<usize> {
    (0..SHARDS).map(|shard| ends(path, shard, epoch)).collect()
}

/// The ledger has counted all that the spool says in a shard by now.
fn count_all(spool: &Spool, shard: u16, dead: &[(Epoch, u64)]) {
    let Position { epoch, seq, .. } = spool.appended(Shard(shard));
    let epochs = dead.iter().copied().chain([(Epoch(epoch), seq)]).collect();
    spool.release(Shard(shard), Watermark { epochs, ended: None, as_of: seq });
}

fn placed(path: &Path) -> Placed {
    serde_json::from_slice(&std::fs::read(path.join("place")).unwrap()).unwrap()
}

const LONG: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn a_copy_ends_no_epoch_before_the_ledger_refuses_it_leases_and_these_have_ended() {
    let temp = tempfile::tempdir().unwrap();
    let frozen = start(temp.path());
    frozen.append(Shard(0), &record(7)).unwrap();
    let dead = frozen.epoch();
    let other = copy(temp.path());
    let spool = start_held(other.path(), Duration::ZERO);
    let epoch = spool.epoch();
    assert!(epoch > dead && spool.accepts(), "it serves meanwhile");
    for shard in 0..SHARDS {
        assert_eq!(spool.appended(Shard(shard)), Position::new(epoch, 1), "the ledger hears of it");
    }
    count_all(&spool, 0, &[(dead, 0)]);
    until("the epoch has ended in one shard", || ends(other.path(), 0, dead) == 1);
    assert_eq!(all_ends(other.path(), dead), [1, 0, 0], "of the others the ledger knows nothing");
    spool.append(Shard(0), &record(8)).unwrap();
    count_all(&spool, 1, &[(dead, 0)]);
    count_all(&spool, 2, &[]);
    until("no epoch is held", || placed(other.path()).held.is_empty());
    assert_eq!(all_ends(other.path(), dead), [1, 1, 0], "where the ledger has it open");

    // It is said in the order of the files, and not twice.
    let late = Position { epoch: epoch.0, seq: 1, late: dead.0 };
    let (reader, first) = next(spool.reader(Shard(0))).await;
    assert_eq!((first.epoch, numbers(&first)), (dead, vec![Some(7)]));
    let (reader, own) = next(reader).await;
    assert_eq!((own.epoch, own.records, own.last), (epoch, 1, Position::new(epoch, 1)));
    let (reader, end) = next(reader).await;
    assert_eq!((end.epoch, end.first_seq, numbers(&end)), (dead, 2, vec![None]));
    assert_eq!(end.last, late);
    let (mut reader, own) = next(reader).await;
    assert_eq!((own.first_seq, numbers(&own)), (2, vec![Some(8)]));
    for (known, first_seq) in [(Position::new(epoch, 1), 2), (late, 2)] {
        reader.confirm();
        reader.seek(known);
        let batch;
        (reader, batch) = next(reader).await;
        assert_eq!((batch.first_seq, batch.last > known), (first_seq, true));
    }
    spool.stop();
    frozen.stop();
    drop((reader, spool));
    let spool = start_held(other.path(), LONG);
    assert_eq!(
        spool.appended(Shard(2)),
        Position::new(epoch, 2),
        "an end that nobody needs takes nothing back"
    );
    spool.stop();
    assert_eq!(all_ends(other.path(), dead), [1, 1, 1], "it is not ended again");
    assert_eq!(all_ends(other.path(), epoch), [1, 1, 1], "and what died here ends at once");
}

#[test]
fn a_kill_while_an_epoch_is_held_neither_forgets_nor_shortens_it() {
    let temp = tempfile::tempdir().unwrap();
    let frozen = start(temp.path());
    frozen.append(Shard(0), &record(7)).unwrap();
    let dead = frozen.epoch();
    let other = copy(temp.path());
    let spool = start_held(other.path(), LONG);
    let second = spool.epoch();
    (0..SHARDS).for_each(|shard| count_all(&spool, shard, &[]));
    until("the time runs", || placed(other.path()).until_ms.len() == usize::from(SHARDS));
    let before = placed(other.path());
    spool.stop();
    drop(spool);

    let spool = start_held(other.path(), Duration::ZERO);
    assert_eq!(placed(other.path()), before, "it goes on to wait, for as long as it was to be");
    assert_eq!(all_ends(other.path(), dead), [0, 0, 0]);
    assert_eq!(all_ends(other.path(), second), [1, 1, 1]);
    let third = copy(other.path());
    spool.stop();
    drop(spool);

    // Its time is over.
    let until_ms = (0..SHARDS).map(|shard| (shard, 0)).collect();
    let text = serde_json::to_vec(&Placed { until_ms, ..before }).unwrap();
    std::fs::write(other.path().join("place"), text).unwrap();
    let spool = start_held(other.path(), LONG);
    assert_eq!(all_ends(other.path(), dead), [0, 0, 0], "nobody knows yet what the ledger has");
    (0..SHARDS).for_each(|shard| count_all(&spool, shard, &[(dead, 0)]));
    until("no epoch is held", || placed(other.path()).held.is_empty());
    assert_eq!(all_ends(other.path(), dead), [1, 1, 1]);
    spool.stop();

    let moved = start_held(third.path(), LONG);
    let all = placed(third.path());
    assert_eq!(
        (all.held.len(), all.until_ms.len()),
        (2, 0),
        "in a third place all of it begins anew"
    );
    moved.stop();
    frozen.stop();
}

#[test]
fn a_late_end_stands_behind_all_that_the_frozen_one_said_beyond_the_copy() {
    let temp = tempfile::tempdir().unwrap();
    let frozen = start(temp.path());
    frozen.append(Shard(0), &record(7)).unwrap();
    let dead = frozen.epoch();
    let other = copy(temp.path());
    let spool = start_held(other.path(), Duration::ZERO);
    count_all(&spool, 0, &[(dead, 5)]);
    until("the epoch has ended", || ends(other.path(), 0, dead) == 1);
    assert!(on_file(other.path(), 0).contains(&(dead.0, 6, None)));
    spool.stop();
    drop(spool);
    let spool = start_held(other.path(), LONG);
    assert_eq!(ends(other.path(), 0, dead), 1, "it is read again as it is");
    spool.stop();
    frozen.stop();
}

#[test]
fn a_folder_of_a_node_that_knew_no_places_is_taken_for_a_copy_unless_it_was_stopped_in_order() {
    for clean in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let spool = start(temp.path());
        spool.append(Shard(0), &record(1)).unwrap();
        if clean {
            spool.end_epoch(&[]).unwrap();
        }
        let last = spool.epoch();
        spool.stop();
        drop(spool);
        std::fs::remove_file(temp.path().join("place")).unwrap();
        let spool = start_held(temp.path(), LONG);
        assert_eq!(placed(temp.path()).held.contains(&last.0), !clean);
        assert_eq!(ends(temp.path(), 0, last), usize::from(clean));
        spool.stop();
    }
}
