//! Makes usage from a seed, and knows what the tables must then hold.

use std::{collections::BTreeMap, sync::LazyLock, time::SystemTime};

use schemas::{
    Epoch, KeyId, LeaseId, MeterName, NodeId, Outcome, PeriodRule, ProjectId, Quantity, Record,
    RefusalReason, Shard, TenantId, Timestamp, UsageBatch, UsageEvent,
};
use uuid::Uuid;

/// xorshift64*: the same seed makes the same usage.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Billable, free and refused calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub calls: u64,
    pub free: u64,
    pub refused: u64,
}

/// Nodes that have written what they have written.
#[derive(Default)]
pub struct Model {
    /// Node and shard → the records of its one epoch, in position order.
    written: BTreeMap<(u64, u16), Vec<Record>>,
    /// Tenant, tool and hour → what must be counted.
    pub cells: BTreeMap<(String, String, i64), Cell>,
}

/// Some hours before the last month ended, so usage falls into two months, and never ahead of now.
static START_MS: LazyLock<i64> = LazyLock::new(|| {
    let month = PeriodRule::Month.period_at(Timestamp(now_ms()), "UTC").unwrap();
    month.from.0 - 4 * 3_600_000
});
static SPAN_MS: LazyLock<u64> =
    LazyLock::new(|| u64::try_from((now_ms() - *START_MS).min(9 * 3_600_000)).unwrap());

/// Unit: milliseconds since 1970.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

const EPOCH: u64 = 1_793_000_000_000;

impl Model {
    /// The next records of some node in some shard, as one message.
    pub fn next_batch(&mut self, random: &mut Random) -> UsageBatch {
        let (node, shard) = (random.below(3), u16::try_from(random.below(4)).unwrap());
        let records: Vec<Record> = (0..=random.below(60)).map(|_| record(random)).collect();
        for record in &records {
            self.count(record);
        }
        let written = self.written.entry((node, shard)).or_default();
        let first_seq = written.len() as u64 + 1;
        written.extend(records.clone());
        batch(node, shard, first_seq, records)
    }

    /// Records that were published before, cut anew: a node that resends its spool.
    pub fn old_batch(&self, random: &mut Random) -> Option<UsageBatch> {
        let nth = usize::try_from(random.below(self.written.len().max(1) as u64)).unwrap();
        let ((node, shard), written) = self.written.iter().nth(nth)?;
        let from = usize::try_from(random.below(written.len() as u64)).unwrap();
        let to = (from + 1 + usize::try_from(random.below(80)).unwrap()).min(written.len());
        Some(batch(*node, *shard, from as u64 + 1, written[from..to].to_vec()))
    }

    pub fn records(&self) -> u64 {
        self.written.values().map(|written| written.len() as u64).sum()
    }

    fn count(&mut self, record: &Record) {
        let (tenant, tool, at) = match record {
            Record::Usage(event) => (event.tenant, event.tool.clone(), event.at),
            Record::Refused { tenant, tool, at, .. } => (*tenant, tool.clone(), *at),
            Record::LeaseClosed { .. } | Record::EpochEnded => return,
        };
        let cell = self.cells.entry((tenant.0.to_string(), tool, at.hour().0)).or_default();
        match record {
            Record::Usage(event) => match event.quantities.get(&MeterName::tool_calls()) {
                Some(units) => cell.calls += units.0,
                None => cell.free += 1,
            },
            Record::Refused { calls, .. } => cell.refused += calls.0,
            Record::LeaseClosed { .. } | Record::EpochEnded => {}
        }
    }
}

fn batch(node: u64, shard: u16, first_seq: u64, records: Vec<Record>) -> UsageBatch {
    let node: NodeId = format!("node-{node}").parse().unwrap();
    UsageBatch { v: 1, node, epoch: Epoch(EPOCH), shard: Shard(shard), first_seq, records }
}

fn record(random: &mut Random) -> Record {
    let tenant = TenantId(Uuid::from_u128(1 + u128::from(random.below(3))));
    let (project, key) = (ProjectId(Uuid::from_u128(10)), KeyId(Uuid::from_u128(20)));
    let at = Timestamp(*START_MS + i64::try_from(random.below(*SPAN_MS)).unwrap());
    let tool = format!("tool-{}", random.below(5));
    match random.below(20) {
        0 => {
            let calls = Quantity(1 + random.below(9));
            Record::Refused {
                at,
                tenant,
                project,
                key,
                tool,
                reason: RefusalReason::QuotaExhausted,
                calls,
            }
        }
        1 => {
            let spent = BTreeMap::from([(MeterName::tool_calls(), Quantity(7))]);
            Record::LeaseClosed { lease: LeaseId(Uuid::from_u128(30)), tenant, spent }
        }
        rest => {
            let billable = rest > 3;
            let outcome = if billable { Outcome::Success } else { Outcome::ToolError };
            let units = BTreeMap::from([(MeterName::tool_calls(), Quantity(1))]);
            Record::Usage(UsageEvent {
                at,
                tenant,
                project,
                key,
                lease: Some(LeaseId(Uuid::from_u128(30))),
                method: "tools/call".into(),
                tool,
                outcome,
                quantities: if billable { units } else { BTreeMap::new() },
                duration_us: random.below(900_000),
                bytes_in: 100,
                bytes_out: 200,
                server: None,
                trace: None,
            })
        }
    }
}
