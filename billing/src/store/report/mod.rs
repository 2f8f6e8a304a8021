//! Meter reports: written frozen by the fold of LOG, moved on by the outbox, summed up for people.

pub mod outbox;
pub mod sealed;
pub mod totals;

use billing_core::report::{Progress, Row, Segment, State};
use schemas::{Hour, Quantity, Timestamp};
use sqlx::FromRow;

use super::{StoreError, corrupt};

/// A report with a customer: what the outbox works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub row: Row,
    pub identifier: String,
    pub progress: Progress,
}

/// The columns of a [`Report`].
#[derive(FromRow)]
struct ReportRow {
    tenant_id: String,
    meter: String,
    hour: i64,
    segment: i32,
    revision: i64,
    quantity: i64,
    event_s: i64,
    customer: String,
    identifier: String,
    state: String,
    first_sent_at_ms: Option<i64>,
    last_sent_at_ms: Option<i64>,
    attempts: i64,
    server_errors: i64,
    due_at_ms: i64,
}

fn bad(column: &'static str) -> impl Fn(Box<dyn std::error::Error>) -> StoreError {
    move |error| corrupt("meter_report", column, error)
}

impl TryFrom<ReportRow> for Report {
    type Error = StoreError;

    fn try_from(row: ReportRow) -> Result<Self, StoreError> {
        let small =
            |number: i64, column| u32::try_from(number).map_err(|error| bad(column)(error.into()));
        Ok(Self {
            progress: Progress {
                state: state(&row.state)
                    .ok_or_else(|| corrupt("meter_report", "state", &row.state))?,
                first_sent_at: row.first_sent_at_ms.map(Timestamp),
                last_sent_at: row.last_sent_at_ms.map(Timestamp),
                attempts: small(row.attempts, "attempts")?,
                server_errors: small(row.server_errors, "server_errors")?,
                due_at: Timestamp(row.due_at_ms),
            },
            row: Row {
                tenant: row
                    .tenant_id
                    .parse()
                    .map_err(|error: schemas::id::IdError| bad("tenant_id")(error.into()))?,
                customer: row.customer,
                meter: row
                    .meter
                    .parse()
                    .map_err(|error: schemas::name::NameError| bad("meter")(error.into()))?,
                hour: Hour(row.hour),
                segment: Segment {
                    index: u16::try_from(row.segment)
                        .map_err(|error| bad("segment")(error.into()))?,
                    from: Timestamp(row.event_s.saturating_mul(1000)),
                },
                revision: u64::try_from(row.revision)
                    .map_err(|error| bad("revision")(error.into()))?,
                quantity: Quantity(
                    u64::try_from(row.quantity).map_err(|error| bad("quantity")(error.into()))?,
                ),
            },
            identifier: row.identifier,
        })
    }
}

/// The word of a state in the table.
fn word(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Sent => "sent",
        State::Ambiguous => "ambiguous",
        State::Accepted => "accepted",
        State::Rejected => "rejected",
        State::Disputed => "disputed",
        State::Carried => "carried",
    }
}

/// The state of a word; `None` also for `not_reportable`, which the outbox never sees.
fn state(word: &str) -> Option<State> {
    Some(match word {
        "pending" => State::Pending,
        "sent" => State::Sent,
        "ambiguous" => State::Ambiguous,
        "accepted" => State::Accepted,
        "rejected" => State::Rejected,
        "disputed" => State::Disputed,
        "carried" => State::Carried,
        _ => return None,
    })
}
