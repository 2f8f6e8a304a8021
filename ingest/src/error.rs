//! What stops the process: each means that the log or the tables are not what they were, or cannot be had at all.

use crate::{append::Gap, migrate::MigrateError, positions::PositionsError};

/// Why ingest stopped. Nothing was dropped: a restart goes on from the tables' own mark.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("the ClickHouse URL")]
    Url(#[from] runtime::clickhouse::UrlError),
    #[error("ClickHouse did not answer at the start")]
    ClickHouse(#[from] clickhouse::error::Error),
    #[error("the tables")]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Nats(#[from] runtime::nats::NatsError),
    #[error(transparent)]
    Setup(#[from] runtime::nats::SetupError),
    #[error("reading the log: {0}")]
    Read(#[from] runtime::nats::ReadError),
    #[error(transparent)]
    Positions(#[from] PositionsError),
    #[error(transparent)]
    Gap(#[from] Gap),
    #[error(
        "the stream was made at {found_ms} ms, but src {src} stands for one made at {known_ms} ms; if it was \
         replaced on purpose, start once with accept_new_stream=true"
    )]
    OtherStream { src: u16, known_ms: i64, found_ms: i64 },
    #[error("asking for the log's stream")]
    Stream(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("listening")]
    Listen(#[from] std::io::Error),
    #[error("a part of ingest ended by itself")]
    Task(#[from] tokio::task::JoinError),
}

impl IngestError {
    /// Whether a start that ended so may go well when tried again: someone did not answer.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::ClickHouse(source)
            | Self::Migrate(MigrateError::Refused { source, .. })
            | Self::Positions(PositionsError::ClickHouse(source)) => {
                matches!(
                    source,
                    clickhouse::error::Error::Network(_) | clickhouse::error::Error::TimedOut
                )
            }
            Self::Read(error) => error.is_transient(),
            Self::Stream(_) => true,
            _ => false,
        }
    }
}
