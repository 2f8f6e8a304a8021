//! The channels that are open: each belongs to the key that opened it, and there are no more than may be.
//!
//! Where there are as many, the key that has most makes room with its oldest, so that no key shuts another out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

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
    /// How many were ever opened.
    opened: AtomicU64,
    /// Raised when the node stops.
    ending: CancellationToken,
}

struct Entry {
    /// Counts up: the oldest has the least.
    number: u64,
    /// Ends it as soon as nothing runs on it.
    ending: CancellationToken,
    key: KeyId,
    server: Option<String>,
    /// Where messages go that come by requests of their own; `None` = they come over the channel's connection.
    messages: Option<mpsc::Sender<Received>>,
}

/// A channel, as long as it is open.
pub struct OpenChannel {
    id: String,
    channels: Arc<Channels>,
    ending: CancellationToken,
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
            let oldest = oldest_of_the_largest(&open, key).ok_or(Refusal::TooManySessions)?;
            if let Some(ended) = open.remove(&oldest) {
                tracing::warn!(key = %ended.key, max, "Channel ended: its key has most of those that may be open");
                ended.ending.cancel();
            }
        }
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let ending = self.ending.child_token();
        open.insert(id.clone(), Entry { number, ending: ending.clone(), key, server, messages });
        metrics::gauge!("mcp_channels", "transport" => transport).increment(1);
        Ok(OpenChannel { id, channels: self.clone(), ending, transport })
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

    /// Raised when it must end: the node stops, or it makes room for another key's.
    pub fn ending(&self) -> &CancellationToken {
        &self.ending
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.channels.open.lock().remove(&self.id);
        metrics::gauge!("mcp_channels", "transport" => self.transport).decrement(1);
    }
}

/// The oldest channel of the key that has most, if that has more than `key` would have.
fn oldest_of_the_largest(open: &HashMap<String, Entry>, key: KeyId) -> Option<String> {
    let mut of_keys = HashMap::<KeyId, usize>::new();
    for entry in open.values() {
        *of_keys.entry(entry.key).or_default() += 1;
    }
    let own = of_keys.get(&key).copied().unwrap_or_default();
    let (largest, most) = of_keys.into_iter().max_by_key(|(_, channels)| *channels)?;
    let of_largest = open.iter().filter(|(_, entry)| most > own + 1 && entry.key == largest);
    of_largest.min_by_key(|(_, entry)| entry.number).map(|(id, _)| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_takes_all_channels_from_another() {
        let channels = Arc::new(Channels::default());
        let key = |number| KeyId(uuid::Uuid::from_u128(number));
        let open = |of: u128| channels.open("sse", key(of), None, None, 3);
        let held = [open(1).unwrap(), open(1).unwrap(), open(1).unwrap()];
        assert_eq!(open(1).err(), Some(Refusal::TooManySessions), "it has all of them itself");
        let other = open(2).unwrap();
        let ended = held.each_ref().map(|channel| channel.ending().is_cancelled());
        assert_eq!(ended, [true, false, false], "the oldest of the key that has most");
        assert!(!other.ending().is_cancelled());
        assert_eq!(open(3).map(|_| ()).err(), None);
        drop(held);
        assert_eq!(channels.open.lock().len(), 1, "what was removed before is not removed again");
        channels.end();
        assert!(other.ending().is_cancelled() && open(2).is_err());
    }
}
