//! Which shards this process owns: one advisory lock of PostgreSQL each, all held by one session.
//!
//! A process that dies loses its session and with it the locks, so another has its shards at its next look. The
//! lock only keeps two owners from working at once; what keeps them from harm is the expected sequence on
//! `ledger.<shard>` and the checkpoint that moves from a known place only.
//!
//! Every process holds one more lock that says it is there. Of `n` processes the one with the `r`-th session (from 0)
//! owns the shards `r`, `r + n`, `r + 2n`, ..., and lets go of others: so they share evenly, and a process that joins gets
//! its part at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use runtime::settings::Secret;
use schemas::Shard;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Shared, shard};

/// How often locks are looked for, and the session is known to live.
const LOOK: Duration = Duration::from_millis(500);
/// The class of our advisory locks, one a shard.
const LOCK_CLASS: i32 = 0x746f_6c6c;
/// The class of the locks that say a process is there, one a process, by its session's number.
const MEMBER_CLASS: i32 = 0x746f_6c6d;

/// A shard that runs here.
struct Owned {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Owned {
    async fn end(self, shard: u16) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(shard, %error, "A shard's loop ended badly");
        }
    }
}

/// Takes its part of the shards, and runs them, until `stop`; then lets all go.
pub(crate) async fn run(shared: Arc<Shared>, postgres_url: Secret, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = session(&shared, &postgres_url, &stop).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "Lost the session that holds the shards"
            );
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn session(
    shared: &Arc<Shared>,
    postgres_url: &Secret,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let mut session = PgConnection::connect(postgres_url.expose()).await?;
    let mine = stop.child_token();
    let mut owned = BTreeMap::new();
    let ended = hold(shared, &mut session, &mine, &mut owned).await;
    mine.cancel();
    for (shard, running) in owned {
        running.end(shard).await;
    }
    if ended.is_ok() {
        session.close().await?;
    }
    ended
}

async fn hold(
    shared: &Arc<Shared>,
    session: &mut PgConnection,
    mine: &CancellationToken,
    owned: &mut BTreeMap<u16, Owned>,
) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_lock($1, pg_backend_pid())")
        .bind(MEMBER_CLASS)
        .execute(&mut *session)
        .await?;
    while !mine.is_cancelled() {
        let (rank, members) = place(session).await?;
        let ours = |shard: u16| shard % members == rank;
        for (shard, running) in owned.extract_if(.., |shard, _| !ours(*shard)).collect::<Vec<_>>() {
            running.end(shard).await;
            unlock(session, shard).await?;
            tracing::info!(shard, rank, members, "Lets the shard go: it is another's now");
        }
        for number in (0..shared.shards).filter(|shard| ours(*shard)) {
            if !owned.contains_key(&number) && lock(session, number).await? {
                let stop = mine.child_token();
                let task =
                    tokio::spawn(shard::keep(Arc::clone(shared), Shard(number), stop.clone()));
                owned.insert(number, Owned { stop, task });
            }
        }
        if owned.is_empty() {
            shared.health.wait_for("shards", "standing by: other ledgers own all shards");
        } else {
            shared.health.ready("shards");
        }
        metrics::gauge!("tollbook_ledger_shards_owned")
            .set(u32::try_from(owned.len()).unwrap_or(u32::MAX));
        tokio::select! {
            () = mine.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// The rank of this ledger among those that are there, and how many they are.
async fn place(session: &mut PgConnection) -> Result<(u16, u16), sqlx::Error> {
    const COUNT: &str =
        "select count(*) filter (where pid < pg_backend_pid()), count(*) from pg_locks
        where locktype = 'advisory' and classid = $1::bigint::oid and objsubid = 2 and granted
        and database = (select oid from pg_database where datname = current_database())";
    let (before, all): (i64, i64) =
        sqlx::query_as(COUNT).bind(MEMBER_CLASS).fetch_one(session).await?;
    let small = |count: i64| u16::try_from(count).unwrap_or(u16::MAX);
    Ok((small(before), small(all).max(1)))
}

async fn lock(session: &mut PgConnection, shard: u16) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(i32::from(shard))
        .fetch_one(session)
        .await
}

async fn unlock(session: &mut PgConnection, shard: u16) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_unlock($1, $2)")
        .bind(LOCK_CLASS)
        .bind(i32::from(shard))
        .execute(session)
        .await?;
    Ok(())
}
