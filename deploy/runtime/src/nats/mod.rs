//! NATS: one connection a process, streams and buckets as they must be, publishing against an expected sequence,
//! and reading a stream in order without a hole.

mod publish;
mod reader;
mod setup;

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, jetstream};
use tokio::sync::watch;

pub use self::{
    publish::{PublishError, last_on_subject, publish_expecting},
    reader::{Message, ReadError, Reader},
    setup::{
        Bucket, SetupError, Stream, ensure_bucket, ensure_stream, stream_created_ms,
        stream_metadata, wait_for_stream,
    },
};

/// The oldest server that is taken: older ones ignore expected sequences over wildcards or have open holes.
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 14, 4);

/// NATS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    #[error("cannot connect to NATS")]
    Connect(#[from] async_nats::ConnectError),
    #[error("NATS server {found} is too old: {}.{}.{} or newer is needed", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2)]
    TooOld { found: String },
    #[error("no NATS server answered within {0:?}")]
    NoServer(Duration),
}

/// A connection that comes back by itself for ever.
#[derive(Clone)]
pub struct Nats {
    pub client: Client,
    pub jetstream: jetstream::Context,
    /// Counts connections made; a change tells a reader that its consumer may be gone.
    pub connections: watch::Receiver<u64>,
}

/// Connects as `name` and waits up to 30 s for the first connection.
///
/// # Errors
/// No server within that time, or one older than [`OLDEST_SERVER`].
pub async fn connect(url: &str, name: &str) -> Result<Nats, NatsError> {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let (counted, mut connections) = watch::channel(0u64);
    let client = ConnectOptions::new()
        .name(name)
        .ping_interval(Duration::from_secs(5))
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            match &event {
                Event::Connected => counted.send_modify(|count| *count += 1),
                Event::Disconnected => tracing::warn!("NATS is gone"),
                other => tracing::debug!(event = %other, "NATS"),
            }
            async {}
        })
        .connect(url)
        .await?;
    tokio::time::timeout(TIMEOUT, connections.wait_for(|count| *count > 0))
        .await
        .map_err(|_| NatsError::NoServer(TIMEOUT))?
        .map_err(|_| NatsError::NoServer(TIMEOUT))?;
    let found = client.server_info().version;
    if !is_new_enough(&found) {
        return Err(NatsError::TooOld { found });
    }
    Ok(Nats { jetstream: jetstream::new(client.clone()), client, connections })
}

fn is_new_enough(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next()) >= OLDEST_SERVER
}

/// 20 ms doubling to 2 s, less up to a half at random so that many clients do not come back in step.
fn reconnect_delay(attempts: usize) -> Duration {
    let whole = 20u64.saturating_mul(1 << attempts.min(7)).min(2_000);
    Duration::from_millis(whole - jitter(whole / 2))
}

/// A random number in `0..=most`; 0 when the system has no randomness to give.
pub(crate) fn jitter(max: u64) -> u64 {
    getrandom::u64().map_or(0, |random| random % (max + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_texts() {
        for good in ["2.14.4", "2.15.0", "2.15.1-RC.2", "3.0.0", "2.100.0"] {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["2.14.3", "2.9.10", "2.10.27", "1.99.99", "", "x"] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }

    #[test]
    fn a_reconnect_never_waits_longer_than_two_seconds() {
        for attempts in 0..200 {
            let delay = reconnect_delay(attempts);
            assert!(
                (Duration::from_millis(10)..=Duration::from_secs(2)).contains(&delay),
                "{delay:?}"
            );
        }
    }
}
