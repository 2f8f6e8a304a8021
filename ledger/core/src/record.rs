//! Folds the records of a node: each position once, for ever.

use schemas::{MeterName, NodeId, Quantity, Record, Timestamp, UsageBatch, UsageEvent};

use crate::{
    change::{Changes, HourKey},
    lease::{OpenLease, signed},
    node::EpochState,
    quota::{Scopes, Use, UseKey},
    state::{Held, ShardState},
    tally::Tally,
};

/// Where an event was found.
#[derive(Clone, Copy)]
struct Found<'a> {
    seq: u64,
    stored_at: Timestamp,
    batch: &'a UsageBatch,
}

impl ShardState {
    pub(crate) fn apply_usage(
        &mut self,
        seq: u64,
        stored_at: Timestamp,
        batch: &UsageBatch,
        out: &mut Changes,
    ) {
        if batch.shard != self.shard || batch.first_seq == 0 {
            let reason = format!("shard {}, first position {}", batch.shard, batch.first_seq);
            return self.quarantine(seq, 0, reason, batch, out);
        }
        let mut node = self.nodes.remove(&batch.node).unwrap_or_default();
        if node.is_forgotten(batch.epoch) {
            self.nodes.insert(batch.node.clone(), node);
            let reason = format!("epoch {} ended long ago", batch.epoch.0);
            return self.quarantine(seq, 0, reason, batch, out);
        }
        let mut epoch = node.epochs.remove(&batch.epoch).unwrap_or_default();
        let found = Found { seq, stored_at, batch };
        let mut tally = Tally::default();
        for (position, record) in (batch.first_seq..).zip(&batch.records) {
            self.apply_record(found, position, record, &mut epoch, &mut tally, out);
            self.apply_waiting(found, &mut epoch, out);
        }
        self.count_tally(tally, &batch.node, out);
        node.epochs.insert(batch.epoch, epoch);
        node.forget();
        self.nodes.insert(batch.node.clone(), node);
        out.held.insert(Held::Node(batch.node.clone()));
        out.nodes.insert(batch.node.clone());
    }

    /// Counts a record at a position that was not seen before.
    fn apply_record(
        &mut self,
        found: Found<'_>,
        position: u64,
        record: &Record,
        epoch: &mut EpochState,
        tally: &mut Tally,
        out: &mut Changes,
    ) {
        if epoch.ended {
            if position > epoch.seen.watermark {
                let reason = "its epoch had ended".to_owned();
                self.quarantine(found.seq, position, reason, record, out);
            }
            return;
        }
        if !epoch.seen.insert(position) {
            return;
        }
        match record {
            Record::LeaseClosed { .. } | Record::EpochEnded => {
                epoch.waiting.insert(position, record.clone());
            }
            Record::Usage(event) => match event.sound(found.stored_at) {
                Ok(()) => self.count(found, event, tally, out),
                Err(why) => self.quarantine(found.seq, position, why.to_string(), record, out),
            },
            Record::Refused { .. } => {} // Nothing was spent; ClickHouse shows them.
        }
    }

    /// Carries out what waited for the records before it.
    fn apply_waiting(&mut self, found: Found<'_>, epoch: &mut EpochState, out: &mut Changes) {
        let reached = epoch.seen.watermark;
        while let Some(first) = epoch.waiting.first_entry().filter(|next| *next.key() <= reached) {
            match first.remove() {
                Record::LeaseClosed { lease, spent, tenant: _ } => {
                    self.lease_closed(found.seq, lease, &spent, out);
                }
                Record::EpochEnded => {
                    epoch.ended = true;
                    self.settle_epoch(found.seq, &found.batch.node, found.batch.epoch, out);
                }
                Record::Usage(_) | Record::Refused { .. } => {} // Never put there.
            }
        }
    }

    fn count(
        &mut self,
        found: Found<'_>,
        event: &UsageEvent,
        tally: &mut Tally,
        out: &mut Changes,
    ) {
        let at = self.time_under_lease(found, event, out);
        let scopes = Scopes { tenant: event.tenant, project: event.project, key: event.key };
        for (meter, units) in event.quantities.iter().filter(|(_, units)| units.0 > 0) {
            let (covered, granted_seq) = self.spend(event, scopes, meter, units.0, out);
            let of = (scopes, meter.clone(), granted_seq);
            self.tally(tally, &of, at, (units.0, covered), &found.batch.node, out);
        }
    }

    /// Counts an event that a person released from quarantine, at its own time: no lease stands behind it.
    pub(crate) fn count_resolved(&mut self, seq: u64, event: &UsageEvent, out: &mut Changes) {
        let scopes = Scopes { tenant: event.tenant, project: event.project, key: event.key };
        if event.quantities.values().any(|units| units.0 > schemas::fact::usage::MAX_UNITS) {
            return out.anomaly(seq, "resolved_too_much", scopes.key.to_string());
        }
        for (meter, units) in event.quantities.iter().filter(|(_, units)| units.0 > 0) {
            self.add_counted(scopes, meter, event.at, (units.0, (0, 0)), None, out);
        }
    }

    /// Counts units, of which leases granted at `granted_seq` held so many.
    pub(crate) fn add_counted(
        &mut self,
        scopes: Scopes,
        meter: &MeterName,
        at: Timestamp,
        (units, (covered, granted_seq)): (u64, (u64, u64)),
        by: Option<&NodeId>,
        out: &mut Changes,
    ) {
        self.each_use(scopes, meter, at, out, |value, since| {
            value.consumed = value.consumed.saturating_add(units);
            if since <= granted_seq {
                value.outstanding = value.outstanding.saturating_sub(covered);
            }
        });
        self.add_hour(at, scopes, meter, units, out);
        let hour = at.hour();
        if let Some(node) = by
            && self.closed_through.is_none_or(|through| hour > through)
            && self.hour_nodes.entry(hour).or_default().insert(node.clone())
        {
            out.held.insert(Held::HourNodes(hour));
        }
    }

    /// The event's time, held within its lease, and a word when something about the lease is wrong.
    fn time_under_lease(
        &self,
        Found { seq, batch, .. }: Found<'_>,
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

    /// Moves units of the event's lease to spent; returns how many of them it still held, and when it was granted.
    fn spend(
        &mut self,
        event: &UsageEvent,
        scopes: Scopes,
        meter: &MeterName,
        units: u64,
        out: &mut Changes,
    ) -> (u64, u64) {
        let open = event.lease.and_then(|id| self.leases.get_mut(&id));
        let Some(open) = open.filter(|open| open.scopes() == scopes) else { return (0, 0) };
        let granted_seq = open.granted_seq;
        let Some(Quantity(share)) = open.lease.share(meter) else { return (0, granted_seq) };
        let spent = open.spent.entry(meter.clone()).or_default();
        let covered = units.min(share.saturating_sub(*spent));
        *spent = spent.saturating_add(units);
        out.held.insert(Held::Lease(open.lease.lease));
        (covered, granted_seq)
    }

    /// Changes what a lease holds of a meter, wherever it was counted when the lease was granted.
    pub(crate) fn add_outstanding(
        &mut self,
        open: &OpenLease,
        meter: &MeterName,
        units: i64,
        out: &mut Changes,
    ) {
        let (at, granted_seq) = (open.lease.granted_at, open.granted_seq);
        self.each_use(open.scopes(), meter, at, out, |value, since| {
            if since <= granted_seq {
                value.outstanding = value.outstanding.saturating_add_signed(units);
            }
        });
    }

    /// Changes the counters of the three scopes in the periods that hold `at`, and notes the difference made.
    /// `change` is told since which sequence a counter counts.
    fn each_use(
        &mut self,
        scopes: Scopes,
        meter: &MeterName,
        at: Timestamp,
        out: &mut Changes,
        change: impl Fn(&mut Use, u64),
    ) {
        for index in 0.. {
            let Some((rule, since)) = self.rule(scopes.tenant, index) else { return };
            let Some(period) = self.period_of_event(scopes.tenant, rule, at) else { continue };
            for scope in scopes.all() {
                let key = UseKey { scope, meter: meter.clone(), rule, period };
                self.change_use(key, since, out, &change);
            }
        }
    }

    fn change_use(
        &mut self,
        key: UseKey,
        since: u64,
        out: &mut Changes,
        change: &impl Fn(&mut Use, u64),
    ) {
        let value = self.uses.entry(key.clone()).or_default();
        let before = *value;
        change(value, since);
        let after = *value;
        if after.consumed > before.consumed {
            self.note_crossing(&key, before.consumed, after.consumed, out);
        }
        let difference = out.uses.entry(key).or_default();
        difference.0 += signed(after.consumed) - signed(before.consumed);
        difference.1 += signed(after.outstanding) - signed(before.outstanding);
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
