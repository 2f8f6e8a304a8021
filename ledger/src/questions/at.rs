//! `ledger at`: the state as of a sequence or a moment, folded in memory from the log alone.
//!
//! The same question about the same place has the same answer, to the byte: arrays are sorted, nothing is of now.

use std::{collections::BTreeMap, path::PathBuf};

use ledger_core::{EpochState, OpenLease, QuotaUse, ShardState};
use schemas::{Hour, KeyState, NodeId, TenantId, Timestamp};
use serde::Serialize;

use super::{
    Answer, QuestionError, connect,
    log::{Folded, Until, fold},
    shards_asked,
};
use crate::config::LogConfig;

/// See [`super::Question::At`].
#[derive(Debug, clap::Args)]
pub struct AtArgs {
    /// A TOML file of settings; `LEDGER_*` variables win over it. Only the log's address is needed.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    moment: Moment,
    /// One shard only.
    #[arg(long)]
    shard: Option<u16>,
    /// One tenant only.
    #[arg(long)]
    tenant: Option<TenantId>,
}

/// A place in the log's order.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Moment {
    /// A sequence of LOG.
    #[arg(long, value_name = "N")]
    seq: Option<u64>,
    /// A moment (RFC 3339): all that LOG had stored by then.
    #[arg(long, visible_alias = "at", value_name = "RFC3339", value_parser = rfc3339)]
    time: Option<Timestamp>,
}

impl Moment {
    pub fn until(&self) -> Until {
        match (self.seq, self.time) {
            (_, Some(time)) => Until::Time(time),
            (seq, None) => Until::Seq(seq.unwrap_or(0)), // One of them is there: the group says so.
        }
    }

    /// The moment itself; for a sequence, when the stream stored the last message folded.
    pub fn of(&self, folded: &Folded) -> Timestamp {
        self.time.or(folded.stored_at).unwrap_or_default().max(folded.state.at)
    }
}

fn rfc3339(text: &str) -> Result<Timestamp, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|error| error.to_string())?;
    Ok(time.to_utc().into())
}

/// One shard as printed.
#[derive(Serialize)]
struct ShardView {
    shard: u16,
    /// The last message of this shard that is folded, and the ledger's own place in it.
    seq: u64,
    ledger_seq: u64,
    control_seq: u64,
    /// The ledger's time.
    at: Timestamp,
    keys: Vec<KeyState>,
    quotas: Vec<QuotaUse>,
    leases: Vec<OpenLease>,
    nodes: BTreeMap<NodeId, BTreeMap<u64, EpochView>>,
    hours_closed: Vec<ClosedHour>,
}

/// One epoch of a node.
#[derive(Serialize)]
struct EpochView {
    watermark: u64,
    ended: bool,
    /// Positions that are missing, `[first, last]`.
    missing: Vec<(u64, u64)>,
}

/// A closed hour: by the fact at `seq`.
#[derive(Serialize)]
struct ClosedHour {
    hour: Hour,
    begins: String,
    seq: u64,
    behind: Vec<NodeId>,
}

pub(super) async fn answer(args: AtArgs) -> Result<Answer, QuestionError> {
    let config = LogConfig::load(args.config.as_deref())?;
    let (nats, shards) = connect(&config.nats_url).await?;
    let mut views = Vec::new();
    for shard in shards_asked(shards, args.shard, args.tenant)? {
        let mut closed = Vec::new();
        let folded = fold(&nats, shard, args.moment.until(), |_, changes| {
            closed.extend(changes.closed_hours.into_iter().map(|(hour, (seq, behind))| {
                ClosedHour { hour, begins: hour.start().to_string(), seq, behind }
            }));
        })
        .await?;
        let moment = args.moment.of(&folded);
        views.push(view(&folded.state, moment, args.tenant, closed));
    }
    let mut text = serde_json::to_string_pretty(&views)?;
    text.push('\n');
    Ok(Answer { text, good: true })
}

fn view(
    state: &ShardState,
    moment: Timestamp,
    tenant: Option<TenantId>,
    mut hours_closed: Vec<ClosedHour>,
) -> ShardView {
    let asked = |of: TenantId| tenant.is_none_or(|tenant| tenant == of);
    let mut keys: Vec<KeyState> = state.keys().filter(|key| asked(key.tenant)).collect();
    keys.sort_by_key(|key| key.key);
    let mut quotas: Vec<QuotaUse> =
        state.quota_uses(moment).filter(|quota| asked(quota.tenant)).collect();
    quotas.sort_by(|a, b| {
        let name = |quota: &QuotaUse| (quota.rule.scope, quota.rule.meter.clone(), quota.within);
        name(a).cmp(&name(b))
    });
    let mut leases: Vec<OpenLease> =
        state.leases().filter(|open| asked(open.lease.tenant)).cloned().collect();
    leases.sort_by_key(|open| open.lease.lease);
    let nodes = state.nodes().into_iter().map(|(node, known)| {
        let epochs = known.epochs.iter().map(|(epoch, state)| (epoch.0, epoch_view(state)));
        (node, epochs.collect())
    });
    hours_closed.sort_by_key(|closed| closed.hour);
    ShardView {
        shard: state.shard.0,
        seq: state.seq,
        ledger_seq: state.ledger_seq,
        control_seq: state.control_seq,
        at: state.at,
        keys,
        quotas,
        leases,
        nodes: nodes.collect(),
        hours_closed,
    }
}

fn epoch_view(state: &EpochState) -> EpochView {
    let mut next = state.seen.watermark + 1;
    let mut missing = Vec::with_capacity(state.seen.beyond.len());
    for (first, last) in &state.seen.beyond {
        missing.push((next, first - 1));
        next = last + 1;
    }
    EpochView { watermark: state.seen.watermark, ended: state.ended, missing }
}
