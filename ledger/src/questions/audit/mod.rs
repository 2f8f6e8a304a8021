//! `ledger audit`: what is missing, held, unread, different or in conflict, with ages and places.
//!
//! Gaps and leases are those of the live state; the log says since when. Quarantine and closed hours are the tables'.
//! The log is walked twice at most: once for all, and once more for positions that came more than once.
//! Absent on purpose: any repair.

mod conflict;
mod report;
mod scan;
mod tie_out;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use ledger_core::ShardState;
use runtime::{nats::Nats, settings::Secret};
use schemas::{Epoch, Hour, MeterName, NodeId, Shard, TenantId, Timestamp};
use sqlx::PgPool;

use self::{
    conflict::{Conflict, Repeated},
    scan::{Behind, Reached, Scan, Shown},
    tie_out::{TieOut, Tied},
};
use super::{
    Answer, QuestionError, connect,
    quarantine::{self, Kept},
};
use crate::{config::Config, store, streams};

/// See [`super::Question::Audit`].
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// A TOML file of settings; `LEDGER_*` variables win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// ClickHouse, to compare hours with (`http://user:password@host:port/database`). A password is better kept in
    /// `LEDGER_CLICKHOUSE_URL`. Without either, hours are not compared.
    #[arg(long, value_name = "URL")]
    clickhouse_url: Option<String>,
    /// How old a gap or a lag may be before the audit fails. Unit: seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    grace: u32,
    /// How many days of closed hours are told.
    #[arg(long, default_value_t = 2)]
    days: u16,
    /// How many days of hours are compared with ClickHouse; 40 is what the log keeps.
    #[arg(long, default_value_t = 40)]
    tie_days: u16,
}

/// Positions that are missing while later ones are there.
#[derive(Debug)]
struct Gap {
    shard: Shard,
    node: NodeId,
    epoch: Epoch,
    first: u64,
    last: u64,
    /// `None` = the message that showed it has expired.
    shown: Option<Shown>,
}

/// What one node holds of one tenant's meter.
#[derive(Debug, Default)]
struct HeldUnits {
    units: u64,
    leases: u64,
    /// Of leases that have ended and are not settled.
    expired: u64,
}

/// One hour that shards closed.
#[derive(Debug, Default)]
struct ClosedHour {
    shards: Vec<i32>,
    behind: std::collections::BTreeSet<String>,
    last_seq: i64,
}

/// All that the audit found.
#[derive(Debug)]
struct Findings {
    now: Timestamp,
    grace_ms: i64,
    gaps: Vec<Gap>,
    held: BTreeMap<(NodeId, TenantId, MeterName), HeldUnits>,
    quarantined: Vec<Kept>,
    closed: BTreeMap<i64, ClosedHour>,
    unfolded: Behind,
    unread: Behind,
    /// `None` = no ClickHouse was named.
    tied: Option<Tied>,
    resent: u64,
    conflicts: Vec<Conflict>,
}

const DAY_MS: i64 = 24 * 3_600_000;

pub(super) async fn answer(args: AuditArgs) -> Result<Answer, QuestionError> {
    let config = Config::load(args.config.as_deref())?;
    let (nats, shards) = connect(&config.nats_url).await?;
    let created_ms = streams::log_created_ms(&nats).await?;
    let pool =
        runtime::postgres::connect_read_only(config.postgres_url.expose(), store::SCHEMA).await?;
    let url = args.clickhouse_url.map(Secret::new).or(config.clickhouse_url);
    let tie_out = match &url {
        Some(url) => Some(TieOut::open(&pool, url.expose(), created_ms, shards).await?),
        None => None,
    };
    let now = Timestamp::from(chrono::Utc::now());
    let mut found = Findings::new(now, args.grace);
    let mut touched = HashSet::new();
    for shard in (0..shards).map(Shard) {
        let (state, _) = store::load(&pool, shard, created_ms).await?;
        found.hold(&state);
        let reached = Reached {
            ledger: state.seq,
            compared: tie_out.as_ref().map_or(0, |tie_out| tie_out.checkpoint(shard)),
            clickhouse: tie_out.as_ref().map_or(u64::MAX, |tie_out| tie_out.mark),
        };
        let scan = scan::scan(&nats, shard, reached).await?;
        found.log(&nats, &state, &scan).await?;
        touched.extend(scan.touched);
    }
    if let Some(tie_out) = tie_out {
        let since = now.plus_ms(-i64::from(args.tie_days) * DAY_MS).hour();
        found.tied = Some(tie_out.compare(since, &touched).await?);
    }
    found.quarantined = quarantine::kept(&pool, false).await?;
    found.closed = closed(&pool, now.plus_ms(-i64::from(args.days) * DAY_MS).hour()).await?;
    Ok(report::report(&found))
}

impl Findings {
    fn new(now: Timestamp, grace_s: u32) -> Self {
        Self {
            now,
            grace_ms: i64::from(grace_s) * 1_000,
            gaps: Vec::new(),
            held: BTreeMap::new(),
            quarantined: Vec::new(),
            closed: BTreeMap::new(),
            unfolded: Behind::default(),
            unread: Behind::default(),
            tied: None,
            resent: 0,
            conflicts: Vec::new(),
        }
    }

    /// Adds what a shard's open leases hold.
    fn hold(&mut self, state: &ShardState) {
        for open in state.leases() {
            let lease = &open.lease;
            for (meter, units) in open.left().into_iter().filter(|(_, units)| *units > 0) {
                let name = (lease.node.clone(), lease.tenant, meter);
                let held = self.held.entry(name).or_default();
                held.units += units;
                held.leases += 1;
                if lease.expires_at <= self.now {
                    held.expired += units;
                }
            }
        }
    }

    /// Adds what a shard's log says.
    async fn log(
        &mut self,
        nats: &Nats,
        state: &ShardState,
        scan: &Scan,
    ) -> Result<(), QuestionError> {
        self.gaps.extend(gaps(state, scan));
        self.unfolded = self.unfolded.with(scan.unfolded);
        self.unread = self.unread.with(scan.unread);
        let Repeated { resent, conflicts } = conflict::compare(nats, state.shard, scan).await?;
        self.resent += resent;
        self.conflicts.extend(conflicts);
        Ok(())
    }
}

/// The gaps of a state, with what first showed them.
fn gaps(state: &ShardState, scan: &Scan) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for (node, known) in state.nodes() {
        for (epoch, positions) in &known.epochs {
            let place = scan.places.get(&(node.clone(), *epoch));
            let mut next = positions.seen.watermark + 1;
            for (first, last) in &positions.seen.beyond {
                gaps.push(Gap {
                    shard: state.shard,
                    node: node.clone(),
                    epoch: *epoch,
                    first: next,
                    last: first - 1,
                    shown: place.and_then(|place| place.shown(*first)),
                });
                next = last + 1;
            }
        }
    }
    gaps
}

async fn closed(pool: &PgPool, since: Hour) -> Result<BTreeMap<i64, ClosedHour>, sqlx::Error> {
    const CLOSED: &str =
        "select hour, shard, behind, seq from hour_closed where hour >= $1 order by hour, shard";
    let rows: Vec<(i64, i32, Vec<String>, i64)> =
        sqlx::query_as(CLOSED).bind(since.0).fetch_all(pool).await?;
    let mut closed: BTreeMap<i64, ClosedHour> = BTreeMap::new();
    for (hour, shard, behind, seq) in rows {
        let of_hour = closed.entry(hour).or_default();
        of_hour.shards.push(shard);
        of_hour.behind.extend(behind);
        of_hour.last_seq = of_hour.last_seq.max(seq);
    }
    Ok(closed)
}
