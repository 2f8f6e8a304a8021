//! Makes streams and buckets as they must be, or says in what they differ.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    Context, kv,
    stream::{Config, DiscardPolicy, Republish, StorageType},
};

/// A stream or bucket is not as it must be and will not be changed behind its owner's back.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("stream {name}: {what}")]
    Differs { name: String, what: String },
    #[error("stream {name}: NATS did not answer as it should")]
    Nats { name: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("stream {name} was not there within {timeout:?}: does its owner run?")]
    Missing { name: String, timeout: Duration },
}

/// What a stream must be. All are kept in files, refuse new messages when full, and refuse deletes and purges.
pub struct Stream<'a> {
    pub name: &'a str,
    pub subjects: &'a [&'a str],
    /// `None` = for ever.
    pub max_age: Option<Duration>,
    pub max_message_bytes: i32,
    pub replicas: usize,
    /// Written when the stream is born; an existing stream keeps its own.
    pub metadata: HashMap<String, String>,
}

/// What a bucket must be: history 1, pushed to `<push>.<key>` as entries change.
pub struct Bucket<'a> {
    pub name: &'a str,
    pub push: &'a str,
    pub replicas: usize,
}

fn failed(name: &str, source: impl std::error::Error + Send + Sync + 'static) -> SetupError {
    SetupError::Nats { name: name.to_owned(), source: Box::new(source) }
}

/// Makes the stream if it is missing; otherwise checks that it keeps what it must keep.
///
/// # Errors
/// It exists with other subjects, another retention, or with deletes or purges allowed.
pub async fn ensure_stream(jetstream: &Context, want: Stream<'_>) -> Result<(), SetupError> {
    let subjects: Vec<String> = want.subjects.iter().map(ToString::to_string).collect();
    let config = Config {
        name: want.name.to_owned(),
        subjects: subjects.clone(),
        max_age: want.max_age.unwrap_or_default(),
        max_message_size: want.max_message_bytes,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: want.replicas,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        metadata: want.metadata,
        ..Config::default()
    };
    let stream =
        jetstream.get_or_create_stream(config).await.map_err(|error| failed(want.name, error))?;
    let found = &stream.cached_info().config;
    let differs = |what: String| Err(SetupError::Differs { name: want.name.to_owned(), what });
    let mut there = found.subjects.clone();
    let mut wanted = subjects;
    there.sort_unstable();
    wanted.sort_unstable();
    if there != wanted {
        return differs(format!("its subjects are {there:?}, not {wanted:?}"));
    }
    if !(found.deny_delete && found.deny_purge && found.discard == DiscardPolicy::New) {
        return differs("it allows messages to be dropped".to_owned());
    }
    let (kept, least) = (found.max_age, want.max_age.unwrap_or_default());
    if !kept.is_zero() && (least.is_zero() || kept < least) {
        return differs(format!("it keeps messages for {kept:?} only"));
    }
    Ok(())
}

/// Makes the bucket if it is missing.
///
/// # Errors
/// NATS refused, or an existing bucket is not pushed where it must be.
pub async fn ensure_bucket(jetstream: &Context, want: Bucket<'_>) -> Result<kv::Store, SetupError> {
    let push = Republish {
        source: format!("$KV.{}.>", want.name),
        destination: format!("{}.>", want.push),
        headers_only: false,
    };
    let config = kv::Config {
        bucket: want.name.to_owned(),
        history: 1,
        num_replicas: want.replicas,
        storage: StorageType::File,
        republish: Some(push.clone()),
        ..kv::Config::default()
    };
    let store = match jetstream.get_key_value(want.name).await {
        Ok(store) => store,
        Err(_) => {
            jetstream.create_key_value(config).await.map_err(|error| failed(want.name, error))?
        }
    };
    let found = store.stream.cached_info().config.republish.as_ref();
    if found.is_some_and(|found| found.destination == push.destination) {
        return Ok(store);
    }
    Err(SetupError::Differs {
        name: want.name.to_owned(),
        what: format!("it is not pushed to {}", push.destination),
    })
}

/// Waits until a stream exists that another process makes.
///
/// # Errors
/// It is not there within `timeout`.
pub async fn wait_for_stream(
    jetstream: &Context,
    name: &str,
    timeout: Duration,
) -> Result<(), SetupError> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut told = false;
    while jetstream.get_stream(name).await.is_err() {
        if tokio::time::Instant::now() >= deadline {
            return Err(SetupError::Missing { name: name.to_owned(), timeout });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(stream = name, "Waiting for a stream that another service makes");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// One entry of a stream's metadata; `None` = it has no such entry.
///
/// # Errors
/// No such stream, or NATS did not answer.
pub async fn stream_metadata(
    jetstream: &Context,
    stream: &str,
    entry: &str,
) -> Result<Option<String>, SetupError> {
    let found = jetstream.get_stream(stream).await.map_err(|error| failed(stream, error))?;
    Ok(found.cached_info().config.metadata.get(entry).cloned())
}

/// When a stream was made. Unit: milliseconds since 1970. A stream made anew shows another time.
///
/// # Errors
/// No such stream, or NATS did not answer.
pub async fn stream_created_ms(jetstream: &Context, stream: &str) -> Result<i64, SetupError> {
    let found = jetstream.get_stream(stream).await.map_err(|error| failed(stream, error))?;
    Ok(i64::try_from(found.cached_info().created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}
