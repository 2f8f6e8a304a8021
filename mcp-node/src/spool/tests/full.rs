//! A disk without room, in a write and in an fsync.

use std::{io::ErrorKind, os::unix::fs::FileExt};

use super::*;

/// The segment that is written to.
fn active(spool: &Spool) -> Arc<Segment> {
    spool.files.lock().active_mut().segment.clone()
}

fn is_in(spool: &Spool, trouble: &str) -> bool {
    spool.trouble().is_some_and(|why| why.starts_with(trouble))
}

#[test]
fn a_record_that_found_no_room_leaves_no_hole_and_the_next_is_taken_when_there_is_some() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
        let temp = tempfile::tempdir().unwrap();
        let spool = start(temp.path());
        spool.append(Shard(0), &record(1)).unwrap();
        let segment = active(&spool);
        *segment.file.faults.write.lock() = Some((kind, 150));
        assert!(spool.append(Shard(0), &record(2)).is_err(), "half of it is in the file");
        assert!(
            !spool.accepts() && is_in(&spool, "no room on the disk since 2"),
            "{:?}",
            spool.trouble()
        );
        assert!(spool.append(Shard(1), &record(3)).is_err());
        spool.append(Shard(0), &closed()).unwrap();
        spool.mend();
        assert!(!spool.accepts(), "there is no room yet");
        *segment.file.faults.write.lock() = None;
        until("there is room", || spool.accepts());
        assert_eq!(spool.trouble(), None);
        spool.append(Shard(0), &record(4)).unwrap();
        let epoch = spool.epoch();
        assert_eq!(
            spool.appended(Shard(0)),
            Position::new(epoch, 3),
            "with the lease that was closed"
        );
        assert_eq!(on_file(temp.path(), 0), [(epoch.0, 1, Some(1)), (epoch.0, 3, Some(4))]);
        spool.stop();
        drop(spool);
        start(temp.path()).stop();
        assert_eq!(on_file(temp.path(), 0)[..2], [(epoch.0, 1, Some(1)), (epoch.0, 3, Some(4))]);
    }
}

#[test]
fn what_an_fsync_without_room_may_have_dropped_is_written_again_before_more_is_taken() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    let segment = active(&spool);
    *segment.file.faults.sync.lock() = Some(ErrorKind::StorageFull);
    spool.append(Shard(0), &record(1)).unwrap();
    until("the fsync has failed", || is_in(&spool, "no room"));
    assert!(segment.file.sync().is_err(), "a later fsync that went well would prove nothing");
    assert!(spool.append(Shard(0), &record(2)).is_err());
    *segment.file.faults.sync.lock() = None;
    assert!(segment.file.sync().is_err(), "nor does it now");
    until("there is room", || spool.accepts());
    segment.file.sync().unwrap();
    spool.append(Shard(0), &record(3)).unwrap();
    let epoch = spool.epoch().0;
    assert_eq!(on_file(temp.path(), 0), [(epoch, 1, Some(1)), (epoch, 2, Some(3))]);
    spool.stop();
}

#[test]
fn records_that_an_fsync_has_lost_break_the_spool() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    let segment = active(&spool);
    *segment.file.faults.sync.lock() = Some(ErrorKind::StorageFull);
    spool.append(Shard(0), &record(1)).unwrap();
    until("the fsync has failed", || is_in(&spool, "no room"));
    {
        let files = spool.files.lock(); // Nobody mends meanwhile.
        let end = files.end().at;
        let file = OpenOptions::new().write(true).open(&segment.path).unwrap();
        file.write_all_at(&[0; 60], end - 60).unwrap();
    }
    *segment.file.faults.sync.lock() = None;
    until("it is broken", || is_in(&spool, "broken since"));
    assert!(spool.trouble().unwrap().contains("lost"), "{:?}", spool.trouble());
    assert!(spool.append(Shard(0), &record(2)).is_err());
    spool.stop();
}

#[test]
fn an_fsync_that_failed_for_another_reason_breaks_the_spool() {
    let temp = tempfile::tempdir().unwrap();
    let spool = start(temp.path());
    *active(&spool).file.faults.sync.lock() = Some(ErrorKind::Other);
    spool.append(Shard(0), &record(1)).unwrap();
    until("it is broken", || is_in(&spool, "broken since"));
    *active(&spool).file.faults.sync.lock() = None;
    spool.mend();
    assert!(!spool.accepts(), "until the next start");
    spool.stop();
    drop(spool);
    start(temp.path()).stop();
    assert_eq!(on_file(temp.path(), 0)[0].2, Some(1));
}
