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

/// The most tokens that one call may count for: what it reserves.
pub const MAX_TOKENS: u64 = 20;

pub fn tokens() -> MeterName {
    "tokens".parse().expect("a name")
}

/// The limits of one run. Calls a month of each key and of the tenant; calls a day of the first key, and tokens a
/// month of the tenant, in some runs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub key: u64,
    pub tenant: u64,
    pub day: Option<u64>,
    pub tokens: Option<u64>,
}

impl Limits {
    /// The limit of a counter; `None` = it has none.
    fn of(&self, counter: &UseKey) -> Option<u64> {
        let calls = counter.meter == MeterName::tool_calls();
        match (counter.scope, counter.rule) {
            (Scope::Key(_), PeriodRule::Month) if calls => Some(self.key),
            (Scope::Key(key), PeriodRule::Day) if calls && key == KEYS[0] => self.day,
            (Scope::Key(_), _) | (_, PeriodRule::Day | PeriodRule::Anchored { .. }) => None,
            (Scope::Tenant(_) | Scope::Project(_), PeriodRule::Month) if calls => Some(self.tenant),
            (Scope::Tenant(_) | Scope::Project(_), PeriodRule::Month) => self.tokens,
        }
    }
}

/// What the clients know.
pub struct Model {
    pub limits: Limits,
    /// Calls by month and key.
    answered: BTreeMap<(Period, usize), u64>,
    /// Calls of the first key by day.
    daily: BTreeMap<Period, u64>,
    /// Tokens by month.
    tokens: BTreeMap<Period, u64>,
}

pub fn period(rule: PeriodRule, at: Timestamp) -> Period {
    rule.period_at(at, "UTC").expect("UTC is a time zone and the year is near")
}

fn hold(holds: bool, law: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(law())) }
}

impl Model {
    pub fn new(limits: Limits) -> Self {
        let (answered, daily, tokens) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { limits, answered, daily, tokens }
    }

    /// A client has the answer of a call that counts, with so many tokens.
    pub fn answered(&mut self, key: usize, at: Timestamp, used: u64) {
        let month = period(PeriodRule::Month, at);
        *self.answered.entry((month, key)).or_default() += 1;
        *self.tokens.entry(month).or_default() += used;
        if key == 0 {
            *self.daily.entry(period(PeriodRule::Day, at)).or_default() += 1;
        }
    }

    /// How often a key was answered in the month of `at`.
    pub fn of(&self, at: Timestamp, key: usize) -> u64 {
        self.answered.get(&(period(PeriodRule::Month, at), key)).copied().unwrap_or(0)
    }

    /// How many calls of a key every quota would still allow at `at`, each with the most tokens it may use.
    pub fn left(&self, at: Timestamp, key: usize) -> u64 {
        let all: u64 = (0..KEYS.len()).map(|key| self.of(at, key)).sum();
        let today = self.daily.get(&period(PeriodRule::Day, at)).copied().unwrap_or(0);
        let used = self.tokens.get(&period(PeriodRule::Month, at)).copied().unwrap_or(0);
        let day = self.limits.day.filter(|_| key == 0).map_or(u64::MAX, |limit| limit - today);
        let by_tokens = self.limits.tokens.map_or(u64::MAX, |limit| (limit - used) / MAX_TOKENS);
        (self.limits.key - self.of(at, key)).min(self.limits.tenant - all).min(day).min(by_tokens)
    }

    pub fn total(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Law 3, by what the clients have, and by what a ledger believes.
    pub fn check(&self, states: &[&ShardState]) -> Result<(), Violation> {
        let mut months: BTreeMap<Period, u64> = BTreeMap::new();
        for ((month, key), answered) in &self.answered {
            *months.entry(*month).or_default() += answered;
            hold(*answered <= self.limits.key, || {
                format!("law 3: key {key} was answered {answered} times")
            })?;
        }
        for all in months.values() {
            hold(*all <= self.limits.tenant, || {
                format!("law 3: the tenant was answered {all} times")
            })?;
        }
        for today in self.daily.values() {
            hold(self.limits.day.is_none_or(|limit| *today <= limit), || {
                format!("law 3: the first key was answered {today} times in a day")
            })?;
        }
        for used in self.tokens.values() {
            hold(self.limits.tokens.is_none_or(|limit| *used <= limit), || {
                format!("law 3: the tenant used {used} tokens")
            })?;
        }
        for state in states {
            for (key, value) in state.counters() {
                let limit = self.limits.of(key).unwrap_or(u64::MAX);
                let held = value.consumed + value.outstanding;
                hold(held <= limit, || format!("law 3: {key:?} has {value:?} of {limit}"))?;
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
        let counted = |meter: &MeterName| {
            let cells = database.hours.iter().filter(|((_, of), _)| of == meter);
            cells.map(|(_, units)| units).sum::<u64>()
        };
        let (calls, used) = (counted(&MeterName::tool_calls()), counted(&tokens()));
        hold(calls == total, || {
            format!("law 1: {total} calls were answered, the database has {calls}")
        })?;
        let told: u64 = self.tokens.values().sum();
        hold(used == told, || format!("law 1: {told} tokens were used, the database has {used}"))?;
        for ((period, key), answered) in &self.answered {
            let scope = Scope::Key(KEYS[*key]);
            let (meter, rule) = (MeterName::tool_calls(), PeriodRule::Month);
            let found = live.counter(&UseKey { scope, meter, rule, period: *period });
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
        self.told(log, live)?;
        sealed(log, total)
    }

    /// Every quota that was used to 80 or 100 % in a period was told of, each once.
    fn told(&self, log: &Log, live: &ShardState) -> Result<(), Violation> {
        let mut said = BTreeSet::new();
        for stored in &log.messages {
            let Entry::Ledger(batch) = &stored.entry else { continue };
            for fact in &batch.facts {
                let LedgerFact::ThresholdCrossed { quota, period, percent, .. } = fact else {
                    continue;
                };
                let QuotaRule { scope, meter, period: rule, .. } = quota.clone();
                let counter = UseKey { scope, meter, rule, period: *period };
                hold(said.insert((counter, *percent)), || {
                    format!("{percent} % of {quota:?} was told twice")
                })?;
            }
        }
        for (counter, value) in live.counters() {
            let quota = !matches!(counter.scope, Scope::Project(_));
            let Some(limit) = self.limits.of(counter).filter(|_| quota) else { continue };
            for percent in [80, 100] {
                let reached = value.consumed * 100 >= limit * u64::from(percent);
                hold(said.contains(&(counter.clone(), percent)) == reached, || {
                    format!("{percent} % of {counter:?}: {value:?} of {limit}, told: {}", !reached)
                })?;
            }
        }
        Ok(())
    }
}

fn usage_positions(log: &Log) -> u64 {
    let mut seen = BTreeSet::new();
    for stored in &log.messages {
        let Entry::Usage { batch, .. } = &stored.entry else { continue };
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
                    let calls = lines.iter().filter(|line| line.meter == MeterName::tool_calls());
                    sum += calls.map(|line| line.delta.0).sum::<u64>();
                    if *closes {
                        closed = closed.max(Some(*hour));
                    }
                }
            }
            Entry::Usage { batch, .. } => {
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
    let of = |scope, meter, limit, period| {
        let (limit, kind) = (Quantity(limit), QuotaKind::Hard);
        ControlFact::QuotaSet { quota: QuotaRule { scope, meter, limit, kind, period } }
    };
    let quota = |scope, limit| of(scope, MeterName::tool_calls(), limit, PeriodRule::Month);
    let (tenant, first) = (Scope::Tenant(TENANT), Scope::Key(KEYS[0]));
    let time_zone = "UTC".to_owned();
    let billing = BillingMode::None;
    let mut facts = vec![
        ControlFact::TenantCreated { tenant: TENANT, name: "t".to_owned(), time_zone, billing },
        ControlFact::ProjectCreated { tenant: TENANT, project: PROJECT, name: "p".to_owned() },
        quota(tenant, limits.tenant),
    ];
    facts.extend(limits.tokens.map(|limit| of(tenant, tokens(), limit, PeriodRule::Month)));
    // A quota may be set before its key is made.
    facts
        .extend(limits.day.map(|limit| of(first, MeterName::tool_calls(), limit, PeriodRule::Day)));
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
    vec![(
        1,
        Decision { v: 1, decision, at, by: "sim".to_owned(), tenant: TENANT, shard: None, facts },
    )]
}
