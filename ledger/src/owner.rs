//! Which shards this process owns: one advisory lock of PostgreSQL each, all held by one session.
//!
//! A process that dies loses its session and with it the locks, so a standby has its shards at its next look. The
//! lock only keeps two owners from working at once; what keeps them from harm is the expected sequence on
//! `ledger.<shard>` and the checkpoint that moves from a known place only.

use std::{collections::HashMap, sync::Arc, time::Duration};

use runtime::settings::Secret;
use schemas::Shard;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Shared, shard};

/// How often locks are looked for, and the session is known to live.
const LOOK: Duration = Duration::from_millis(500);
/// The class of our advisory locks.
const LOCK_CLASS: i32 = 0x746f_6c6c;

/// Takes every shard that is free, and runs it, until `stop`; then lets all go.
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
    let mut owned: HashMap<u16, JoinHandle<()>> = HashMap::new();
    let ended = hold(shared, &mut session, &mine, &mut owned).await;
    mine.cancel();
    for (shard, task) in owned {
        if let Err(error) = task.await {
            tracing::error!(shard, %error, "A shard's loop ended badly");
        }
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
    owned: &mut HashMap<u16, JoinHandle<()>>,
) -> Result<(), sqlx::Error> {
    while !mine.is_cancelled() {
        for number in 0..shared.shards {
            if owned.contains_key(&number) {
                continue;
            }
            let got: bool = sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
                .bind(LOCK_CLASS)
                .bind(i32::from(number))
                .fetch_one(&mut *session)
                .await?;
            if got {
                let task =
                    tokio::spawn(shard::keep(Arc::clone(shared), Shard(number), mine.clone()));
                owned.insert(number, task);
            }
        }
        if owned.is_empty() {
            shared.health.wait_for("shards", "standing by: another ledger owns all shards");
        } else {
            shared.health.ready("shards");
        }
        metrics::gauge!("tollbook_ledger_shards_owned")
            .set(u32::try_from(owned.len()).unwrap_or(u32::MAX));
        sqlx::query("select 1").execute(&mut *session).await?;
        tokio::select! {
            () = mine.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}
