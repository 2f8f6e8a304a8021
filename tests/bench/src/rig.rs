//! The real parts on free ports: NATS, PostgreSQL with fsync, the ledger process; and a log to fill.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use runtime::nats::{Nats as Connection, Stream, ensure_stream};
use schemas::{
    Shard,
    subject::{LOG, SHARDS_METADATA, STREAMS},
};
use sqlx::{PgPool, Row};
use stack::{Folder, Nats, Part, Postgres, Service, ServiceSettings, ports};

use crate::{Outcome, traffic::Message};

/// How many messages may wait for their acknowledgement while a log is filled.
const WINDOW: usize = 256;
/// How often a condition is looked at.
pub const LOOK: Duration = Duration::from_millis(10);

/// NATS and PostgreSQL, with a connection to the first.
pub struct Rig {
    pub folder: Folder,
    pub nats: Nats,
    pub postgres: Postgres,
    pub connection: Connection,
}

impl Rig {
    pub async fn start() -> Outcome<Self> {
        let folder = Folder::temporary()?;
        let (nats, postgres) = tokio::try_join!(Nats::start(&folder), Postgres::start(&folder))?;
        let connection = runtime::nats::connect(&nats.url(), "bench").await?;
        Ok(Self { folder, nats, postgres, connection })
    }

    /// Makes the streams as the ledger makes them.
    pub async fn make_log(&self, shards: u16) -> Outcome<()> {
        for spec in STREAMS {
            let born = (spec.name == LOG).then(|| (SHARDS_METADATA.to_owned(), shards.to_string()));
            let stream = Stream {
                name: spec.name,
                subjects: spec.subjects,
                max_age: spec.max_age,
                max_message_bytes: spec.max_message_bytes,
                replicas: 1,
                metadata: HashMap::from_iter(born),
            };
            ensure_stream(&self.connection.jetstream, stream).await?;
        }
        Ok(())
    }

    /// Stores messages on the log, in order. Returns how many bytes they had.
    pub async fn fill<'a>(&self, messages: impl IntoIterator<Item = &'a Message>) -> Outcome<u64> {
        let (mut waiting, mut bytes) = (VecDeque::new(), 0);
        for message in messages {
            let payload = message.payload()?;
            bytes += payload.len() as u64;
            let sent = self.connection.jetstream.publish(message.subject(), payload.into()).await?;
            waiting.push_back(sent.into_future());
            if waiting.len() >= WINDOW
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.await?;
            }
        }
        for sent in waiting {
            sent.await?;
        }
        Ok(bytes)
    }

    /// Starts a ledger on a database, with more settings (`LEDGER_` is put before their names).
    pub async fn ledger(
        &self,
        name: &str,
        database: &str,
        more: &[(&str, &str)],
    ) -> Outcome<Service> {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let mut env = vec![
            ("LEDGER_NATS_URL".to_owned(), self.nats.url()),
            ("LEDGER_POSTGRES_URL".to_owned(), database.to_owned()),
            ("LEDGER_LISTEN".to_owned(), listen.clone()),
        ];
        env.extend(
            more.iter().map(|(name, value)| (format!("LEDGER_{name}"), (*value).to_owned())),
        );
        let settings = ServiceSettings {
            binary: "ledger".to_owned(),
            name: name.to_owned(),
            args: vec!["serve".into()],
            env,
            health: format!("http://{listen}/health"),
        };
        Ok(Service::start(&self.folder, settings).await?)
    }
}

/// The process id of a part that runs.
pub fn pid(part: &impl Part) -> Outcome<u32> {
    Ok(part.pid().ok_or_else(|| format!("{} does not run", part.name()))?)
}

/// Up to which sequence each shard is in the database; empty before there is a first.
pub async fn checkpoints(pool: &PgPool) -> Outcome<HashMap<Shard, u64>> {
    let made: bool = sqlx::query_scalar("select to_regclass('ledger.checkpoint') is not null")
        .fetch_one(pool)
        .await?;
    if !made {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query("select shard, seq from ledger.checkpoint").fetch_all(pool).await?;
    let read = |row: sqlx::postgres::PgRow| {
        Ok((Shard(u16::try_from(row.get::<i32, _>(0))?), u64::try_from(row.get::<i64, _>(1))?))
    };
    rows.into_iter().map(read).collect()
}

/// Waits until `holds` says so.
///
/// # Errors
/// It does not within `timeout`; the text names `what`.
pub async fn wait_until<F: Future<Output = Outcome<bool>>>(
    what: &str,
    timeout: Duration,
    mut holds: impl FnMut() -> F,
) -> Outcome<()> {
    let give_up = Instant::now() + timeout;
    while !holds().await? {
        if Instant::now() > give_up {
            return Err(format!("not within {} s: {what}", timeout.as_secs()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
