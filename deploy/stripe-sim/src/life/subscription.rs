//! What is due for a subscription, and doing it.
//!
//! [`due`] reads it off the document: the earliest of all that can happen, ties in the order of [`Step`]. A notice is given once for
//! what it is about. A paused subscription and one that has ended wait for nothing.

use crate::error::ApiError;
use crate::resource::Call;
use crate::resource::invoice::pay;
use crate::resource::subscription::{self, roll, state};
use crate::store::World;
use crate::store::table::id_of;
use serde_json::{Value, json};

const DAY_S: i64 = 86_400;
/// How long a first payment may stay open.
const INCOMPLETE_S: i64 = 23 * 3_600;
/// How long before its end a trial is announced to end.
const TRIAL_NOTICE_S: i64 = 3 * DAY_S;

/// What can be due. Earlier ones go first at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Expire,
    ResumeCollection,
    TrialWillEnd,
    Upcoming,
    Cancel,
    Roll,
}

/// The next step and its second.
pub fn due(world: &World, row: &Value) -> Option<(i64, Step)> {
    let status = row["status"].as_str()?;
    let end = row["items"]["data"][0]["current_period_end"].as_i64()?;
    match status {
        "canceled" | "incomplete_expired" | "paused" => return None,
        "incomplete" => return Some((row["created"].as_i64()? + INCOMPLETE_S, Step::Expire)),
        _ => {}
    }
    let cancel = row["cancel_at"].as_i64();
    let ends = cancel.is_some_and(|at| at <= end);
    let unless_noticed = |what: &'static str, about: i64, at: i64| {
        let key = (id_of(row).to_owned(), what, about);
        (!world.store.noticed.contains(&key)).then_some(at)
    };
    let trial = row["trial_end"].as_i64().filter(|_| status == "trialing").and_then(|about| {
        let start = row["trial_start"].as_i64().unwrap_or(about);
        unless_noticed("trial_will_end", about, (about - TRIAL_NOTICE_S).max(start))
    });
    let days = world.settings.upcoming_days;
    let start = row["items"]["data"][0]["current_period_start"].as_i64().unwrap_or_default();
    let upcoming = (days > 0 && !ends && status != "unpaid")
        .then(|| unless_noticed("upcoming", end, (end - days * DAY_S).max(start)))
        .flatten();
    let candidates = [
        (row["pause_collection"]["resumes_at"].as_i64(), Step::ResumeCollection),
        (trial, Step::TrialWillEnd),
        (upcoming, Step::Upcoming),
        (cancel.filter(|_| ends), Step::Cancel),
        (Some(end).filter(|_| !ends), Step::Roll),
    ];
    candidates.into_iter().filter_map(|(at, step)| Some((at?, step))).min()
}

/// Does what is due.
///
/// # Errors
/// 400 for an amount past 63 bits or a date past the calendar.
pub fn step(call: &mut Call<'_>, id: &str) -> Result<(), ApiError> {
    let Some(row) = call.world.store.subscriptions.get(id).cloned() else { return Ok(()) };
    let Some((_, step)) = due(call.world, &row) else { return Ok(()) };
    let end = row["items"]["data"][0]["current_period_end"].as_i64().unwrap_or_default();
    match step {
        Step::Expire => expire(call, row),
        Step::ResumeCollection => {
            let mut row = row;
            row["pause_collection"] = Value::Null;
            state::save(call, row, "customer.subscription.updated");
        }
        Step::TrialWillEnd => {
            let about = row["trial_end"].as_i64().unwrap_or(end);
            notice(call, id, "trial_will_end", about);
            let shown = subscription::render(&call.world.store, &row);
            call.emit("customer.subscription.trial_will_end", &shown, None);
        }
        Step::Upcoming => {
            notice(call, id, "upcoming", end);
            let shown = crate::resource::preview::upcoming(call, &row)?;
            call.emit("invoice.upcoming", &shown, None);
        }
        Step::Cancel => roll::end(call, row)?,
        Step::Roll => roll::roll(call, row)?,
    }
    Ok(())
}

fn notice(call: &mut Call<'_>, id: &str, what: &'static str, about: i64) {
    call.store().noticed.insert((id.to_owned(), what, about));
    call.store().subscriptions.touch(id);
}

/// The first payment never came: the subscription is over and its invoice void.
fn expire(call: &mut Call<'_>, row: Value) {
    let invoice = row["latest_invoice"].as_str().and_then(|id| call.world.store.invoices.get(id));
    let open = invoice.filter(|invoice| invoice["status"] == "open").cloned();
    let mut row = row;
    row["canceled_at"] = json!(call.now());
    state::finish(call, row, "incomplete_expired");
    if let Some(invoice) = open {
        pay::void(call, invoice);
    }
}
