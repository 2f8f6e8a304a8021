//! Recalls: another node needs what this one holds of a key and can spare. A lost one costs a repeat by the ledger.

use futures::StreamExt;
use runtime::nats::Nats;
use schemas::lease::LeaseRecall;
use tokio_util::sync::CancellationToken;

use super::WatchError;
use crate::meter::Meter;

/// Listens for ever on a task of its own.
///
/// # Errors
/// NATS refuses the subscription.
pub async fn watch_recalls(
    nats: &Nats,
    meter: &Meter,
    stop: &CancellationToken,
) -> Result<(), WatchError> {
    let recalls = nats.client.subscribe("lease.recall.*").await;
    let mut recalls = recalls.map_err(WatchError::while_doing("listening for recalls"))?;
    let (meter, stop) = (meter.clone(), stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Some(message) = recalls.next().await {
            match serde_json::from_slice::<LeaseRecall>(&message.payload) {
                Ok(LeaseRecall { key }) => meter.shared().recall(key),
                Err(error) => tracing::error!(%error, "A recall cannot be read"),
            }
        }
    }));
    Ok(())
}
