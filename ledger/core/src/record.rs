//! Folds the records of a node: each position once, for ever.

use schemas::{LeaseId, MeterName, PeriodRule, Record, Timestamp, UsageBatch, UsageEvent};

use crate::{
    change::{Changes, HourKey, Quarantined},
    lease::signed,
    quota::{Scopes, Use, UseKey},
    state::{Held, ShardState},
};

/// The most units of one meter that one event may count for. Range of a sound event: `0..=10^12`; with it no sum
/// of a counter can leave its range before nine million such events were counted in one period.
const MOST_UNITS: u64 = 1_000_000_000_000;

impl ShardState {
    pub(crate) fn apply_usage(&mut self, seq: u64, batch: &UsageBatch, out: &mut Changes) {
        if batch.shard != self.shard || batch.first_seq == 0 {
            let reason = format!("shard {}, first position {}", batch.shard, batch.first_seq);
            return quarantine(seq, None, reason, batch, out);
        }
        let mut node = self.nodes.remove(&batch.node).unwrap_or_default();
        if node.is_forgotten(batch.epoch) {
            self.nodes.insert(batch.node.clone(), node);
            return quarantine(
                seq,
                None,
                format!("epoch {} ended long ago", batch.epoch.0),
                batch,
                out,
            );
        }
        let mut epoch = node.epochs.remove(&batch.epoch).unwrap_or_default();
        for (position, record) in (batch.first_seq..).zip(&batch.records) {
            if !epoch.ended && epoch.seen.insert(position) {
                match record {
                    Record::LeaseClosed { .. } | Record::EpochEnded => {
                        epoch.waiting.insert(position, record.clone());
                    }
                    Record::Usage(event) => self.count(seq, position, batch, event, out),
                    Record::Refused { .. } => {} // Nothing was spent; ClickHouse shows them.
                }
            } else if epoch.ended && position > epoch.seen.watermark {
                quarantine(seq, Some(position), "its epoch had ended".to_owned(), record, out);
            }
            while let Some(first) =
                epoch.waiting.first_entry().filter(|next| *next.key() <= epoch.seen.watermark)
            {
                match first.remove() {
                    Record::LeaseClosed { lease, spent, tenant: _ } => {
                        self.lease_closed(seq, lease, &spent, out);
                    }
                    Record::EpochEnded => {
                        epoch.ended = true;
                        self.settle_epoch(seq, &batch.node, batch.epoch, out);
                    }
                    Record::Usage(_) | Record::Refused { .. } => {} // Never put there.
                }
            }
        }
        node.epochs.insert(batch.epoch, epoch);
        node.forget();
        self.nodes.insert(batch.node.clone(), node);
        out.held.insert(Held::Node(batch.node.clone()));
        out.nodes.insert(batch.node.clone());
    }

    fn count(
        &mut self,
        seq: u64,
        position: u64,
        batch: &UsageBatch,
        event: &UsageEvent,
        out: &mut Changes,
    ) {
        if event.quantities.values().any(|units| units.0 > MOST_UNITS) {
            return quarantine(
                seq,
                Some(position),
                "a quantity above 10^12".to_owned(),
                event,
                out,
            );
        }
        let at = self.time_under_lease(seq, batch, event, out);
        let scopes = Scopes { tenant: event.tenant, project: event.project, key: event.key };
        for (meter, units) in &event.quantities {
            if units.0 == 0 {
                continue;
            }
            let covered =
                event.lease.map_or(0, |lease| self.spend(lease, scopes, meter, units.0, out));
            self.add_consumed(scopes, meter, at, units.0, covered, out);
            self.add_hour(at, scopes, meter, units.0, out);
            let hour = at.hour();
            if self.closed_through.is_none_or(|through| hour > through)
                && self.hour_nodes.entry(hour).or_default().insert(batch.node.clone())
            {
                out.held.insert(Held::HourNodes(hour));
            }
        }
    }

    /// The event's time, held within its lease, and a word when something about the lease is wrong.
    fn time_under_lease(
        &self,
        seq: u64,
        batch: &UsageBatch,
        event: &UsageEvent,
        out: &mut Changes,
    ) -> Timestamp {
        let Some(id) = event.lease else { return event.at };
        let Some(open) = self.leases.get(&id) else {
            out.anomaly(
                seq,
                "unknown_lease",
                format!("{id} of {} epoch {}", batch.node, batch.epoch.0),
            );
            return event.at;
        };
        let lease = &open.lease;
        if (lease.key, &lease.node, lease.epoch) != (event.key, &batch.node, batch.epoch) {
            out.anomaly(
                seq,
                "foreign_lease",
                format!("{id} was granted to {} for {}", lease.node, lease.key),
            );
        }
        let within =
            event.at.clamp(lease.granted_at, lease.expires_at.plus_ms(-1).max(lease.granted_at));
        if within != event.at {
            out.anomaly(seq, "time_outside_lease", format!("{} under {id}", event.at));
        }
        within
    }

    /// Moves units of a lease to spent; returns how many of them the lease still held.
    fn spend(
        &mut self,
        id: LeaseId,
        scopes: Scopes,
        meter: &MeterName,
        units: u64,
        out: &mut Changes,
    ) -> u64 {
        let Some(open) = self.leases.get_mut(&id).filter(|open| open.scopes() == scopes) else {
            return 0;
        };
        let Some(share) = open.lease.share(meter) else { return 0 };
        let spent = open.spent.entry(meter.clone()).or_default();
        let covered = units.min(share.0.saturating_sub(*spent));
        *spent = spent.saturating_add(units);
        out.held.insert(Held::Lease(id));
        covered
    }

    fn add_consumed(
        &mut self,
        scopes: Scopes,
        meter: &MeterName,
        at: Timestamp,
        units: u64,
        covered: u64,
        out: &mut Changes,
    ) {
        self.each_use(scopes, meter, at, out, |value| {
            value.consumed = value.consumed.saturating_add(units);
            value.outstanding = value.outstanding.saturating_sub(covered);
        });
    }

    pub(crate) fn add_outstanding(
        &mut self,
        scopes: Scopes,
        meter: &MeterName,
        at: Timestamp,
        units: i64,
        out: &mut Changes,
    ) {
        self.each_use(scopes, meter, at, out, |value| {
            value.outstanding = value.outstanding.saturating_add_signed(units);
        });
    }

    /// Changes the counters of the three scopes in the period that holds `at`, and notes the difference made.
    fn each_use(
        &mut self,
        scopes: Scopes,
        meter: &MeterName,
        at: Timestamp,
        out: &mut Changes,
        change: impl Fn(&mut Use),
    ) {
        let Some(period) = self.period(scopes.tenant, PeriodRule::Month, at) else { return };
        for scope in scopes.all() {
            let key = UseKey { scope, meter: meter.clone(), period };
            let value = self.uses.entry(key.clone()).or_default();
            let before = *value;
            change(value);
            let difference = out.uses.entry(key).or_default();
            difference.0 += signed(value.consumed) - signed(before.consumed);
            difference.1 += signed(value.outstanding) - signed(before.outstanding);
        }
    }

    fn add_hour(
        &mut self,
        at: Timestamp,
        scopes: Scopes,
        meter: &MeterName,
        units: u64,
        out: &mut Changes,
    ) {
        let hour = at.hour();
        let Scopes { tenant, project, key } = scopes;
        *out.hours
            .entry(HourKey { hour, tenant, project, key, meter: meter.clone() })
            .or_default() += units;
        *self.unsealed.entry(hour).or_default().entry((tenant, meter.clone())).or_default() +=
            units;
        out.held.insert(Held::Unsealed(hour, tenant, meter.clone()));
    }
}

fn quarantine(
    seq: u64,
    record: Option<u64>,
    reason: String,
    what: &impl serde::Serialize,
    out: &mut Changes,
) {
    let payload = serde_json::to_string(what).unwrap_or_else(|error| error.to_string());
    out.quarantined.push(Quarantined { seq, record, reason, payload });
}
