//! One process of several works; the others stand by. Who holds a lock in PostgreSQL is the one.
//!
//! The lock saves work and keeps lanes single. It is not what makes reports exact: should two believe that they hold
//! it for a moment, guarded steps and identifiers still allow one effect.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

/// The lock's number: "tollbill" in ASCII.
const LOCK: i64 = 0x746f_6c6c_6269_6c6c;
const LOOK: Duration = Duration::from_millis(500);
/// How long the database may be silent before the lock is thought lost.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `work` whenever this process holds the lock, until stopped. Its token is cancelled when the lock is lost.
pub async fn lead<F: Future<Output = ()>>(
    pool: &PgPool,
    stop: &CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) {
    while !stop.is_cancelled() {
        match take(pool).await {
            Ok(Some(mut connection)) => {
                tracing::info!("Leading");
                metrics::gauge!("billing_leading").set(1.0);
                let term = stop.child_token();
                tokio::join!(work(term.clone()), async {
                    hold(&mut connection, &term).await;
                    term.cancel();
                });
                metrics::gauge!("billing_leading").set(0.0);
                // Closing the session gives the lock back; a session that is lost has done so by itself.
                if let Err(error) = connection.close().await {
                    tracing::debug!(%error, "The leader's session was lost");
                }
            }
            Ok(None) => tracing::debug!("Another process leads"),
            Err(error) => tracing::warn!(%error, "Cannot ask who leads"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// A session that holds the lock; `None` = another one does.
async fn take(pool: &PgPool) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = pool.acquire().await?.detach();
    let taken: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut connection)
        .await?;
    if taken {
        return Ok(Some(connection));
    }
    connection.close().await?;
    Ok(None)
}

/// Returns when the term ends or the session no longer answers.
async fn hold(connection: &mut PgConnection, term: &CancellationToken) {
    loop {
        tokio::select! {
            () = term.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match tokio::time::timeout(TIMEOUT, connection.ping()).await {
            Ok(Ok(())) => {}
            lost => {
                tracing::warn!(?lost, "Lost the lead");
                return;
            }
        }
    }
}
