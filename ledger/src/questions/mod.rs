//! Questions that people ask the ledger: each is one command of its binary, answered on standard output.
//!
//! A question reads: `LOG` through readers of its own, PostgreSQL in read-only transactions, ClickHouse. Only
//! `rebuild` writes, and only where nothing was before; and what a person decides of something in quarantine becomes a
//! fact on `CONTROL`, like any decision. None of them takes a lock that a serving ledger needs.
//!
//! Exit codes: 0 = all is as it should be, 1 = the answer is bad news, 2 = the question could not be answered.

mod at;
mod audit;
mod compare;
mod explain;
mod log;
mod merge;
mod quarantine;
mod rebuild;
mod resolve;
mod table;

use runtime::nats::Nats;
use schemas::{Shard, TenantId};

pub use self::{
    at::AtArgs, audit::AuditArgs, explain::ExplainArgs, log::LogError, quarantine::QuarantineArgs,
    rebuild::RebuildArgs,
};
use crate::{LedgerError, config::ConfigError, store::StoreError, streams};

/// A question, as it stands on the command line.
#[derive(Debug, clap::Subcommand)]
pub enum Question {
    /// Folds LOG from its first message into an empty place and proves that it equals the live state.
    Rebuild(RebuildArgs),
    /// Prints the state as of a sequence of LOG or a moment, as JSON.
    At(AtArgs),
    /// Says why a call with a key would be allowed or refused at a moment, and which facts made it so.
    Explain(ExplainArgs),
    /// Looks for gaps, conflicts, quarantine, held units, and differences from ClickHouse.
    Audit(AuditArgs),
    /// Shows what could not be counted, and decides what becomes of it.
    Quarantine(QuarantineArgs),
}

/// What a question found.
#[derive(Debug)]
pub struct Answer {
    /// For standard output, with its last newline.
    pub text: String,
    /// Whether all is as it should be.
    pub good: bool,
}

/// Why a question could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("storing")]
    Store(#[from] StoreError),
    #[error("PostgreSQL")]
    Sql(#[from] sqlx::Error),
    #[error(transparent)]
    ClickHouseUrl(#[from] runtime::clickhouse::UrlError),
    #[error("ClickHouse")]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error("writing JSON")]
    Json(#[from] serde_json::Error),
    /// What was asked about is not there, or cannot be asked for.
    #[error("{0}")]
    Asked(String),
}

impl From<runtime::nats::NatsError> for QuestionError {
    fn from(error: runtime::nats::NatsError) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<runtime::postgres::PostgresError> for QuestionError {
    fn from(error: runtime::postgres::PostgresError) -> Self {
        Self::Ledger(error.into())
    }
}

/// Answers.
///
/// # Errors
/// Why there is no answer; see [`QuestionError`].
pub async fn answer(question: Question) -> Result<Answer, QuestionError> {
    match question {
        Question::Rebuild(args) => rebuild::answer(args).await,
        Question::At(args) => at::answer(args).await,
        Question::Explain(args) => explain::answer(args).await,
        Question::Audit(args) => audit::answer(args).await,
        Question::Quarantine(args) => quarantine::answer(args).await,
    }
}

/// Connects to NATS and learns how many shards the log has.
async fn connect(nats_url: &str) -> Result<(Nats, u16), QuestionError> {
    let nats = runtime::nats::connect(nats_url, "ledger question").await?;
    let shards = streams::shards(&nats).await?;
    Ok((nats, shards))
}

/// The shards that a question is about: the tenant's, the named one, or all.
fn shards_asked(
    shards: u16,
    shard: Option<u16>,
    tenant: Option<TenantId>,
) -> Result<Vec<Shard>, QuestionError> {
    match (shard, tenant.map(|tenant| Shard::of(tenant, shards))) {
        (Some(named), _) if named >= shards => Err(QuestionError::Asked(format!(
            "there is no shard {named}: the log has {shards}, from 0"
        ))),
        (Some(named), Some(own)) if own.0 != named => Err(QuestionError::Asked(format!(
            "the tenant's shard is {own}, not {named}: leave --shard out"
        ))),
        (_, Some(own)) => Ok(vec![own]),
        (Some(named), None) => Ok(vec![Shard(named)]),
        (None, None) => Ok((0..shards).map(Shard).collect()),
    }
}
