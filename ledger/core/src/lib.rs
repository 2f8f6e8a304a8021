//! The ledger's rules: a fold of one shard's order, and what may be decided on top of it.
//!
//! [`ShardState::apply`] folds one message; it is total (a fact is never refused) and a function of the log
//! alone. `decide_*` read the state and say which facts to write next; they change nothing. What a fold
//! touched is collected in [`Changes`], which the shell stores in one transaction with its checkpoint.
//!
//! Absent on purpose: time of its own, ids of its own making, any I/O.

mod change;
mod control;
mod fold;
mod grant;
mod hour;
mod key;
mod lease;
mod map;
mod node;
mod period;
mod quarantine;
mod quota;
mod rate;
mod record;
mod state;
mod tally;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod threshold;
mod view;

pub use change::{Anomaly, Changes, HourKey, Quarantined, Resolved};
pub use fold::Entry;
pub use grant::{Granting, Policy};
pub use hour::SealPolicy;
pub use key::KeyRow;
pub use lease::OpenLease;
pub use node::{EpochState, NodeState};
pub use quota::{Scopes, Use, UseKey};
pub use rate::Demand;
pub use state::{Held, ProjectRow, QuotaRow, Row, RowError, ShardState, TenantRow};
pub use threshold::THRESHOLDS;
pub use view::QuotaUse;
