//! How pages follow the log: one look at the rollup's progress, shared by all who wait for it.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::read::usage::Usage;

/// How often the progress is looked at while somebody waits.
const LOOK: Duration = Duration::from_millis(150);

/// Tells how far the rollup has come.
#[derive(Clone)]
pub struct Live {
    progress: watch::Sender<u64>,
}

impl Live {
    /// Starts the looking, which goes on until `stop`.
    pub fn start(usage: Usage, stop: CancellationToken) -> Self {
        let live = Self { progress: watch::Sender::new(0) };
        let progress = live.progress.clone();
        tokio::spawn(async move {
            let mut failing = false;
            while !stop.is_cancelled() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
                if progress.receiver_count() == 0 {
                    continue;
                }
                match usage.as_of().await {
                    Ok(as_of) => {
                        failing = false;
                        let seq = as_of.map_or(0, |as_of| as_of.stream_seq);
                        progress.send_if_modified(|known| std::mem::replace(known, seq) != seq);
                    }
                    Err(error) if !failing => {
                        failing = true;
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "The rollup's progress cannot be read"
                        );
                    }
                    Err(_) => {}
                }
            }
        });
        live
    }

    /// Waits until the rollup has come to something else than `seen`; `false` = it has not, within `timeout`.
    pub async fn moved(&self, seen: u64, timeout: Duration) -> bool {
        let mut progress = self.progress.subscribe();
        // What was last looked at may be old, since nobody looks while nobody waits: only more is news at once.
        if *progress.borrow_and_update() > seen {
            return true;
        }
        let moved = async {
            while progress.changed().await.is_ok() {
                if *progress.borrow_and_update() != seen {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(timeout, moved).await.unwrap_or(false)
    }
}
