use schemas::{LedgerFact, Record, Scope};

use crate::{
    Changes,
    quota::Use,
    state::ShardState,
    testing::{KEY, SHARD, World, node, quota},
};

#[test]
fn a_redelivery_changes_nothing_even_after_weeks_and_out_of_order() {
    let mut world = World::new();
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    world.call(&lease, 1);
    world.call(&lease, 1);
    let before = (world.used(), world.state.clone());
    for (_, entry) in world.log.clone() {
        if let crate::Entry::Usage { batch, .. } = entry {
            world.batch(&batch.node, batch.epoch.0, batch.first_seq, batch.records);
        }
    }
    assert_eq!(world.used(), before.0);
    assert_eq!(before.0.consumed, 2);
    world.state.seq = before.1.seq;
    assert_eq!(world.state, before.1);
}

#[test]
fn a_gap_is_seen_and_filled_later_and_each_record_counts_once() {
    let mut world = World::new();
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    let event = |units| Record::Usage(World::event(Some(&lease), world.now, units));
    let (one, two, three) = (event(1), event(10), event(100));
    world.batch(&node(1), 1, 1, vec![one]);
    world.batch(&node(1), 1, 3, vec![three]);
    let seen = &world.state.node(&node(1)).unwrap().epochs[&lease.epoch].seen;
    assert_eq!((seen.watermark, seen.first_gap()), (1, Some((2, 2))));
    world.batch(&node(1), 1, 2, vec![two]);
    assert_eq!(world.used().consumed, 111);
}

#[test]
fn a_lease_is_not_settled_while_an_event_before_it_is_missing() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    let event = Record::Usage(World::event(Some(&lease), world.now, 4));
    world.batch(&node(1), 1, 2, vec![World::closed(&lease, 4)]);
    assert_eq!(world.used(), Use { consumed: 0, outstanding: 10 });
    world.batch(&node(1), 1, 1, vec![event]);
    assert_eq!(world.used(), Use { consumed: 4, outstanding: 0 });
    assert!(world.anomalies().is_empty(), "{:?}", world.anomalies());
}

#[test]
fn an_epochs_end_settles_its_leases_with_what_was_counted() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let mine = world.ask(&node(1), 1, 1, 10).unwrap();
    let other = world.ask(&node(2), 1, 2, 10).unwrap();
    world.call(&mine, 3);
    world.records(&node(1), 1, vec![Record::EpochEnded]);
    assert_eq!(world.used(), Use { consumed: 3, outstanding: other.shares[0].units.0 });
    assert_eq!(world.state.node(&node(1)).unwrap().ended(), Some(schemas::Epoch(1)));
    world.records(&node(1), 1, vec![Record::Usage(World::event(Some(&mine), world.now, 1))]);
    assert_eq!(world.used().consumed, 3, "nothing comes after an epoch's last record");
    assert_eq!(world.changes.quarantined.len(), 1, "and it is not dropped in silence");
}

#[test]
fn what_the_protocol_excludes_is_counted_and_told() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let lease = world.ask(&node(1), 1, 1, 2).unwrap();
    world.call(&lease, 3);
    world.close(&lease, 1);
    world.call(&lease, 5);
    assert_eq!(world.used(), Use { consumed: 8, outstanding: 0 });
    assert_eq!(world.anomalies(), ["lease_mismatch", "overspent_lease", "unknown_lease"]);
}

#[test]
fn an_event_is_held_within_its_lease_whatever_the_nodes_clock_said() {
    let mut world = World::new();
    let lease = world.ask(&node(1), 1, 1, 2).unwrap();
    let wild = Record::Usage(World::event(Some(&lease), world.now.plus_ms(4 * 60_000), 1));
    world.records(&node(1), 1, vec![wild]);
    let hours: Vec<_> = world.changes.hours.keys().map(|cell| cell.hour).collect();
    assert_eq!(hours, [world.now.hour()]);
    assert_eq!(world.anomalies(), ["time_outside_lease"]);
}

#[test]
fn an_absurd_quantity_is_quarantined_not_counted() {
    let mut world = World::new();
    let lease = world.ask(&node(1), 1, 1, 2).unwrap();
    world.call(&lease, u64::MAX);
    assert_eq!((world.used().consumed, world.changes.quarantined.len()), (0, 1));
}

#[test]
fn a_forfeited_lease_keeps_its_units_and_lets_its_hour_close() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    world.ledger(vec![LedgerFact::LeaseForfeited {
        lease: lease.lease,
        tenant: lease.tenant,
        at_stake: vec![(schemas::MeterName::tool_calls(), schemas::Quantity(10))],
    }]);
    assert_eq!(world.used(), Use { consumed: 0, outstanding: 10 });
    world.now = world.now.hour().end().plus_ms(60_000);
    assert!(!world.seal().is_empty());
    assert_eq!(world.state.closed_through, Some(crate::testing::NOON.hour()));
    // It comes back after all: what it did counts, what it did not is free.
    world.call(&lease, 4);
    world.close(&lease, 4);
    assert_eq!(world.used(), Use { consumed: 4, outstanding: 0 });
}

/// A state put together from what each message changed is the state.
#[test]
fn the_stored_state_is_the_state() {
    let mut world = World::new();
    world.control(vec![quota(Scope::Key(KEY), 100)]);
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    world.call(&lease, 3);
    assert_eq!(world.reloaded(), world.state);
    world.batch(&node(1), 1, 5, vec![World::closed(&lease, 3)]); // Waits for a gap.
    let closed = world.ask(&node(2), 1, 2, 10).unwrap();
    world.close(&closed, 0);
    world.now = world.now.plus_ms(7_200_000);
    world.seal();
    assert_eq!(world.reloaded(), world.state);
}

/// A log folded again, each message twice, gives the same state.
#[test]
fn the_same_log_gives_the_same_state() {
    let mut world = World::new();
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    world.call(&lease, 3);
    world.close(&lease, 3);
    let (mut again, mut changes) = (ShardState::new(SHARD), Changes::default());
    for (seq, entry) in &world.log {
        again.apply(*seq, entry, &mut changes);
        again.apply(*seq, entry, &mut changes); // At least once is enough.
    }
    assert_eq!(again, world.state);
    assert_eq!(changes.hours, world.changes.hours);
}
