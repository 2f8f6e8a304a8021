//! `ledger rebuild`: folds `LOG` from its first message into an empty place and proves that it equals the live state.
//!
//! The code that folds and stores is the code that serves. Every shard is folded up to its live checkpoint, read with
//! all live rows at one snapshot, so a ledger that serves meanwhile changes nothing of the comparison. The snapshot
//! stays open while the log is folded: PostgreSQL's vacuum waits for it that long.
//!
//! Absent on purpose: anything that would overwrite. What is not empty is refused, what a person named is kept.

use std::{fmt::Write as _, path::PathBuf, time::Instant};

use futures::{StreamExt, TryStreamExt};
use ledger_core::{Changes, Entry, ShardState};
use runtime::{nats::Nats, settings::Secret};
use schemas::Shard;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Answer, QuestionError,
    compare::{Compared, compare},
    connect,
    log::ShardLog,
    table::table,
};
use crate::{
    config::Config,
    store::{self, StoreError, Write},
    streams,
};

/// How many messages one transaction holds at least. Range: the log's batches decide how many more.
const COMMIT_EVERY: u64 = 10_000;
/// How many shards are folded at once.
const AT_ONCE: usize = 4;

/// See [`super::Question::Rebuild`].
#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// A TOML file of settings; `LEDGER_*` variables win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Another database to rebuild into (schema `ledger`, which must be empty); it is kept.
    #[arg(long, value_name = "POSTGRES_URL", conflicts_with = "schema")]
    into: Option<String>,
    /// A schema of the same database to rebuild into, which must be empty; it is kept. a-z and `_` only.
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
    /// Keep the scratch schema that is used when neither is given.
    #[arg(long)]
    keep: bool,
}

/// Where it is rebuilt.
struct Place {
    url: Secret,
    schema: String,
    /// Ours alone: dropped at the end.
    scratch: bool,
}

pub(super) async fn answer(args: RebuildArgs) -> Result<Answer, QuestionError> {
    let config = Config::load(args.config.as_deref())?;
    let begun = Instant::now();
    let (nats, shards) = connect(&config.nats_url).await?;
    let live =
        runtime::postgres::connect_read_only(config.postgres_url.expose(), store::SCHEMA).await?;
    let mut snapshot = live.begin().await?;
    let checkpoints = checkpoints(&mut snapshot, &nats).await?;
    let place = place(&args, config.postgres_url);
    refuse_unless_empty(&place).await?;
    let migrations = &store::MIGRATIONS;
    let pool = runtime::postgres::connect(place.url.expose(), &place.schema, migrations).await?;
    let outcome = rebuild_and_compare(&nats, &pool, &mut snapshot, &checkpoints).await;
    pool.close().await;
    let dropped = if place.scratch && !args.keep { drop_schema(&place).await } else { Ok(()) };
    let (events, compared) = outcome?;
    dropped?;
    let elapsed = begun.elapsed().as_millis();
    Ok(report(&compared, shards, events, elapsed))
}

fn place(args: &RebuildArgs, live: Secret) -> Place {
    match (&args.into, &args.schema) {
        (Some(url), _) => Place {
            url: Secret::new(url.clone()),
            schema: store::SCHEMA.to_owned(),
            scratch: false,
        },
        (None, Some(schema)) => Place { url: live, schema: schema.clone(), scratch: false },
        (None, None) => Place { url: live, schema: scratch_name(), scratch: true },
    }
}

/// `ledger_rebuild_` and the time in letters: the only characters that a schema of ours has.
fn scratch_name() -> String {
    let mut rest = chrono::Utc::now().timestamp_micros().unsigned_abs();
    let mut name = "ledger_rebuild_".to_owned();
    while rest > 0 {
        let letter = u8::try_from(rest % 26).expect("under 26");
        name.push(char::from(b'a' + letter));
        rest /= 26;
    }
    name
}

async fn refuse_unless_empty(place: &Place) -> Result<(), QuestionError> {
    let mut connection = PgConnection::connect(place.url.expose()).await?;
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1",
    )
    .bind(&place.schema)
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    if tables == 0 {
        return Ok(());
    }
    let schema = &place.schema;
    Err(QuestionError::Asked(format!(
        "schema `{schema}` is not empty: a rebuild begins with nothing"
    )))
}

async fn drop_schema(place: &Place) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(place.url.expose()).await?;
    let statement = format!("drop schema {} cascade", place.schema);
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await
}

/// The live checkpoint of each shard that has one; the transaction stays at that moment.
async fn checkpoints(
    snapshot: &mut Transaction<'_, Postgres>,
    nats: &Nats,
) -> Result<Vec<(Shard, u64)>, QuestionError> {
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut **snapshot)
        .await?;
    let found: Vec<(i32, i64, i64)> =
        sqlx::query_as("select shard, seq, log_created_ms from checkpoint order by shard")
            .fetch_all(&mut **snapshot)
            .await?;
    let created_ms = streams::log_created_ms(nats).await?;
    let mut checkpoints = Vec::with_capacity(found.len());
    for (shard, seq, of_log) in found {
        if of_log != created_ms {
            return Err(StoreError::OtherLog { checkpoint: of_log, found: created_ms }.into());
        }
        let number = u16::try_from(shard)
            .map_err(|_| QuestionError::Asked(format!("shard {shard} has a checkpoint")))?;
        checkpoints.push((Shard(number), store::unsigned(seq)));
    }
    Ok(checkpoints)
}

async fn rebuild_and_compare(
    nats: &Nats,
    pool: &PgPool,
    snapshot: &mut Transaction<'_, Postgres>,
    checkpoints: &[(Shard, u64)],
) -> Result<(u64, Vec<Compared>), QuestionError> {
    let created_ms = streams::log_created_ms(nats).await?;
    let folds = checkpoints.iter().map(|(shard, to)| {
        let (nats, pool, shard, to) = (nats.clone(), pool.clone(), *shard, *to);
        let fold = tokio::spawn(rebuild_shard(nats, pool, shard, to, created_ms));
        async {
            let task = AbortOnDropHandle::new(fold);
            task.await.map_err(|error| QuestionError::Asked(format!("a fold ended: {error}")))?
        }
    });
    let events: Vec<u64> =
        futures::stream::iter(folds).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut rebuilt = pool.acquire().await?;
    let compared = compare(snapshot, &mut rebuilt).await?;
    Ok((events.iter().sum(), compared))
}

/// Folds one shard up to `to` and stores it; returns how many records of nodes it held.
async fn rebuild_shard(
    nats: Nats,
    pool: PgPool,
    shard: Shard,
    to: u64,
    created_ms: i64,
) -> Result<u64, QuestionError> {
    let mut log = ShardLog::from_birth(&nats, shard).await?;
    let (mut state, mut changes) = (ShardState::new(shard), Changes::default());
    let (mut committed, mut gathered, mut events) = (0, 0, 0);
    let mut committing: Option<AbortOnDropHandle<Result<(), StoreError>>> = None;
    loop {
        let messages = log.next().await?;
        let within: Vec<_> = messages.into_iter().take_while(|logged| logged.seq <= to).collect();
        for logged in &within {
            if let Entry::Usage { batch, .. } = &logged.entry {
                events += batch.records.len() as u64;
            }
            state.apply(logged.seq, &logged.entry, &mut changes);
            gathered += 1;
        }
        let ended = within.is_empty() || state.seq >= to;
        if state.seq > committed && (ended || gathered >= COMMIT_EVERY) {
            landed(committing.take()).await?;
            let taken = std::mem::take(&mut changes);
            let write = Write::gather(&state, taken, committed, created_ms);
            (committed, gathered) = (state.seq, 0);
            let pool = pool.clone();
            let commit = tokio::spawn(async move { write.commit(&pool).await });
            committing = Some(AbortOnDropHandle::new(commit));
        }
        if ended {
            break;
        }
    }
    landed(committing).await?;
    if state.seq == to {
        return Ok(events);
    }
    let found = state.seq;
    Err(QuestionError::Asked(format!(
        "the checkpoint of shard {shard} is at {to}, but LOG has no such message of that shard: the last before it is {found}"
    )))
}

async fn landed(
    committing: Option<AbortOnDropHandle<Result<(), StoreError>>>,
) -> Result<(), QuestionError> {
    let Some(commit) = committing else { return Ok(()) };
    let outcome = commit.await;
    Ok(outcome.map_err(|error| QuestionError::Asked(format!("a commit ended: {error}")))??)
}

fn report(compared: &[Compared], shards: u16, events: u64, elapsed_ms: u128) -> Answer {
    let good = compared.iter().all(|table| table.differences == 0);
    let rows: Vec<Vec<String>> = compared
        .iter()
        .map(|table| {
            let (live, rebuilt) = (table.live.digest(), table.rebuilt.digest());
            let verdict = match table.differences {
                0 => "equal".to_owned(),
                rows => format!("DIFFERS in {rows}"),
            };
            let short = |digest: &str| digest[..16].to_owned();
            vec![
                table.table.clone(),
                table.live.rows.to_string(),
                table.rebuilt.rows.to_string(),
                short(&live),
                short(&rebuilt),
                verdict,
            ]
        })
        .collect();
    let names = ["table", "rows live", "rebuilt", "sha256 live", "sha256 rebuilt", ""];
    let mut text = table(&names, &rows);
    for table in compared {
        for row in &table.first {
            let side = |row: &Option<String>| row.clone().unwrap_or_else(|| "(no such row)".into());
            let (live, rebuilt) = (side(&row.live), side(&row.rebuilt));
            writeln!(
                text,
                "\n{} {}\n  live     {live}\n  rebuilt  {rebuilt}",
                table.table, row.key
            )
            .expect("a String takes all");
        }
    }
    let (seconds, rest) = (elapsed_ms / 1_000, elapsed_ms % 1_000);
    writeln!(
        text,
        "{{\"shards\":{shards},\"events\":{events},\"seconds\":{seconds}.{rest:03},\"equal\":{good}}}"
    )
    .expect("a String takes all");
    Answer { text, good }
}
