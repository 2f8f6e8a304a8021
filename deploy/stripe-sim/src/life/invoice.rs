//! What is due for an invoice: its finalization, the next try of a payment, its due date.

use crate::error::ApiError;
use crate::resource::Call;
use crate::resource::invoice::{self, finalize, pay};
use crate::resource::subscription::state;
use crate::store::World;
use crate::store::table::id_of;
use serde_json::Value;

/// What can be due. Earlier ones go first at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Finalize,
    Retry,
    Overdue,
}

/// The next step and its second.
pub fn due(world: &World, row: &Value) -> Option<(i64, Step)> {
    match row["status"].as_str()? {
        "draft" if row["auto_advance"] == true => {
            Some((row["automatically_finalizes_at"].as_i64()?, Step::Finalize))
        }
        "open" if row["collection_method"] == "send_invoice" => {
            let at = row["due_date"].as_i64()?;
            let key = (id_of(row).to_owned(), "overdue", at);
            (!world.store.noticed.contains(&key)).then_some((at, Step::Overdue))
        }
        "open" => Some((row["next_payment_attempt"].as_i64()?, Step::Retry)),
        _ => None,
    }
}

/// Does what is due.
///
/// # Errors
/// 400 for an amount past 63 bits.
pub fn step(call: &mut Call<'_>, id: &str) -> Result<(), ApiError> {
    let Some(row) = call.world.store.invoices.get(id).cloned() else { return Ok(()) };
    let Some((at, step)) = due(call.world, &row) else { return Ok(()) };
    match step {
        Step::Finalize => drop(finalize::finalize(call, row, true)?),
        Step::Retry => drop(pay::attempt(call, id, pay::Trigger::Schedule)),
        Step::Overdue => {
            call.store().noticed.insert((id.to_owned(), "overdue", at));
            call.store().invoices.touch(id);
            call.emit("invoice.overdue", &invoice::render(&row), None);
            if let Some(own) = finalize::subscription_of(call, &row) {
                state::unpaid(call, own, None);
            }
        }
    }
    Ok(())
}
