//! What cannot be counted, and what becomes of it.

use schemas::{ControlFact, Epoch, Record, Resolution, Scope, UsageBatch};

use crate::{
    Entry,
    quota::Use,
    testing::{KEY, SHARD, World, node, quota},
};

const DAY_MS: i64 = 24 * 3_600_000;

fn resolve(world: &mut World, seq: u64, record: u64, resolution: Resolution) {
    world.control(vec![ControlFact::QuarantineResolved { seq, record, resolution }]);
}

#[test]
fn an_event_that_is_too_new_or_too_old_waits_for_a_person() {
    #[track_caller]
    fn check(ahead_ms: i64, counted: u64) {
        let mut world = World::new();
        let event = World::event(None, world.now.plus_ms(ahead_ms), 1);
        world.records(&node(1), 1, vec![Record::Usage(event)]);
        let hours: u64 = world.changes.hours.values().sum();
        assert_eq!((hours, world.changes.quarantined.len() as u64), (counted, 1 - counted));
    }
    check(5 * 60_000, 1);
    check(5 * 60_000 + 1, 0);
    check(-35 * DAY_MS, 1);
    check(-35 * DAY_MS - 1, 0);
}

#[test]
fn what_a_person_releases_counts_once_and_what_he_discards_never() {
    let mut world = World::new();
    let event = World::event(None, world.now.plus_ms(-40 * DAY_MS), 3);
    let seq = world.records(&node(1), 1, vec![Record::Usage(event.clone()), Record::Usage(event)]);
    assert_eq!(world.changes.quarantined.len(), 2);
    assert_eq!(world.reloaded(), world.state);
    let right = Box::new(World::event(None, world.now, 3));
    resolve(&mut world, seq, 1, Resolution::Counted(right.clone()));
    assert_eq!(world.used(), Use { consumed: 3, outstanding: 0 });
    resolve(&mut world, seq, 1, Resolution::Counted(right));
    assert_eq!(world.used().consumed, 3, "once");
    resolve(&mut world, seq, 2, Resolution::Discarded { why: "test".into() });
    resolve(&mut world, seq, 2, Resolution::Discarded { why: "test".into() });
    assert_eq!(world.used().consumed, 3);
    assert_eq!(world.anomalies(), ["resolution_of_nothing", "resolution_of_nothing"]);
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn a_message_that_is_made_readable_fills_its_gap_and_counts_each_position_once() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let lease = world.ask(&node(1), 1, 1, 4).unwrap();
    let call = Record::Usage(World::event(Some(&lease), world.now, 1));
    world.batch(&node(1), 1, 1, vec![call.clone()]);
    let (reason, payload) = ("newer".to_owned(), "{".to_owned());
    let seq = world.put(Entry::Unreadable { reason, payload });
    world.batch(&node(1), 1, 3, vec![World::closed(&lease, 2)]);
    assert_eq!(world.used(), Use { consumed: 1, outstanding: 3 }, "the closing waits for the gap");
    let records = vec![call.clone(), call];
    let epoch = Epoch(1);
    let batch = UsageBatch { v: 1, node: node(1), epoch, shard: SHARD, first_seq: 1, records };
    resolve(&mut world, seq, 0, Resolution::Replayed(Box::new(batch)));
    assert_eq!(
        world.used(),
        Use { consumed: 2, outstanding: 0 },
        "only the position that was missing"
    );
    assert!(world.anomalies().is_empty(), "{:?}", world.anomalies());
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn two_replays_in_one_message_have_places_of_their_own() {
    let mut world = World::new();
    let unreadable = || Entry::Unreadable { reason: "x".into(), payload: "x".into() };
    let (first, second) = (world.put(unreadable()), world.put(unreadable()));
    let old = Record::Usage(World::event(None, world.now.plus_ms(-40 * DAY_MS), 1));
    let replayed = |seq, n| {
        let (epoch, records) = (Epoch(1), vec![old.clone()]);
        let batch = UsageBatch { v: 1, node: node(n), epoch, shard: SHARD, first_seq: 1, records };
        let resolution = Resolution::Replayed(Box::new(batch));
        ControlFact::QuarantineResolved { seq, record: 0, resolution }
    };
    let seq = world.control(vec![replayed(first, 1), replayed(second, 2)]);
    let places: Vec<_> = world.changes.quarantined[2..].iter().map(|q| (q.seq, q.record)).collect();
    assert_eq!(places, [(seq, 1), (seq, 1 + (1 << 40))]);
    for (seq, record) in places {
        resolve(&mut world, seq, record, Resolution::Discarded { why: "test".into() });
    }
    assert!(world.anomalies().is_empty(), "{:?}", world.anomalies());
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn a_decision_that_cannot_be_read_holds_nothing_up() {
    let mut world = World::new();
    let unreadable = |control_seq| schemas::LedgerFact::ControlUnreadable {
        control_seq,
        reason: "not JSON".into(),
        excerpt: "x".into(),
    };
    let seq = world.ledger(vec![unreadable(7), unreadable(8)]);
    assert_eq!((world.state.control_seq, world.changes.quarantined.len()), (8, 2));
    resolve(&mut world, seq, 7, Resolution::Discarded { why: "said again".into() });
    assert!(world.anomalies().is_empty());
    assert_eq!(world.reloaded(), world.state);
}

#[test]
fn a_lease_whose_node_never_came_back_is_written_off_after_its_time() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let lost = world.ask(&node(1), 1, 1, 4).unwrap();
    world.call(&lost, 1);
    world.now = lost.expires_at.plus_ms(DAY_MS - 1);
    assert_eq!(world.state.decide_forfeits(world.now, DAY_MS), []);
    world.now = lost.expires_at.plus_ms(DAY_MS);
    let facts = world.state.decide_forfeits(world.now, DAY_MS);
    let [schemas::LedgerFact::LeaseForfeited { lease, at_stake, .. }] = facts.as_slice() else {
        panic!("{facts:?}")
    };
    assert_eq!((*lease, at_stake[0].1.0), (lost.lease, 3));
    world.ledger(facts);
    assert_eq!(world.state.decide_forfeits(world.now, DAY_MS), [], "once");
    assert_eq!(world.used(), Use { consumed: 1, outstanding: 3 }, "they may have been spent");
    assert_eq!(world.reloaded(), world.state);
}
