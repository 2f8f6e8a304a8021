//! `ledger quarantine`: what could not be counted, as the ledger keeps it, and what becomes of it (see `resolve`).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::PgPool;

use super::{
    Answer, QuestionError, connect,
    resolve::{self, Wish},
    table::{age, table},
};
use crate::{config::Config, store};

/// See [`super::Question::Quarantine`].
#[derive(Debug, clap::Args)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One line for each message or record that waits for a person, the oldest first.
    List {
        /// Also those of which a person has decided.
        #[arg(long)]
        all: bool,
        /// A TOML file of settings; `LEDGER_*` variables win over it.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// One message or record, whole.
    Show {
        /// A TOML file of settings; `LEDGER_*` variables win over it.
        #[arg(long)]
        config: Option<PathBuf>,
        /// Its sequence, and the position of the record where it is not the whole message.
        #[arg(value_name = "SEQ[/RECORD]", value_parser = place)]
        place: Place,
    },
    /// Counts it for nothing.
    Discard {
        #[command(flatten)]
        of: Of,
        /// Why, in words: it is kept for ever.
        #[arg(long)]
        why: String,
    },
    /// Counts one record at its own time, once; its lease has nothing to do with it any more.
    Count {
        #[command(flatten)]
        of: Of,
        /// The usage event as it should have been, in JSON.
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
    },
    /// Reads a whole message again; its records count at their positions, once.
    Replay {
        #[command(flatten)]
        of: Of,
        /// The message as it should have been, in JSON.
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
    },
}

/// What is decided of, and by whom.
#[derive(Debug, clap::Args)]
struct Of {
    /// A TOML file of settings; `LEDGER_*` variables win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Who decides: a name or a role, no e-mail address.
    #[arg(long, default_value = "operator")]
    by: String,
    /// Its sequence, and the position of the record where it is not the whole message.
    #[arg(value_name = "SEQ[/RECORD]", value_parser = place)]
    place: Place,
}

/// A sequence, and a position in that message; 0 = the whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    seq: i64,
    record: i64,
}

fn place(text: &str) -> Result<Place, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number"));
    let (seq, record) = text.split_once('/').unwrap_or((text, "0"));
    Ok(Place { seq: number(seq)?, record: number(record)? })
}

/// One row of the table.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Kept {
    pub shard: i32,
    pub stream: String,
    pub seq: i64,
    pub record: i64,
    pub reason: String,
    pub payload: String,
    /// `discarded`, `counted`, `replayed`, by the fact at `resolved_seq`; `None` = it waits for a person.
    pub resolution: Option<String>,
    pub resolved_seq: Option<i64>,
    /// Unit: milliseconds since the ledger found it.
    pub age_ms: i64,
}

const ROWS: &str = "select shard, stream, seq, record, reason, payload, resolution, resolved_seq,
    (extract(epoch from now() - found_at) * 1000)::bigint as age_ms from quarantine";

/// What waits for a person, the oldest first; with `resolved`, also what does not any more.
///
/// # Errors
/// PostgreSQL.
pub(super) async fn kept(pool: &PgPool, resolved: bool) -> Result<Vec<Kept>, sqlx::Error> {
    let query =
        format!("{ROWS} where $1 or resolution is null order by found_at, stream, seq, record");
    sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(resolved).fetch_all(pool).await
}

async fn at(pool: &PgPool, place: Place) -> Result<Vec<Kept>, sqlx::Error> {
    let query = format!("{ROWS} where seq = $1 and record = $2 order by stream desc");
    sqlx::query_as(sqlx::AssertSqlSafe(query))
        .bind(place.seq)
        .bind(place.record)
        .fetch_all(pool)
        .await
}

impl Command {
    fn config(&self) -> Option<&Path> {
        match self {
            Self::List { config, .. } | Self::Show { config, .. } => config.as_deref(),
            Self::Discard { of, .. } | Self::Count { of, .. } | Self::Replay { of, .. } => {
                of.config.as_deref()
            }
        }
    }
}

pub(super) async fn answer(args: QuarantineArgs) -> Result<Answer, QuestionError> {
    let config = Config::load(args.command.config())?;
    let pool =
        runtime::postgres::connect_read_only(config.postgres_url.expose(), store::SCHEMA).await?;
    let text = match &args.command {
        Command::List { all, .. } => list(&kept(&pool, *all).await?),
        Command::Show { place, .. } => known(&pool, *place).await?.iter().map(show).collect(),
        Command::Discard { of, why } => decide(&config, &pool, of, Wish::Discard { why }).await?,
        Command::Count { of, with } => {
            decide(&config, &pool, of, Wish::Count { with: with.as_deref() }).await?
        }
        Command::Replay { of, with } => {
            decide(&config, &pool, of, Wish::Replay { with: with.as_deref() }).await?
        }
    };
    Ok(Answer { text, good: true })
}

async fn known(pool: &PgPool, place: Place) -> Result<Vec<Kept>, QuestionError> {
    let found = at(pool, place).await?;
    if found.is_empty() {
        let Place { seq, record } = place;
        return Err(QuestionError::Asked(format!("{seq}/{record} is not in quarantine")));
    }
    Ok(found)
}

/// Decides, and waits a while for the ledger to say what became of it.
async fn decide(
    config: &Config,
    pool: &PgPool,
    of: &Of,
    wish: Wish<'_>,
) -> Result<String, QuestionError> {
    let found = known(pool, of.place).await?;
    let (nats, shards) = connect(&config.nats_url).await?;
    let control_seq = resolve::decide((&nats, shards), &found[0], wish, &of.by).await?;
    let give_up = tokio::time::Instant::now() + resolve::TIMEOUT;
    loop {
        let now = known(pool, of.place).await?;
        if now[0].resolution.is_some() {
            return Ok(now.iter().map(show).collect());
        }
        if tokio::time::Instant::now() > give_up {
            return Ok(format!(
                "decided at CONTROL {control_seq}; no ledger has taken it in yet\n"
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn list(found: &[Kept]) -> String {
    if found.is_empty() {
        return "nothing is in quarantine\n".to_owned();
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|kept| {
            vec![
                name(kept),
                kept.stream.clone(),
                shard(kept),
                age(kept.age_ms),
                kept.reason.clone(),
                resolution(kept),
            ]
        })
        .collect();
    table(&["seq/record", "stream", "shard", "age", "reason", ""], &rows)
}

fn show(kept: &Kept) -> String {
    let Kept { stream, reason, payload, .. } = kept;
    let (name, shard, age) = (name(kept), shard(kept), age(kept.age_ms));
    let resolved = match resolution(kept) {
        none if none.is_empty() => none,
        said => format!("\nbecame   {said}"),
    };
    format!(
        "{stream} {name} of shard {shard}, found {age} ago\nreason   {reason}{resolved}\npayload  {payload}\n"
    )
}

/// What a person decided, and where.
fn resolution(kept: &Kept) -> String {
    match (&kept.resolution, kept.resolved_seq) {
        (Some(how), Some(seq)) => format!("{how} at LOG {seq}"),
        (how, _) => how.clone().unwrap_or_default(),
    }
}

/// `SEQ` for a whole message, `SEQ/RECORD` for one record of it.
fn name(kept: &Kept) -> String {
    match kept.record {
        0 => kept.seq.to_string(),
        record => format!("{}/{record}", kept.seq),
    }
}

fn shard(kept: &Kept) -> String {
    if kept.shard < 0 { "-".to_owned() } else { kept.shard.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_sequence_and_perhaps_a_record() {
        assert_eq!(place("12"), Ok(Place { seq: 12, record: 0 }));
        assert_eq!(place("12/3"), Ok(Place { seq: 12, record: 3 }));
        assert!(place("12/").is_err() && place("x").is_err() && place("").is_err());
    }
}
