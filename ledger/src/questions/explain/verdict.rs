//! What would become of a call: the ledger's own decision, asked of a state of the past.
//!
//! The question put is that of a node which holds nothing of the key, for calls that take one unit of each limited
//! meter. So the answer comes from the code that grants,
//! not from a second telling of its rules. Absent on purpose: what only a node knows (its rate limits, its disk).

use std::collections::BTreeMap;

use ledger_core::{Demand, Granting, OpenLease, Policy, ShardState};
use schemas::{
    Epoch, KeyId, KeyState, KeyStatus, LeaseAsk, LeaseId, LeaseRefusal, MeterName, NodeId,
    Quantity, Scope, Timestamp,
};
use serde::Serialize;

/// Whether a call is served, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(super) enum Verdict {
    /// A node holds units: it serves without asking. `elsewhere` = what any other node would meet.
    AllowedUnderLease { lease: LeaseId, node: NodeId, elsewhere: Box<Verdict> },
    /// A node that asks gets a lease of up to so many units of each limited meter; none named = unlimited.
    WouldGetLease { units: Vec<(MeterName, u64)>, until: Timestamp },
    /// A node that asks is refused.
    Refused {
        /// `revoked`, `suspended`, `pending`, `expired`, `quota_exhausted`, `units_held`, `rate_held`.
        reason: &'static str,
        /// The scope of the quota that refuses.
        #[serde(skip_serializing_if = "Option::is_none")]
        scope: Option<Scope>,
        /// The refusal ends by itself then at the latest; absent = a decision must end it.
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// In words for a person.
        detail: String,
    },
}

impl Verdict {
    /// Whether some node serves a call.
    pub fn allows(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// The verdict on a call with `key` at `now`.
pub(super) fn verdict(
    state: &ShardState,
    key: &KeyState,
    now: Timestamp,
    policy: Policy,
) -> Verdict {
    if let Some(refused) = refused_by_key(key, now) {
        return refused;
    }
    let elsewhere = asked(state, key.key, now, policy);
    let mut holding: Vec<&OpenLease> =
        state.leases().filter(|open| open.lease.key == key.key && can_spend(open, now)).collect();
    holding.sort_by_key(|open| (open.lease.expires_at, open.lease.lease));
    match holding.last() {
        Some(open) => Verdict::AllowedUnderLease {
            lease: open.lease.lease,
            node: open.lease.node.clone(),
            elsewhere: Box::new(elsewhere),
        },
        None => elsewhere,
    }
}

/// Whether its node may still spend a lease.
pub(super) fn can_spend(open: &OpenLease, now: Timestamp) -> bool {
    !open.forfeited && now < open.lease.expires_at && open.left().values().all(|units| *units > 0)
}

fn refused_by_key(key: &KeyState, now: Timestamp) -> Option<Verdict> {
    let (reason, detail) = match key.status {
        KeyStatus::Revoked => ("revoked", "the key is revoked, for ever".to_owned()),
        KeyStatus::Suspended => ("suspended", format!("the tenant is suspended: {}", key.reason)),
        KeyStatus::Pending => ("pending", key.reason.clone()),
        KeyStatus::Active => {
            let end = key.expires_at.filter(|end| *end <= now)?;
            ("expired", format!("the key expired at {end}, for ever"))
        }
    };
    Some(Verdict::Refused { reason, scope: None, until: None, detail })
}

/// What the ledger says to a node that holds nothing of the key and wants as much as there is.
fn asked(state: &ShardState, key: KeyId, now: Timestamp, policy: Policy) -> Verdict {
    let nobody: NodeId = "nobody".parse().expect("a name");
    let lease: LeaseId = format!("lease_{}", "f".repeat(32)).parse().expect("an id");
    let ask = LeaseAsk { lease, key, want: Quantity(u64::MAX), reserve: BTreeMap::new() };
    let mut demand = Demand::default(); // Who asked lately is in no log.
    match Granting::new(state, &mut demand, now, policy).ask(&nobody, Epoch(u64::MAX), &ask) {
        Ok(lease) => Verdict::WouldGetLease {
            units: lease.shares.iter().map(|share| (share.meter.clone(), share.units.0)).collect(),
            until: lease.expires_at,
        },
        Err(LeaseRefusal::QuotaExhausted { meter, scope, limit, period }) => Verdict::Refused {
            reason: "quota_exhausted",
            scope: Some(scope),
            until: Some(period.to),
            detail: format!("all {} {meter} of {scope} are spent until {}", limit.0, period.to),
        },
        Err(LeaseRefusal::UnitsHeld { meter, scope, limit, period, .. }) => Verdict::Refused {
            reason: "units_held",
            scope: Some(scope),
            until: Some(period.to),
            detail: format!(
                "what is left of {} {meter} of {scope} is held by open leases: it is free again when they are settled, \
                 or at {}",
                limit.0, period.to
            ),
        },
        Err(LeaseRefusal::RateHeld { .. }) => Verdict::Refused {
            reason: "rate_held",
            scope: None,
            until: None,
            detail: "other nodes hold all of the key's rate until their leases are settled".into(),
        },
        Err(other) => Verdict::Refused {
            reason: "refused",
            scope: None,
            until: None,
            detail: format!("the ledger refuses: {other:?}"),
        },
    }
}
