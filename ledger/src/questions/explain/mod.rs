//! `ledger explain`: why a call with a key would be allowed or refused at a moment, and which facts made it so.
//!
//! Everything is folded from the log up to that moment; nothing is of now.

mod cause;
mod text;
mod verdict;

use std::{collections::BTreeMap, path::PathBuf};

use ledger_core::{OpenLease, Policy, QuotaUse};
use schemas::{Epoch, KeyId, KeyState, KeyStatus, LeaseId, MeterName, NodeId, TenantId, Timestamp};
use serde::Serialize;

use self::{
    cause::{Cause, Causes},
    verdict::{Verdict, can_spend, verdict},
};
use super::{
    Answer, QuestionError,
    at::Moment,
    connect,
    log::{Folded, fold},
    shards_asked,
};
use crate::config::LogConfig;

/// See [`super::Question::Explain`].
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// A TOML file of settings; `LEDGER_*` variables win over it. Only the log's address is needed.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The key's id (`key_…`), never its secret.
    #[arg(long)]
    key: KeyId,
    /// Its tenant: only that tenant's shard is folded then, not all until the key is found.
    #[arg(long)]
    tenant: Option<TenantId>,
    #[command(flatten)]
    moment: Moment,
    /// As JSON rather than text.
    #[arg(long)]
    json: bool,
}

/// All that is known of one key at one moment.
#[derive(Serialize)]
struct Explanation {
    as_of: AsOf,
    key: KeyState,
    /// The decisions that made its status.
    because: Vec<Cause>,
    quotas: Vec<LimitingQuota>,
    leases: Vec<LeaseThen>,
    #[serde(flatten)]
    verdict: Verdict,
}

/// The place in the log's order.
#[derive(Serialize)]
struct AsOf {
    moment: Timestamp,
    shard: u16,
    /// The last message folded.
    seq: u64,
}

/// A quota that counts the key's calls.
#[derive(Serialize)]
struct LimitingQuota {
    #[serde(flatten)]
    quota: QuotaUse,
    because: Option<Cause>,
}

/// A lease of the key that was not settled.
#[derive(Serialize)]
struct LeaseThen {
    lease: LeaseId,
    node: NodeId,
    epoch: Epoch,
    granted_seq: u64,
    granted_at: Timestamp,
    until: Timestamp,
    /// Meter → (units, spent), as the log had it; empty = unlimited.
    units: BTreeMap<MeterName, (u64, u64)>,
    /// Whether its node may still spend it.
    spendable: bool,
    forfeited: bool,
}

pub(super) async fn answer(args: ExplainArgs) -> Result<Answer, QuestionError> {
    let config = LogConfig::load(args.config.as_deref())?;
    let (nats, shards) = connect(&config.nats_url).await?;
    for shard in shards_asked(shards, None, args.tenant)? {
        let mut causes = Causes::of(args.key);
        let until = args.moment.until();
        let folded = fold(&nats, shard, until, |logged, _| causes.note(logged)).await?;
        let moment = args.moment.of(&folded);
        if let Some(found) = explain(&folded, args.key, &causes, moment, config.leases()) {
            let text = if args.json {
                serde_json::to_string_pretty(&found)? + "\n"
            } else {
                text::text(&found)
            };
            return Ok(Answer { text, good: true });
        }
    }
    let key = args.key;
    Err(QuestionError::Asked(match args.tenant {
        Some(tenant) => format!("{tenant} had no {key} then"),
        None => format!("there was no {key} then"),
    }))
}

fn explain(
    folded: &Folded,
    key: KeyId,
    causes: &Causes,
    moment: Timestamp,
    policy: Policy,
) -> Option<Explanation> {
    let state = &folded.state;
    let (_, view) = state.key(key)?;
    let mut quotas: Vec<LimitingQuota> = state
        .quota_uses(moment)
        .filter(|quota| state.covers(quota.rule.scope, key))
        .map(|quota| LimitingQuota { because: causes.quota(&quota.rule).cloned(), quota })
        .collect();
    quotas.sort_by(|a, b| {
        let name = |q: &LimitingQuota| (q.quota.rule.scope, q.quota.rule.meter.clone());
        name(a).cmp(&name(b))
    });
    let of_key = state.leases().filter(|open| open.lease.key == key);
    let mut leases: Vec<LeaseThen> = of_key.map(|open| lease_then(open, moment)).collect();
    leases.sort_by_key(|open| (open.granted_at, open.lease));
    Some(Explanation {
        as_of: AsOf { moment, shard: state.shard.0, seq: state.seq },
        because: because(&view, causes),
        quotas,
        leases,
        verdict: verdict(state, &view, moment, policy),
        key: view,
    })
}

/// The decisions behind a status, the one that made it last.
fn because(key: &KeyState, causes: &Causes) -> Vec<Cause> {
    let last = match key.status {
        KeyStatus::Revoked => causes.revoked.as_ref(),
        KeyStatus::Suspended | KeyStatus::Active => causes.access(key.tenant),
        KeyStatus::Pending => causes.tenant(key.tenant),
    };
    causes.created.iter().chain(&causes.rotated).chain(&causes.rate).chain(last).cloned().collect()
}

fn lease_then(open: &OpenLease, moment: Timestamp) -> LeaseThen {
    let lease = &open.lease;
    let units = lease.shares.iter().map(|share| {
        let spent = open.spent.get(&share.meter).copied().unwrap_or(0);
        (share.meter.clone(), (share.units.0, spent))
    });
    LeaseThen {
        lease: lease.lease,
        node: lease.node.clone(),
        epoch: lease.epoch,
        granted_seq: open.granted_seq,
        granted_at: lease.granted_at,
        until: lease.expires_at,
        units: units.collect(),
        spendable: can_spend(open, moment),
        forfeited: open.forfeited,
    }
}
