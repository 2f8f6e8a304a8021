//! What time does: everything that is due by a moment happens, in the order of time, each thing at its own instant.
//!
//! [`refresh`] keeps the agenda in step with every row that changed; [`run`] takes the first entry that is due, sets the call's
//! time to it, does the step and looks again. A step that fails or changes nothing is taken off the agenda and counted as a break
//! of the description, so time never stands still. The simulator's own clock and each test clock have agendas of their own.

mod invoice;
mod subscription;

use crate::resource::{Call, test_clock};
use crate::store::World;
use crate::store::agenda::Entry;
use serde_json::Value;

/// Steps of one object at one instant after which it must have settled.
const STEPS_PER_INSTANT: u32 = 32;

/// Brings the agenda up to date with all rows that changed.
pub fn refresh(world: &mut World) {
    for id in world.store.subscriptions.take_touched() {
        let row = world.store.subscriptions.get(&id);
        let due = row.and_then(|row| subscription::due(world, row)).map(|(at, _)| at);
        let clock = row.and_then(clock_of);
        let place = world.store.subscriptions.place(&id).unwrap_or_default();
        set(world, &id, clock, due, 0, place);
    }
    for id in world.store.invoices.take_touched() {
        let row = world.store.invoices.get(&id);
        let due = row.and_then(|row| invoice::due(world, row)).map(|(at, _)| at);
        let clock = row.and_then(clock_of);
        let place = world.store.invoices.place(&id).unwrap_or_default();
        set(world, &id, clock, due, 1, place);
    }
}

fn set(world: &mut World, id: &str, clock: Option<String>, due: Option<i64>, rank: u8, place: u64) {
    let entry = due.map(|at| Entry { at, rank, place, id: id.to_owned() });
    world.agenda.set(id, clock, entry);
}

fn clock_of(row: &Value) -> Option<String> {
    row["test_clock"].as_str().map(str::to_owned)
}

/// Does everything that is due on a clock by `until` (Unix seconds, inclusive).
pub fn run(call: &mut Call<'_>, clock: Option<&str>, until: i64) {
    let mut last: (String, i64, u32) = (String::new(), 0, 0);
    loop {
        refresh(call.world);
        let Some(entry) = call.world.agenda.first(clock, until) else { return };
        match clock {
            Some(_) => call.stand_at(entry.at),
            None => call.now_ms = entry.at.saturating_mul(1000),
        }
        last = if last.0 == entry.id && last.1 == entry.at {
            (last.0, last.1, last.2 + 1)
        } else {
            (entry.id.clone(), entry.at, 1)
        };
        let outcome = if last.2 > STEPS_PER_INSTANT {
            Err("it does not settle".to_owned())
        } else {
            step(call, &entry)
        };
        if let Err(complaint) = outcome {
            call.world.tally.invalid_responses += 1;
            call.world.tally.complain(format!("{} at {}: {complaint}", entry.id, entry.at));
            call.world.agenda.set(&entry.id, None, None);
        }
    }
}

fn step(call: &mut Call<'_>, entry: &Entry) -> Result<(), String> {
    let done = if entry.rank == 0 {
        subscription::step(call, &entry.id)
    } else {
        invoice::step(call, &entry.id)
    };
    done.map_err(|error| error.message)
}

/// Moves every test clock that was told to advance to its target, and says that it is ready.
pub fn run_test_clocks(call: &mut Call<'_>) {
    for (id, target) in test_clock::advancing(call) {
        run(call, Some(&id), target);
        test_clock::arrive(call, &id, target);
    }
}
