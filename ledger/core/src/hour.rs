//! Hours: reported in part while they run, closed when no lease can add to them any more.
//!
//! Every event lies within its lease's `[granted_at, expires_at)`. So an hour can get no more usage once every
//! lease granted before its end is settled: the open leases are the watermark, and no node's clock is trusted.
//! Usage that comes for a closed hour all the same (no lease covered it, or its lease was written off) is sealed
//! into the same hour later, as a line of its own.

use std::collections::BTreeSet;

use schemas::{Hour, LedgerFact, NodeId, Quantity, SealLine, TenantId, Timestamp};

use crate::{
    change::Changes,
    state::{Held, ShardState},
};

/// When hours are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealPolicy {
    /// How often what has been counted is sealed while its hour runs. Unit: milliseconds.
    pub interval_ms: i64,
    /// How long after its end an hour is closed at the earliest. Unit: milliseconds.
    pub lateness_ms: i64,
}

impl ShardState {
    /// The seals that are due at `now`: first the hours to close, then parts of what else was counted.
    #[must_use]
    pub fn decide_seals(&self, now: Timestamp, policy: SealPolicy) -> Vec<LedgerFact> {
        if self.tenants.is_empty() {
            return Vec::new();
        }
        let now = now.max(self.at);
        let closable = self.closable_through(now, policy.lateness_ms);
        let closes = self.closed_through.is_none_or(|through| closable > through);
        let due = now.ms_since(self.sealed_at) >= policy.interval_ms;
        let has_part = due && !self.unsealed.is_empty();
        if !closes && !has_part {
            return Vec::new();
        }
        let mut revision = self.seals;
        let mut hours: BTreeSet<Hour> =
            self.unsealed.keys().copied().filter(|hour| due || *hour <= closable).collect();
        if closes {
            hours.insert(closable);
            hours.extend(self.hour_nodes.keys().filter(|hour| **hour <= closable));
        }
        hours
            .into_iter()
            .map(|hour| {
                revision += 1;
                let closed = closes
                    && hour <= closable
                    && self.closed_through.is_none_or(|through| hour > through);
                self.seal(hour, closed, revision)
            })
            .collect()
    }

    fn seal(&self, hour: Hour, closed: bool, revision: u64) -> LedgerFact {
        let lines = self.unsealed.get(&hour).into_iter().flatten();
        let lines = lines
            .map(|((tenant, meter), units)| SealLine {
                tenant: *tenant,
                meter: meter.clone(),
                revision,
                delta: Quantity(*units),
            })
            .collect();
        let behind = if closed {
            self.hour_nodes.get(&hour).into_iter().flatten().cloned().collect()
        } else {
            vec![]
        };
        LedgerFact::HourSealed { hour, closed, behind, lines }
    }

    /// The last hour that is over and that no open lease reaches back into.
    fn closable_through(&self, now: Timestamp, lateness_ms: i64) -> Hour {
        let oldest = self.by_age.first().map(|(granted_at, _)| *granted_at);
        let settled_to = oldest.unwrap_or(Timestamp(i64::MAX)).min(now.plus_ms(-lateness_ms));
        Hour(settled_to.hour().0 - 1)
    }

    pub(crate) fn apply_seal(
        &mut self,
        seq: u64,
        hour: Hour,
        closed: bool,
        behind: &[NodeId],
        lines: &[SealLine],
        out: &mut Changes,
    ) {
        self.seals += 1;
        self.sealed_at = self.at;
        for line in lines {
            let name = (line.tenant, line.meter.clone());
            let counted =
                self.unsealed.get(&hour).and_then(|cells| cells.get(&name)).copied().unwrap_or(0);
            if line.delta.0 > counted {
                let detail = format!(
                    "{} of {} {}, counted {counted}",
                    line.delta.0, line.tenant, line.meter
                );
                out.anomaly(seq, "sealed_more_than_counted", detail);
            }
            self.take_unsealed(hour, &name, counted.saturating_sub(line.delta.0));
            out.held.insert(Held::Unsealed(hour, line.tenant, line.meter.clone()));
        }
        if closed {
            self.closed_through = self.closed_through.max(Some(hour));
            self.hour_nodes.remove(&hour);
            out.held.insert(Held::HourNodes(hour));
            out.closed_hours.insert(hour, (seq, behind.to_vec()));
        }
    }

    fn take_unsealed(&mut self, hour: Hour, name: &(TenantId, schemas::MeterName), left: u64) {
        let Some(cells) = self.unsealed.get_mut(&hour) else { return };
        if left > 0 {
            cells.insert(name.clone(), left);
        } else {
            cells.remove(name);
        }
        if cells.is_empty() {
            self.unsealed.remove(&hour);
        }
    }
}
