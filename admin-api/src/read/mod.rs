//! What is read from elsewhere: usage from ClickHouse, counts from the ledger's read model. Nothing is written.

pub mod ledger;
pub mod span;
pub mod usage;
