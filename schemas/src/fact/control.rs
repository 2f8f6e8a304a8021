//! Facts of `CONTROL`: what people and Stripe decided. One message is one [`Decision`] and so is atomic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    DecisionId, KeyDigest, KeyId, MeterName, Period, PeriodRule, ProjectId, Quantity, RateLimits,
    Shard, TenantId, Timestamp, UsageBatch, UsageEvent,
};

/// One message of `CONTROL`: what one command decided, on the subject of one aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    pub v: u8,
    /// The command's id: a command sent again finds its own decision by it.
    pub decision: DecisionId,
    pub at: Timestamp,
    /// Who decided: `operator`, `billing`, ... Never a secret, never an e-mail address.
    pub by: String,
    /// Whose facts these are; it names the shard that takes them in.
    pub tenant: TenantId,
    /// The shard that takes them in when they are of no tenant (`tenant` is nil then).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    pub facts: Vec<ControlFact>,
}

impl Decision {
    /// The shard that takes it in.
    #[must_use]
    pub fn shard(&self, shards: u16) -> Shard {
        self.shard.unwrap_or_else(|| Shard::of(self.tenant, shards))
    }
}

/// How a tenant's access is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BillingMode {
    /// By its Stripe subscription: keys are pending until one is active.
    Stripe,
    /// By nobody: keys are active at once.
    None,
}

/// Whether a tenant's keys may serve, as billing sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Active,
    Suspended,
}

/// What a quota limits.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Tenant(TenantId),
    Project(ProjectId),
    Key(KeyId),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tenant(id) => id.fmt(f),
            Self::Project(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
        }
    }
}

/// What happens at a quota's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaKind {
    /// No unit past the limit is ever served.
    Hard,
    /// Nothing is refused; people are told.
    Soft,
}

/// A limit of one meter over one period at one scope; there is at most one for each (scope, meter, period rule).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuotaRule {
    pub scope: Scope,
    pub meter: MeterName,
    pub limit: Quantity,
    pub kind: QuotaKind,
    pub period: PeriodRule,
}

/// One fact of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ControlFact {
    TenantCreated {
        tenant: TenantId,
        name: String,
        /// IANA name; months of this tenant's quotas begin at midnight there.
        time_zone: String,
        billing: BillingMode,
    },
    ProjectCreated {
        tenant: TenantId,
        project: ProjectId,
        name: String,
    },
    KeyCreated {
        tenant: TenantId,
        project: ProjectId,
        key: KeyId,
        name: String,
        digest: KeyDigest,
        /// What may be shown of the secret, as `tb_…1a2B`.
        hint: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        scopes: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools: Option<Vec<String>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    KeyRevoked {
        key: KeyId,
    },
    /// A key has a new secret; its former ones serve until their time.
    KeyRotated {
        key: KeyId,
        digest: KeyDigest,
        /// What may be shown of the new secret.
        hint: String,
        /// From here on the secret before this one is refused.
        former_until: Timestamp,
    },
    /// How fast a key may be used, over all nodes together; `None` = as fast as it can.
    KeyRateSet {
        key: KeyId,
        rate: Option<RateLimits>,
    },
    QuotaSet {
        quota: QuotaRule,
    },
    QuotaRemoved {
        scope: Scope,
        meter: MeterName,
        period: PeriodRule,
    },
    /// The tenant is this customer of the payment provider.
    CustomerLinked {
        tenant: TenantId,
        provider: String,
        customer: String,
    },
    /// Billing re-read the tenant's subscriptions and this is what they amount to.
    AccessChanged {
        tenant: TenantId,
        access: Access,
        /// For people: `subscription active`, `payment overdue`, `canceled`, ...
        reason: String,
        /// The subscription that decided, if one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subscription: Option<String>,
        /// The plan that it is on, as `starter@1`, if its prices name one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
    },
    /// What a tenant owes for a billing period is final, or a final statement is corrected. There is one such fact for
    /// each revision, and it never changes: what comes later is another revision.
    StatementClosed {
        tenant: TenantId,
        /// The subscription that the period is of.
        subscription: String,
        period: Period,
        /// 0 = the closing itself; from 1 on: its corrections, in order.
        revision: u32,
        /// SHA-256 of the bill's canonical text, in hexadecimal digits; empty where no plan prices the use.
        bill: String,
        /// ISO 4217, in lower case.
        currency: String,
        /// What the whole period comes to as of this revision. Unit: minor units of the currency.
        total_minor: i64,
        /// The use that it holds, of all meters.
        units: Quantity,
        /// The provider's invoice that it was tied to, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invoice: Option<String>,
    },
    /// A person has decided what becomes of something in quarantine. There is one such fact for each.
    QuarantineResolved {
        /// Where it stands on `LOG`.
        seq: u64,
        /// Which position of that message; 0 = the whole message.
        record: u64,
        resolution: Resolution,
    },
}

/// What becomes of something in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// It counts for nothing.
    Discarded { why: String },
    /// One record counts as this event; its lease has nothing to do with it any more.
    Counted(Box<UsageEvent>),
    /// The whole message is read as this one: its records count at their positions, once.
    Replayed(Box<UsageBatch>),
}
