//! Names on NATS: streams, subjects, buckets, and what each stream must be configured as.

use std::time::Duration;

use crate::{KeyDigest, NodeId, Shard, fact::control::ControlFact};

/// The stream of decisions: kept for ever.
pub const CONTROL: &str = "CONTROL";
/// The stream of verified webhooks, raw: kept for ever.
pub const STRIPE: &str = "STRIPE";
/// The stream of usage and the ledger's own facts.
pub const LOG: &str = "LOG";
/// The bucket of key states, by the digest of the secret.
pub const KEYS: &str = "keys";
/// The bucket of what the ledger has folded, by `<node>.<shard>`.
pub const WATERMARKS: &str = "watermarks";

/// The metadata entry of `LOG` that says how many shards it was born with.
pub const SHARDS_METADATA: &str = "tollbook.shards";

/// What a stream must be; the shell makes it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    pub name: &'static str,
    pub subjects: &'static [&'static str],
    /// How long messages are kept; `None` = for ever.
    pub max_age: Option<Duration>,
    /// The largest message. Unit: bytes.
    pub max_message_bytes: i32,
}

/// The three streams. All of them refuse new messages when full, and refuse deletes and purges.
pub const STREAMS: [StreamSpec; 3] = [
    StreamSpec {
        name: CONTROL,
        subjects: &["control.>"],
        max_age: None,
        max_message_bytes: 256 * 1024,
    },
    StreamSpec {
        name: STRIPE,
        subjects: &["stripe.event.*"],
        max_age: None,
        max_message_bytes: 1024 * 1024,
    },
    StreamSpec {
        name: LOG,
        subjects: &["usage.*.*", "ledger.*"],
        // At least the 35 days in which Stripe takes late usage, and some to see and mend trouble in.
        max_age: Some(Duration::from_secs(40 * 24 * 3600)),
        max_message_bytes: 1024 * 1024,
    },
];

/// A key-value bucket whose entries are pushed on a core subject: a node listens there, not with a watcher of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSpec {
    pub name: &'static str,
    /// Entries are republished on `<push>.<key>`.
    pub push: &'static str,
}

pub const BUCKETS: [BucketSpec; 2] = [
    BucketSpec { name: KEYS, push: "push.keys" },
    BucketSpec { name: WATERMARKS, push: "push.watermarks" },
];

/// Where a node's records of one shard go.
#[must_use]
pub fn usage(shard: Shard, node: &NodeId) -> String {
    format!("usage.{shard}.{node}")
}

/// Where the ledger's facts of one shard go.
#[must_use]
pub fn ledger(shard: Shard) -> String {
    format!("ledger.{shard}")
}

/// The request subject for leases.
#[must_use]
pub fn lease_ask(shard: Shard) -> String {
    format!("lease.ask.{shard}")
}

/// Where the ledger recalls units.
#[must_use]
pub fn lease_recall(shard: Shard) -> String {
    format!("lease.recall.{shard}")
}

/// Where a verified webhook goes.
#[must_use]
pub fn stripe_event(id: &str) -> String {
    format!("stripe.event.{id}")
}

/// The entry of a key in the bucket `keys`.
#[must_use]
pub fn key_entry(digest: &KeyDigest) -> String {
    digest.to_string()
}

/// The entry of a node in the bucket `watermarks`.
#[must_use]
pub fn watermark_entry(node: &NodeId, shard: Shard) -> String {
    format!("{node}.{shard}")
}

/// The subject of the aggregate that a control fact belongs to: `control.<aggregate>.<id>`. A decision goes to the
/// subject of its first fact.
#[must_use]
pub fn control(fact: &ControlFact) -> String {
    match fact {
        ControlFact::TenantCreated { tenant, .. } => format!("control.tenant.{tenant}"),
        ControlFact::ProjectCreated { project, .. } => format!("control.project.{project}"),
        ControlFact::KeyCreated { key, .. }
        | ControlFact::KeyRevoked { key }
        | ControlFact::KeyRotated { key, .. }
        | ControlFact::KeyRateSet { key, .. } => format!("control.key.{key}"),
        ControlFact::QuotaSet { quota } => format!("control.quota.{}", quota.scope),
        ControlFact::QuotaRemoved { scope, .. } => format!("control.quota.{scope}"),
        ControlFact::CustomerLinked { tenant, .. } | ControlFact::AccessChanged { tenant, .. } => {
            format!("control.subscription.{tenant}")
        }
        ControlFact::StatementClosed { tenant, subscription, period, revision, .. } => {
            format!("control.statement.{tenant}_{subscription}_{}_{revision}", period.from.0)
        }
        ControlFact::QuarantineResolved { seq, record, .. } => {
            format!("control.quarantine.{seq}_{record}")
        }
    }
}
