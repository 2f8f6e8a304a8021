//! The language of Tollbook: ids, quantities, time, facts, questions between services, names on the log.
//!
//! Pure: no clock, no ids of its own making, no I/O. What is stored for ever (`fact`) is versioned and
//! frozen by the samples under `golden/`; what services ask each other (`lease`, `key`) may move together
//! with the services. Absent on purpose: deciding anything (see the cores) and talking to anything.

pub mod fact;
pub mod id;
pub mod key;
pub mod lease;
pub mod name;
pub mod period;
pub mod position;
pub mod quantity;
pub mod secret;
pub mod shard;
pub mod subject;
mod text;
pub mod time;
pub mod trace;

pub use fact::control::{
    Access, BillingMode, ControlFact, Decision, QuotaKind, QuotaRule, Resolution, Scope,
};
pub use fact::ledger::{LedgerBatch, LedgerFact, SealLine};
pub use fact::usage::{Outcome, Record, RefusalReason, UsageBatch, UsageEvent};
pub use id::{DecisionId, KeyId, LeaseId, ProjectId, TenantId};
pub use key::{KeyState, KeyStatus};
pub use lease::{
    Lease, LeaseAnswer, LeaseAsk, LeaseRefusal, LeaseReply, LeaseRequest, Notice, RateLimits,
    Reserve, Share, Watermark,
};
pub use name::{MeterName, NodeId, TOOL_CALLS};
pub use period::{Period, PeriodRule};
pub use position::{Epoch, Seen};
pub use quantity::{AmountError, Quantity};
pub use secret::KeyDigest;
pub use shard::Shard;
pub use time::{Hour, Timestamp};
pub use trace::Trace;
