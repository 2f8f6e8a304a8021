//! Billing: Stripe is told every unit once, and keys follow the subscription.
//!
//! Three folds (CONTROL, LOG, STRIPE), one outbox, one webhook door; `README.md` draws the picture. Absent on
//! purpose: counting (the ledger does), prices (`billing_core` has them), and changing any key.

pub mod access;
pub mod checkout;
pub mod clock;
pub mod collect;
pub mod config;
pub mod control;
pub mod drift;
pub mod fold;
pub mod lead;
pub mod outbox;
pub mod pace;
pub mod plans;
pub mod portal;
pub mod problem;
pub mod provider;
pub mod provision;
pub mod quarantine;
pub mod reports;
pub mod router;
pub mod serve;
pub mod shadow;
pub mod statement;
pub mod statements;
pub mod store;
pub mod stripe;
pub mod sweep;
pub mod webhook;
pub mod what_if;
pub mod work;
pub mod workers;

/// A random number for pauses; 0 when the system has no randomness to give.
fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}
