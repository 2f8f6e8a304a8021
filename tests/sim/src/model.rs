//! What must hold, told apart from the code that makes it hold: plain counts of what clients were answered.

use std::collections::{BTreeMap, BTreeSet};

use ledger_core::{Changes, Entry, ShardState, UseKey};
use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, KeyDigest, KeyId, LedgerFact, MeterName,
    Period, PeriodRule, ProjectId, Quantity, QuotaKind, QuotaRule, Record, Scope, Shard, TenantId,
    Timestamp,
};
use uuid::Uuid;

use crate::{database::Database, log::Log};

pub const SHARD: Shard = Shard(0);
pub const TENANT: TenantId = TenantId(Uuid::from_u128(1));
pub const PROJECT: ProjectId = ProjectId(Uuid::from_u128(2));
pub const KEYS: [KeyId; 2] = [KeyId(Uuid::from_u128(3)), KeyId(Uuid::from_u128(4))];

/// A law that does not hold, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// The limits of one run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub key: u64,
    pub tenant: u64,
}

/// What the clients know.
pub struct Model {
    pub limits: Limits,
    answered: BTreeMap<(Period, usize), u64>,
}

pub fn month(at: Timestamp) -> Period {
    PeriodRule::Month.period_at(at, "UTC").expect("UTC is a time zone and the year is near")
}

fn hold(holds: bool, law: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(law())) }
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        Self { limits, answered: BTreeMap::new() }
    }

    /// A client has the answer of a call that counts.
    pub fn answered(&mut self, key: usize, at: Timestamp) {
        *self.answered.entry((month(at), key)).or_default() += 1;
    }

    /// How often a key was answered in the month of `at`.
    pub fn of(&self, at: Timestamp, key: usize) -> u64 {
        self.answered.get(&(month(at), key)).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Law 3, by what the clients have, and by what a ledger believes.
    pub fn check(&self, states: &[&ShardState]) -> Result<(), Violation> {
        let periods: BTreeSet<Period> = self.answered.keys().map(|(period, _)| *period).collect();
        for period in periods {
            let of = |key: usize| self.answered.get(&(period, key)).copied().unwrap_or(0);
            for key in 0..KEYS.len() {
                let answered = of(key);
                hold(answered <= self.limits.key, || {
                    format!("law 3: key {key} was answered {answered} times")
                })?;
            }
            let all: u64 = (0..KEYS.len()).map(of).sum();
            hold(all <= self.limits.tenant, || {
                format!("law 3: the tenant was answered {all} times")
            })?;
        }
        for state in states {
            for (key, value) in state.counters() {
                let limit = match key.scope {
                    Scope::Key(_) => self.limits.key,
                    _ => self.limits.tenant,
                };
                let held = value.consumed + value.outstanding;
                hold(held <= limit, || format!("law 3: {} has {value:?} of {limit}", key.scope))?;
            }
        }
        Ok(())
    }

    /// When all is quiet: laws 1, 2, 5 and 6.
    pub fn check_rest(
        &self,
        log: &Log,
        live: &ShardState,
        database: &Database,
    ) -> Result<(), Violation> {
        let total = self.total();
        let logged = usage_positions(log);
        hold(logged == total, || {
            format!("law 1: {total} calls were answered, the log has {logged}")
        })?;
        let counted: u64 = database.hours.values().sum();
        hold(counted == total, || {
            format!("law 1: {total} calls were answered, the database has {counted}")
        })?;
        for ((period, key), answered) in &self.answered {
            let scope = Scope::Key(KEYS[*key]);
            let use_key = UseKey { scope, meter: MeterName::tool_calls(), period: *period };
            let found = live.counter(&use_key);
            hold(found.consumed == *answered && found.outstanding == 0, || {
                format!("law 1: key {key} was answered {answered} times, the ledger has {found:?}")
            })?;
        }
        let mut changes = Changes::default();
        let mut rebuilt = ShardState::new(SHARD);
        for stored in &log.messages {
            rebuilt.apply(stored.seq, &stored.entry, &mut changes);
        }
        hold(rebuilt == *live, || {
            "law 5: a rebuild from the log differs from the live state".to_owned()
        })?;
        hold(database.load(SHARD) == *live, || {
            "law 5: what is stored differs from the live state".to_owned()
        })?;
        hold(changes.anomalies.is_empty(), || format!("anomalies: {:?}", changes.anomalies))?;
        hold(changes.quarantined.is_empty(), || format!("quarantined: {:?}", changes.quarantined))?;
        sealed(log, total)
    }
}

fn usage_positions(log: &Log) -> u64 {
    let mut seen = BTreeSet::new();
    for stored in &log.messages {
        let Entry::Usage(batch) = &stored.entry else { continue };
        for (seq, record) in (batch.first_seq..).zip(&batch.records) {
            if matches!(record, Record::Usage(event) if !event.quantities.is_empty()) {
                seen.insert((batch.node.clone(), batch.epoch, seq));
            }
        }
    }
    seen.len() as u64
}

/// What was sealed adds up, and no hour that was closed gets usage afterwards.
fn sealed(log: &Log, total: u64) -> Result<(), Violation> {
    let (mut sum, mut closed) = (0, None);
    let mut seen = BTreeSet::new();
    for stored in &log.messages {
        match &stored.entry {
            Entry::Ledger(batch) => {
                for fact in &batch.facts {
                    let LedgerFact::HourSealed { hour, closed: closes, lines, .. } = fact else {
                        continue;
                    };
                    sum += lines.iter().map(|line| line.delta.0).sum::<u64>();
                    if *closes {
                        closed = closed.max(Some(*hour));
                    }
                }
            }
            Entry::Usage(batch) => {
                for (seq, record) in (batch.first_seq..).zip(&batch.records) {
                    let Record::Usage(event) = record else { continue };
                    let first = seen.insert((batch.node.clone(), batch.epoch, seq));
                    hold(!first || closed.is_none_or(|closed| event.at.hour() > closed), || {
                        format!("law 6: usage at {} came after its hour was closed", event.at)
                    })?;
                }
            }
            Entry::Unreadable { .. } => {}
        }
    }
    hold(sum == total, || format!("law 1: {total} calls were answered, {sum} units were sealed"))
}

/// What was decided before the world begins: a tenant, a project, two keys, hard quotas on all of them.
pub fn control(limits: Limits, at: Timestamp) -> Vec<(u64, Decision)> {
    let quota = |scope, limit| ControlFact::QuotaSet {
        quota: QuotaRule {
            scope,
            meter: MeterName::tool_calls(),
            limit: Quantity(limit),
            kind: QuotaKind::Hard,
            period: PeriodRule::Month,
        },
    };
    let time_zone = "UTC".to_owned();
    let billing = BillingMode::None;
    let mut facts = vec![
        ControlFact::TenantCreated { tenant: TENANT, name: "t".to_owned(), time_zone, billing },
        ControlFact::ProjectCreated { tenant: TENANT, project: PROJECT, name: "p".to_owned() },
        quota(Scope::Tenant(TENANT), limits.tenant),
    ];
    for key in KEYS {
        facts.push(ControlFact::KeyCreated {
            tenant: TENANT,
            project: PROJECT,
            key,
            name: "k".to_owned(),
            digest: KeyDigest::of(&key.to_string()),
            hint: String::new(),
            scopes: vec![],
            tools: None,
            expires_at: None,
        });
        facts.push(quota(Scope::Key(key), limits.key));
    }
    let decision = DecisionId(Uuid::from_u128(9));
    vec![(1, Decision { v: 1, decision, at, by: "sim".to_owned(), tenant: TENANT, facts })]
}
