//! Meter reports: how sealed usage reaches the payment provider once, whatever fails on the way.
//!
//! A [`Row`] is frozen at its sealing; a [`Progress`] is all that moves. The shell writes `write_ahead` down before
//! it sends and `conclude` (or `read_back`) after; between any two of these steps it may be killed.
//! Absent on purpose: corrections of what an invoice has closed over, and splitting an hour at a period's edge.

mod readback;
mod row;
mod state;

pub use readback::{Books, read_back};
pub use row::{Account, Row, Segment};
pub use state::{
    Action, BACKOFF, CARRY_AFTER_MS, Outcome, Progress, READ_BACK_AFTER_MS, RETRY_FOR_MS, State,
    conclude, idempotency_key, next, write_ahead,
};
