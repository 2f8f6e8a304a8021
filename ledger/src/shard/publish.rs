//! Tells nodes what changed, after it was committed: key states and watermarks into their buckets.
//!
//! Every entry says as of which sequence it is true and never goes back: an entry that is newer is left alone, so an
//! owner that was replaced without knowing it does no harm.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_nats::jetstream::kv::{Store, UpdateErrorKind};
use futures::{StreamExt, TryStreamExt};
use schemas::{KeyState, NodeId, Shard, Watermark, subject};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::ShardError;
use crate::{Shared, store};

/// What one commit gives nodes to know.
#[derive(Default)]
pub(super) struct News {
    pub keys: Vec<KeyState>,
    pub watermarks: Vec<(NodeId, Watermark)>,
    /// The checkpoint that it is true of.
    pub as_of: u64,
}

/// How many entries are written at once.
const AT_ONCE: usize = 64;

/// Publishes what comes, newest wins, until the sender is gone.
pub(super) async fn run(
    shared: Arc<Shared>,
    shard: Shard,
    mut from: mpsc::UnboundedReceiver<News>,
) -> Result<(), ShardError> {
    let mut revisions = HashMap::new();
    while let Some(news) = from.recv().await {
        let mut keys: BTreeMap<_, KeyState> = BTreeMap::new();
        let mut watermarks: BTreeMap<NodeId, Watermark> = BTreeMap::new();
        let mut as_of = 0;
        let mut next = Some(news);
        while let Some(news) = next {
            as_of = news.as_of;
            keys.extend(news.keys.into_iter().map(|state| (state.digest, state)));
            watermarks.extend(news.watermarks);
            next = from.try_recv().ok();
        }
        let told = !keys.is_empty();
        let entries = keys
            .into_values()
            .map(|state| (subject::key_entry(&state.digest), state.as_of, state))
            .collect();
        put_all(&shared.keys, entries, &mut revisions).await?;
        let entries = watermarks
            .into_iter()
            .map(|(node, watermark)| {
                (subject::watermark_entry(&node, shard), watermark.as_of, watermark)
            })
            .collect();
        put_all(&shared.watermarks, entries, &mut revisions).await?;
        if told {
            store::set_published(&shared.pool, shard, as_of).await?;
        }
    }
    Ok(())
}

/// The one field that every entry has.
#[derive(Deserialize)]
struct AsOf {
    as_of: u64,
}

async fn put_all<T: Serialize + Send + Sync>(
    bucket: &Store,
    entries: Vec<(String, u64, T)>,
    revisions: &mut HashMap<String, u64>,
) -> Result<(), ShardError> {
    let written: Vec<(String, u64)> = futures::stream::iter(entries)
        .map(|(name, as_of, value)| {
            let known = revisions.get(&name).copied();
            async move {
                let revision = put_newer(bucket, &name, as_of, &value, known).await?;
                Ok::<_, ShardError>((name, revision))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    revisions.extend(written);
    Ok(())
}

/// Writes an entry unless a newer one is there; returns the entry's revision.
async fn put_newer<T: Serialize + Sync>(
    bucket: &Store,
    name: &str,
    as_of: u64,
    value: &T,
    known: Option<u64>,
) -> Result<u64, ShardError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| ShardError::Nats(error);
    let payload: bytes::Bytes =
        serde_json::to_vec(value).map_err(|error| failed(Box::new(error)))?.into();
    let mut expected = known;
    loop {
        let revision = match expected {
            Some(revision) => revision,
            None => match bucket.entry(name).await.map_err(|error| failed(Box::new(error)))? {
                None => 0,
                Some(entry) => {
                    let there =
                        serde_json::from_slice::<AsOf>(&entry.value).map_or(0, |there| there.as_of);
                    if there >= as_of {
                        return Ok(entry.revision);
                    }
                    entry.revision
                }
            },
        };
        match bucket.update(name, payload.clone(), revision).await {
            Ok(revision) => return Ok(revision),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => expected = None,
            Err(error) => return Err(failed(Box::new(error))),
        }
    }
}
