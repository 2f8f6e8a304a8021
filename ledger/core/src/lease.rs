//! Open leases: what they may still spend, and how they are settled.

use std::collections::BTreeMap;

use schemas::{Epoch, Lease, LeaseId, LedgerFact, MeterName, NodeId, Quantity, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    change::Changes,
    quota::Scopes,
    state::{Held, ShardState},
};

/// How long the id of a settled lease is remembered, so that a question for it that was delayed on the way is not
/// answered with a second lease. Unit: milliseconds of the ledger's time. Far longer than any request lives.
const SETTLED_KEPT_MS: i64 = 600_000;

/// How many leases are written off by one message at most.
const MAX_FORFEITS: usize = 500;

/// A lease that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLease {
    pub lease: Lease,
    /// What was counted under it, of the meters that it limits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<MeterName, u64>,
    /// The sequence of its grant: what is counted only from a later one on knows nothing of it.
    #[serde(default)]
    pub granted_seq: u64,
    /// Written off: it holds its units for the rest of its period, but no hour waits for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forfeited: bool,
}

impl OpenLease {
    pub(crate) fn scopes(&self) -> Scopes {
        Scopes { tenant: self.lease.tenant, project: self.lease.project, key: self.lease.key }
    }

    /// What it may still spend of each limited meter.
    pub(crate) fn unspent(&self) -> impl Iterator<Item = (&MeterName, u64)> {
        self.lease.shares.iter().map(|share| {
            let spent = self.spent.get(&share.meter).copied().unwrap_or(0);
            (&share.meter, share.units.0.saturating_sub(spent))
        })
    }
}

impl ShardState {
    /// A lease is granted; or void, when its epoch ended (or it was closed) between the decision and this place in
    /// the order: the process that asked is gone, so nobody will spend it and nobody will close it.
    pub(crate) fn lease_granted(&mut self, seq: u64, lease: &Lease, out: &mut Changes) {
        let over = self.nodes.get(&lease.node).is_some_and(|node| node.is_over(lease.epoch));
        if over || self.settled.contains_key(&lease.lease) {
            self.settled.insert(lease.lease, self.at);
            out.held.insert(Held::Settled(lease.lease));
            return;
        }
        let open = OpenLease {
            lease: lease.clone(),
            spent: BTreeMap::new(),
            granted_seq: seq,
            forfeited: false,
        };
        for share in &lease.shares {
            self.add_outstanding(&open, &share.meter, signed(share.units.0), out);
        }
        self.nodes.entry(lease.node.clone()).or_default().epochs.entry(lease.epoch).or_default();
        out.held.insert(Held::Node(lease.node.clone()));
        out.held.insert(Held::Lease(lease.lease));
        self.put_lease(open);
    }

    /// Puts an open lease where it is looked for.
    pub(crate) fn put_lease(&mut self, open: OpenLease) {
        for scope in open.scopes().all() {
            self.open_leases.entry(scope).or_default().add(&open.lease, Some(open.granted_seq));
        }
        if !open.forfeited {
            self.by_age.insert((open.lease.granted_at, open.lease.lease));
        }
        self.leases.insert(open.lease.lease, open);
    }

    /// Settles a lease: what it did not spend is free again.
    pub(crate) fn settle(&mut self, seq: u64, lease: LeaseId, out: &mut Changes) -> bool {
        let Some(open) = self.leases.remove(&lease) else { return false };
        for (meter, unspent) in open.unspent() {
            self.add_outstanding(&open, meter, -signed(unspent), out);
        }
        for (meter, spent) in &open.spent {
            let units = open.lease.share(meter).unwrap_or(Quantity::ZERO).0;
            if *spent > units {
                out.anomaly(
                    seq,
                    "overspent_lease",
                    format!("{lease} spent {spent} of {units} {meter}"),
                );
            }
        }
        self.forget_open(&open);
        self.settled.insert(lease, self.at);
        out.held.extend([Held::Settled(lease), Held::Lease(lease)]);
        true
    }

    /// The node says that it has done with a lease: it must have counted what we counted.
    pub(crate) fn lease_closed(
        &mut self,
        seq: u64,
        lease: LeaseId,
        spent: &BTreeMap<MeterName, Quantity>,
        out: &mut Changes,
    ) {
        let Some(open) = self.leases.get(&lease) else {
            // Never granted (the question is still on its way), or settled before: remember that it is over.
            self.settled.insert(lease, self.at);
            out.held.insert(Held::Settled(lease));
            return;
        };
        for share in &open.lease.shares {
            let counted = open.spent.get(&share.meter).copied().unwrap_or(0);
            let said = spent.get(&share.meter).copied().unwrap_or(Quantity::ZERO).0;
            if counted != said {
                let detail =
                    format!("{lease}: the node says {said} {}, the log has {counted}", share.meter);
                out.anomaly(seq, "lease_mismatch", detail);
            }
        }
        self.settle(seq, lease, out);
    }

    pub(crate) fn settle_epoch(
        &mut self,
        seq: u64,
        node: &NodeId,
        epoch: Epoch,
        out: &mut Changes,
    ) {
        let mut of_epoch: Vec<LeaseId> = self
            .leases
            .values()
            .filter(|open| open.lease.epoch == epoch && open.lease.node == *node)
            .map(|open| open.lease.lease)
            .collect();
        of_epoch.sort_unstable();
        for lease in of_epoch {
            self.settle(seq, lease, out);
        }
    }

    pub(crate) fn forfeited(&mut self, seq: u64, lease: LeaseId, out: &mut Changes) {
        match self.leases.get_mut(&lease) {
            Some(open) => {
                open.forfeited = true;
                self.by_age.remove(&(open.lease.granted_at, lease));
                out.held.insert(Held::Lease(lease));
            }
            None => out.anomaly(seq, "forfeit_of_nothing", lease.to_string()),
        }
    }

    /// Forgets what was settled long ago; once a minute of the ledger's own time, as it passes from `before` to `now`.
    pub(crate) fn forget_settled(&mut self, before: Timestamp, now: Timestamp, out: &mut Changes) {
        if before.0.div_euclid(60_000) == now.0.div_euclid(60_000) {
            return;
        }
        self.settled.retain(|lease, at| {
            let keep = now.ms_since(*at) < SETTLED_KEPT_MS;
            if !keep {
                out.held.insert(Held::Settled(*lease));
            }
            keep
        });
    }

    /// The leases to write off at `now`: their nodes did not come back for `after_ms` after their end.
    #[must_use]
    pub fn decide_forfeits(&self, now: Timestamp, after_ms: i64) -> Vec<LedgerFact> {
        let now = now.max(self.at);
        let old = self.by_age.iter().take_while(|(at, _)| now.ms_since(*at) >= after_ms);
        let found = old.filter_map(|(_, lease)| self.leases.get(lease));
        found
            .filter(|open| now.ms_since(open.lease.expires_at) >= after_ms)
            .take(MAX_FORFEITS)
            .map(|open| LedgerFact::LeaseForfeited {
                lease: open.lease.lease,
                tenant: open.lease.tenant,
                at_stake: open
                    .unspent()
                    .map(|(meter, units)| (meter.clone(), Quantity(units)))
                    .collect(),
            })
            .collect()
    }

    fn forget_open(&mut self, open: &OpenLease) {
        self.by_age.remove(&(open.lease.granted_at, open.lease.lease));
        for scope in open.scopes().all() {
            if let Some(count) = self.open_leases.get_mut(&scope)
                && count.remove(&open.lease, open.granted_seq)
            {
                self.open_leases.remove(&scope);
            }
        }
    }
}

/// Units of a lease are bounded far below `i64::MAX` by what a quota can hold (see `record`'s ranges).
pub(crate) fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
