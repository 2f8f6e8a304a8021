//! Which era the server speaks: asked by `server/discover` when it must be known, and remembered for a while.

use std::time::Duration;

use mcp_node_core::Refusal;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::Conversation;
use crate::upstream::Server;

/// For how long an answer is believed: servers are replaced while we run.
const BELIEVED: Duration = Duration::from_secs(300);

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Sessions: 2025-11-25 and before.
    Old,
    /// 2026-07-28, perhaps the old era besides.
    New,
}

/// What is known of the server.
#[derive(Default)]
pub struct Eras {
    known: Mutex<Option<(Era, Instant)>>,
    asking: tokio::sync::Mutex<()>,
}

impl Eras {
    /// What it speaks, if that is known.
    pub fn known(&self) -> Option<Era> {
        let (era, since) = (*self.known.lock())?;
        (since.elapsed() < BELIEVED).then_some(era)
    }

    /// Remembers what it speaks.
    pub fn learn(&self, era: Era) {
        *self.known.lock() = Some((era, Instant::now()));
    }

    /// What it speaks. One asks at a time, the others wait for the answer.
    ///
    /// # Errors
    /// It cannot be reached; nothing is remembered then.
    pub async fn of(&self, server: &Server) -> Result<Era, Refusal> {
        if let Some(era) = self.known() {
            return Ok(era);
        }
        let _asking = self.asking.lock().await;
        if let Some(era) = self.known() {
            return Ok(era);
        }
        let era = Conversation::probe(server).await?;
        tracing::info!(?era, "The server's era is known");
        self.learn(era);
        Ok(era)
    }
}
