//! A log as nodes and the ledger would have written it: tenants taken in, leases granted, calls, leases closed.

use std::collections::HashMap;

use ledger_core::Entry;
use schemas::{
    Epoch, Hour, Lease, LeaseId, LedgerBatch, LedgerFact, MeterName, NodeId, Outcome as Ended,
    PeriodRule, Quantity, Record, Shard, Share, Timestamp, UsageBatch, UsageEvent, fact::VERSION,
    subject,
};

use crate::{
    Outcome,
    tenants::{Kind, Tenant, id, mix},
};

const TOOLS: [&str; 8] = [
    "search_documents",
    "read_file",
    "run_query",
    "create_issue",
    "list_events",
    "get_weather",
    "send_message",
    "resolve_library",
];
/// How long leases last. Unit: milliseconds.
const TTL_MS: i64 = 90_000;
/// How many keys are taken in, and how many leases granted, in one message: both stay well under its largest size.
const KEYS_A_MESSAGE: usize = 1_000;
const LEASES_A_MESSAGE: usize = 500;

/// One message of the log.
pub enum Message {
    Usage(UsageBatch),
    Ledger(LedgerBatch),
}

impl Message {
    pub fn shard(&self) -> Shard {
        match self {
            Self::Usage(batch) => batch.shard,
            Self::Ledger(batch) => batch.shard,
        }
    }

    pub fn subject(&self) -> String {
        match self {
            Self::Usage(batch) => subject::usage(batch.shard, &batch.node),
            Self::Ledger(batch) => subject::ledger(batch.shard),
        }
    }

    pub fn payload(&self) -> Outcome<Vec<u8>> {
        Ok(match self {
            Self::Usage(batch) => serde_json::to_vec(batch)?,
            Self::Ledger(batch) => serde_json::to_vec(batch)?,
        })
    }

    /// How many calls it tells of.
    pub fn calls(&self) -> u64 {
        let Self::Usage(batch) = self else { return 0 };
        batch.records.iter().filter(|record| matches!(record, Record::Usage(_))).count() as u64
    }

    /// How many facts and records it holds.
    pub fn facts(&self) -> u64 {
        match self {
            Self::Usage(batch) => batch.records.len() as u64,
            Self::Ledger(batch) => batch.facts.iter().map(facts_in).sum(),
        }
    }

    /// As the ledger's core takes it.
    pub fn into_entry(self, stored_at: Timestamp) -> Entry {
        match self {
            Self::Usage(batch) => Entry::Usage { stored_at, batch },
            Self::Ledger(batch) => Entry::Ledger(batch),
        }
    }
}

fn facts_in(fact: &LedgerFact) -> u64 {
    match fact {
        LedgerFact::ControlTaken { decision, .. } => decision.facts.len() as u64,
        _ => 1,
    }
}

/// One key with its place among all.
#[derive(Clone, Copy)]
struct Place {
    tenant: usize,
    key: usize,
    number: u64,
}

/// Writes the log of some tenants, whose every `nth` key is used, on every node.
pub struct Traffic {
    tenants: Vec<Tenant>,
    nodes: Vec<NodeId>,
    at: Timestamp,
    keys: u64,
    /// The keys that are used, by shard.
    used: Vec<Vec<Place>>,
    spent: HashMap<LeaseId, u64>,
    positions: HashMap<(usize, Shard), u64>,
    calls: u64,
}

impl Traffic {
    pub fn new(tenants: Vec<Tenant>, shards: u16, nodes: u16, nth: u64, at: Timestamp) -> Self {
        let nodes = (0..nodes).map(|n| format!("node-{n}").parse().expect("letters and digits"));
        let mut used = vec![Vec::new(); usize::from(shards)];
        let mut number = 0;
        for (tenant, row) in tenants.iter().enumerate() {
            for key in 0..row.keys.len() {
                if number % nth == 0 {
                    used[usize::from(row.shard.0)].push(Place { tenant, key, number });
                }
                number += 1;
            }
        }
        let nodes = nodes.collect();
        let (spent, positions) = (HashMap::new(), HashMap::new());
        Self { tenants, nodes, at, keys: number, used, spent, positions, calls: 0 }
    }

    /// The shards that have keys.
    pub fn shards(&self) -> Vec<Shard> {
        let places = (0u16..).map(Shard).zip(&self.used);
        places.filter(|(_, used)| !used.is_empty()).map(|(shard, _)| shard).collect()
    }

    /// Everything is taken in: tenants, projects, keys, quotas.
    pub fn taken(&self, shard: Shard) -> Vec<Message> {
        let mine: Vec<&Tenant> = self.tenants.iter().filter(|row| row.shard == shard).collect();
        let each = mine.first().map_or(1, |row| (KEYS_A_MESSAGE / row.keys.len().max(1)).max(1));
        let chunks = mine.chunks(each);
        chunks
            .map(|some| self.ledger(shard, some.iter().map(|row| row.taken(self.at)).collect()))
            .collect()
    }

    /// Every node gets a lease of every key that is used.
    pub fn granted(&self, shard: Shard) -> Vec<Message> {
        let used = &self.used[usize::from(shard.0)];
        let all =
            (0..self.nodes.len()).flat_map(|node| used.iter().map(move |place| (node, *place)));
        let facts: Vec<LedgerFact> = all
            .map(|(node, place)| LedgerFact::LeaseGranted { lease: self.lease(node, place) })
            .collect();
        facts.chunks(LEASES_A_MESSAGE).map(|some| self.ledger(shard, some.to_vec())).collect()
    }

    /// The next calls that a node tells of: keys at random, one of sixteen free.
    pub fn calls(&mut self, node: usize, shard: Shard, count: usize) -> Message {
        let records = (0..count).map(|_| self.call(node, shard)).collect();
        self.usage(node, shard, records)
    }

    /// A node closes its leases.
    pub fn closed(&mut self, node: usize, shard: Shard) -> Message {
        let used = self.used[usize::from(shard.0)].clone();
        let close = |place: Place| {
            let tenant = &self.tenants[place.tenant];
            let lease = self.lease_id(node, place);
            let units = Quantity(self.spent.get(&lease).copied().unwrap_or(0));
            let limited = tenant.limit.map(|_| (MeterName::tool_calls(), units));
            Record::LeaseClosed {
                lease,
                tenant: tenant.tenant,
                spent: limited.into_iter().collect(),
            }
        };
        let records = used.into_iter().map(close).collect();
        self.usage(node, shard, records)
    }

    /// The ledger seals an hour, which had nothing new: after it, nothing is due.
    pub fn sealed(&self, shard: Shard) -> Message {
        let hour = Hour(self.at.hour().0);
        self.ledger(
            shard,
            vec![LedgerFact::HourSealed { hour, closed: false, behind: vec![], lines: vec![] }],
        )
    }

    fn call(&mut self, node: usize, shard: Shard) -> Record {
        let used = &self.used[usize::from(shard.0)];
        let chance = mix(self.calls);
        let place = used[usize::try_from(chance % used.len() as u64).unwrap_or(0)];
        let tenant = &self.tenants[place.tenant];
        let lease = self.lease_id(node, place);
        let billed = !self.calls.is_multiple_of(16);
        let millisecond = i64::try_from(self.calls % 60_000).unwrap_or(0);
        self.calls += 1;
        if billed {
            *self.spent.entry(lease).or_default() += 1;
        }
        Record::Usage(UsageEvent {
            at: self.at.plus_ms(millisecond),
            tenant: tenant.tenant,
            project: tenant.project,
            key: tenant.keys[place.key],
            lease: Some(lease),
            method: "tools/call".to_owned(),
            tool: TOOLS[usize::try_from(chance >> 61).unwrap_or(0)].to_owned(),
            outcome: if billed { Ended::Success } else { Ended::ToolError },
            quantities: billed
                .then(|| (MeterName::tool_calls(), Quantity(1)))
                .into_iter()
                .collect(),
            duration_us: 1_000 + chance % 1_000_000,
            bytes_in: 200 + chance % 2_000,
            bytes_out: 200 + chance % 20_000,
            server: None,
            trace: None,
        })
    }

    fn lease_id(&self, node: usize, place: Place) -> LeaseId {
        LeaseId(id(Kind::Lease, node as u64 * self.keys + place.number))
    }

    fn lease(&self, node: usize, place: Place) -> Lease {
        let tenant = &self.tenants[place.tenant];
        let share = |limit: u64| Share {
            meter: MeterName::tool_calls(),
            units: Quantity(limit / 100),
            left: Quantity(limit - limit / 100),
            held: None,
            limit: Quantity(limit),
            period: PeriodRule::Month
                .period_at(self.at, tenant.time_zone())
                .expect("a zone of the database, a year of the calendar"),
        };
        Lease {
            lease: self.lease_id(node, place),
            tenant: tenant.tenant,
            project: tenant.project,
            key: tenant.keys[place.key],
            node: self.nodes[node].clone(),
            epoch: Epoch(1),
            granted_at: self.at,
            expires_at: self.at.plus_ms(TTL_MS),
            shares: tenant.limit.map(share).into_iter().collect(),
            rate: None,
            notices: vec![],
        }
    }

    fn ledger(&self, shard: Shard, facts: Vec<LedgerFact>) -> Message {
        Message::Ledger(LedgerBatch { v: VERSION, shard, at: self.at, facts })
    }

    fn usage(&mut self, node: usize, shard: Shard, records: Vec<Record>) -> Message {
        let next = self.positions.entry((node, shard)).or_insert(1);
        let first_seq = *next;
        *next += records.len() as u64;
        let node = self.nodes[node].clone();
        Message::Usage(UsageBatch { v: VERSION, node, epoch: Epoch(1), shard, first_seq, records })
    }
}

#[cfg(test)]
mod tests {
    use ledger_core::{Changes, ShardState};

    use super::*;
    use crate::tenants::tenants;

    /// 2026-11-20T12:00:00Z.
    const NOON: Timestamp = Timestamp(1_795_176_000_000);

    #[test]
    fn the_ledger_finds_nothing_wrong_with_this_log() {
        let rows = tenants(6, 3, 2, |number| (number % 2 == 0).then_some(1_000_000));
        let mut traffic = Traffic::new(rows, 2, 2, 1, NOON);
        for shard in traffic.shards() {
            let mut log = traffic.taken(shard);
            log.extend(traffic.granted(shard));
            log.extend((0..8).map(|turn| traffic.calls(turn % 2, shard, 20)));
            log.extend([traffic.closed(0, shard), traffic.closed(1, shard), traffic.sealed(shard)]);
            let calls: u64 = log.iter().map(Message::calls).sum();
            let (mut state, mut changes) = (ShardState::new(shard), Changes::default());
            for (seq, message) in (1..).zip(log) {
                state.apply(seq, &message.into_entry(NOON.plus_ms(60_000)), &mut changes);
            }
            assert!(changes.quarantined.is_empty() && changes.anomalies.is_empty(), "{changes:?}");
            let counted: u64 = changes.hours.values().sum();
            assert!(calls == 160 && (145..160).contains(&counted), "{counted} of {calls}");
            assert_eq!(state.leases().count(), 0);
        }
    }
}
