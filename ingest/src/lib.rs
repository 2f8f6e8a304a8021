//! `LOG` into ClickHouse, each record exactly once: raw rows, an hourly rollup, and a quarantine.
//!
//! The mark (`max(stream_seq)` of the raw table) is the only checkpoint, and every INSERT compares itself with
//! it inside the statement, so a lost answer, a late request or a second process can neither lose nor repeat a
//! row. The README has the protocol and its proof. Absent on purpose: acknowledgements on NATS, deduplication
//! windows, materialised views, and any number that an invoice is made from (those are the ledger's).

mod append;
mod batch;
pub mod config;
mod decode;
pub mod error;
mod incarnation;
pub mod migrate;
mod positions;
mod pump;
mod quarantine;
mod rollup;
mod row;
mod run;
mod write;

pub use config::Config;
pub use error::IngestError;
pub use run::run;
