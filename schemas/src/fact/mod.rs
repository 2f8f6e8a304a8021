//! Facts: what the streams hold. Each stream's message is one of these types, in JSON, with its version `v`.
//!
//! A stored fact is read for ever: fields are only ever added, with a default, and `golden/` proves it.

pub mod control;
pub mod ledger;
mod record;
pub mod usage;

/// The version that this code writes in every message.
pub const VERSION: u8 = 1;
