//! The channels that are open: each belongs to the key that opened it, and there are no more than may be.

use std::{collections::HashMap, sync::Arc};

use mcp_node_core::Refusal;
use parking_lot::Mutex;
use schemas::KeyId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Received;

/// All channels of a node.
#[derive(Default)]
pub struct Channels {
    open: Mutex<HashMap<String, Entry>>,
    /// Raised when the node stops.
    ending: CancellationToken,
}

struct Entry {
    key: KeyId,
    server: Option<String>,
    /// Where messages go that come by requests of their own; `None` = they come over the channel's connection.
    messages: Option<mpsc::Sender<Received>>,
}

/// A channel, as long as it is open.
pub struct OpenChannel {
    id: String,
    channels: Arc<Channels>,
    transport: &'static str,
}

impl Channels {
    /// Opens a channel for a key; `max` = how many there may be.
    ///
    /// # Errors
    /// There are too many, or the node stops.
    pub fn open(
        self: &Arc<Self>,
        transport: &'static str,
        key: KeyId,
        server: Option<String>,
        messages: Option<mpsc::Sender<Received>>,
        max: usize,
    ) -> Result<OpenChannel, Refusal> {
        if self.ending.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| Refusal::TooManySessions)?;
        let id = format!("{:032x}", u128::from_be_bytes(random));
        let mut open = self.open.lock();
        if open.len() >= max {
            return Err(Refusal::TooManySessions);
        }
        open.insert(id.clone(), Entry { key, server, messages });
        metrics::gauge!("mcp_channels", "transport" => transport).increment(1);
        Ok(OpenChannel { id, channels: self.clone(), transport })
    }

    /// Where messages of a key go on a channel to a server.
    ///
    /// # Errors
    /// There is no such channel, or it is another key's: the same answer to both.
    pub fn find(
        &self,
        id: &str,
        key: KeyId,
        server: Option<&str>,
    ) -> Result<mpsc::Sender<Received>, Refusal> {
        let open = self.open.lock();
        let entry =
            open.get(id).filter(|entry| entry.key == key && entry.server.as_deref() == server);
        entry.and_then(|entry| entry.messages.clone()).ok_or(Refusal::SessionNotFound)
    }

    /// Ends all as soon as nothing runs on them, and opens no more.
    pub fn end(&self) {
        self.ending.cancel();
    }
}

impl OpenChannel {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Raised when the node stops.
    pub fn ending(&self) -> &CancellationToken {
        &self.channels.ending
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.channels.open.lock().remove(&self.id);
        metrics::gauge!("mcp_channels", "transport" => self.transport).decrement(1);
    }
}
