//! The tenants, keys and quotas that are measured with: as many as wanted, the same in every run.

use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, KeyDigest, KeyId, LedgerFact, MeterName,
    PeriodRule, ProjectId, Quantity, QuotaKind, QuotaRule, Scope, Shard, TenantId, Timestamp,
    fact::VERSION,
};
use uuid::Uuid;

const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"];

/// What kind of thing an id names.
#[derive(Clone, Copy)]
pub enum Kind {
    Tenant,
    Project,
    Key,
    Decision,
    Lease,
}

/// The id of the `number`th thing of a kind; ids are spread as random ones are.
pub fn id(kind: Kind, number: u64) -> Uuid {
    let seed = (kind as u64 + 1) << 56 | number;
    Uuid::from_u128(u128::from(mix(seed)) << 64 | u128::from(mix(!seed)))
}

/// The finalizer of SplitMix64: every bit of the input changes half of the output's.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One tenant with one project.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub number: u64,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub shard: Shard,
    pub keys: Vec<KeyId>,
    /// The limit of each key's hard quota; every key has one or none has.
    pub limit: Option<u64>,
}

/// So many tenants with so many keys each; `limit` says each tenant's keys' quota.
pub fn tenants(
    count: u64,
    keys_each: u64,
    shards: u16,
    limit: impl Fn(u64) -> Option<u64>,
) -> Vec<Tenant> {
    let key = |tenant: u64, number: u64| KeyId(id(Kind::Key, tenant * keys_each + number));
    (0..count)
        .map(|number| {
            let tenant = TenantId(id(Kind::Tenant, number));
            Tenant {
                number,
                tenant,
                project: ProjectId(id(Kind::Project, number)),
                shard: Shard::of(tenant, shards),
                keys: (0..keys_each).map(|place| key(number, place)).collect(),
                limit: limit(number),
            }
        })
        .collect()
}

/// The secret of a key: nobody's secret, so it may follow from the id.
pub fn secret(key: KeyId) -> String {
    format!("tb_{}", key.0.simple())
}

impl Tenant {
    pub fn time_zone(&self) -> &'static str {
        ZONES[usize::try_from(self.number).unwrap_or(0) % ZONES.len()]
    }

    /// The decision that makes the tenant, its project, its keys and their quotas.
    pub fn decision(&self, at: Timestamp) -> Decision {
        let (tenant, project) = (self.tenant, self.project);
        let mut facts = vec![
            ControlFact::TenantCreated {
                tenant,
                name: format!("Tenant {}", self.number),
                time_zone: self.time_zone().to_owned(),
                billing: BillingMode::None,
            },
            ControlFact::ProjectCreated { tenant, project, name: "main".to_owned() },
        ];
        facts.extend(self.keys.iter().map(|key| self.key_created(*key)));
        facts.extend(self.keys.iter().filter_map(|key| self.quota_set(*key)));
        let decision = DecisionId(id(Kind::Decision, self.number));
        Decision { v: VERSION, decision, at, by: "bench".to_owned(), tenant, shard: None, facts }
    }

    /// The same as the ledger takes it in.
    pub fn taken(&self, at: Timestamp) -> LedgerFact {
        LedgerFact::ControlTaken { control_seq: 0, decision: self.decision(at) }
    }

    fn key_created(&self, key: KeyId) -> ControlFact {
        let secret = secret(key);
        ControlFact::KeyCreated {
            tenant: self.tenant,
            project: self.project,
            key,
            name: "key".to_owned(),
            digest: KeyDigest::of(&secret),
            hint: schemas::secret::hint(&secret),
            scopes: vec![],
            tools: None,
            expires_at: None,
        }
    }

    fn quota_set(&self, key: KeyId) -> Option<ControlFact> {
        let quota = QuotaRule {
            scope: Scope::Key(key),
            meter: MeterName::tool_calls(),
            limit: Quantity(self.limit?),
            kind: QuotaKind::Hard,
            period: PeriodRule::Month,
        };
        Some(ControlFact::QuotaSet { quota })
    }
}
