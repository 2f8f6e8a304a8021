use schemas::{Hour, LedgerFact, SealLine};

use crate::testing::{NOON, World, node};

/// The seals that say something was used.
fn lines(facts: &[LedgerFact]) -> Vec<(Hour, bool, Vec<u64>)> {
    facts
        .iter()
        .filter_map(|fact| match fact {
            LedgerFact::HourSealed { hour, closed, lines, .. } if !lines.is_empty() => {
                Some((*hour, *closed, lines.iter().map(|line: &SealLine| line.delta.0).collect()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn an_hour_closes_when_no_lease_reaches_back_into_it() {
    let mut world = World::new();
    world.now = NOON.plus_ms(3_599_000); // The last second of the hour.
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    world.call(&lease, 2);
    world.now = NOON.plus_ms(3_600_000 + 30_000);
    assert_eq!(
        lines(&world.seal()),
        [(NOON.hour(), false, vec![2])],
        "its lease is open: it is sealed in part"
    );
    world.records(
        &node(1),
        1,
        vec![schemas::Record::Usage(World::event(Some(&lease), NOON.plus_ms(3_599_500), 5))],
    );
    assert_eq!(world.seal(), [], "not again so soon");
    world.close(&lease, 7);
    assert_eq!(lines(&world.seal()), [(NOON.hour(), true, vec![5])]);
    assert_eq!(world.state.closed_through, Some(NOON.hour()));
    assert_eq!(world.changes.closed_hours[&NOON.hour()].1, [node(1)]);
}

#[test]
fn usage_for_a_closed_hour_is_a_line_of_its_own() {
    let mut world = World::new();
    world.now = NOON.plus_ms(2 * 3_600_000);
    world.seal();
    let late = World::event(None, NOON.plus_ms(1), 3);
    world.records(&node(1), 1, vec![schemas::Record::Usage(late)]);
    world.now = world.now.plus_ms(400_000);
    let facts = world.seal();
    assert_eq!(lines(&facts), [(NOON.hour(), false, vec![3])]);
    assert_eq!(world.seal(), []);
}

#[test]
fn what_is_sealed_in_parts_adds_up_and_every_line_has_its_own_name() {
    let mut world = World::new();
    let lease = world.ask(&node(1), 1, 1, 10).unwrap();
    let mut all = Vec::new();
    for minute in 1..=30 {
        world.now = NOON.plus_ms(minute * 60_000);
        world.call(&lease, 1);
        all.extend(world.seal());
    }
    world.close(&lease, 0);
    world.now = NOON.plus_ms(2 * 3_600_000);
    all.extend(world.seal());
    let lines: Vec<SealLine> = all
        .into_iter()
        .flat_map(|fact| match fact {
            LedgerFact::HourSealed { lines, .. } => lines,
            _ => vec![],
        })
        .collect();
    assert_eq!(lines.iter().map(|line| line.delta.0).sum::<u64>(), 30);
    assert!(lines.len() >= 6, "every five minutes: {}", lines.len());
    assert!(lines.windows(2).all(|pair| pair[0].revision < pair[1].revision));
}

#[test]
fn a_shard_with_no_tenant_says_nothing() {
    let state = crate::ShardState::new(crate::testing::SHARD);
    assert!(state.decide_seals(NOON, crate::testing::SEALS).is_empty());
}
