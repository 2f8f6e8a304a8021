//! The ledger makes all streams and buckets: every other service waits for them.

use std::collections::HashMap;

use async_nats::jetstream::kv::Store;
use runtime::nats::{Bucket, Nats, Stream, ensure_bucket, ensure_stream, stream_metadata};
use schemas::subject::{BUCKETS, LOG, SHARDS_METADATA, STREAMS};

use crate::{LedgerError, config::Config};

/// Makes what is missing; returns the buckets `keys` and `watermarks`.
pub async fn ensure(nats: &Nats, config: &Config) -> Result<(Store, Store), LedgerError> {
    let mut buckets = Vec::new();
    for spec in BUCKETS {
        let bucket = Bucket { name: spec.name, push: spec.push, replicas: config.replicas };
        buckets.push(ensure_bucket(&nats.jetstream, bucket).await?);
    }
    // LOG is the last: who waits for it finds the rest.
    for spec in STREAMS {
        let metadata = match spec.name {
            LOG => HashMap::from([(SHARDS_METADATA.to_owned(), config.shards.to_string())]),
            _ => HashMap::new(),
        };
        let stream = Stream {
            name: spec.name,
            subjects: spec.subjects,
            max_age: spec.max_age,
            max_message_bytes: spec.max_message_bytes,
            replicas: config.replicas,
            metadata,
        };
        ensure_stream(&nats.jetstream, stream).await?;
    }
    let [keys, watermarks] = <[Store; 2]>::try_from(buckets).expect("there are two buckets");
    Ok((keys, watermarks))
}

/// How many shards the log was born with.
pub async fn shards(nats: &Nats) -> Result<u16, LedgerError> {
    let said = stream_metadata(&nats.jetstream, LOG, SHARDS_METADATA).await?.unwrap_or_default();
    match said.parse() {
        Ok(shards @ 1..=256) => Ok(shards),
        _ => Err(LedgerError::Shards(said)),
    }
}

/// When `LOG` was made: a checkpoint is of one log only. Unit: milliseconds since 1970.
pub async fn log_created_ms(nats: &Nats) -> Result<i64, LedgerError> {
    Ok(runtime::nats::stream_created_ms(&nats.jetstream, LOG).await?)
}
