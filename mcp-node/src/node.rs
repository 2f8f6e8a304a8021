//! One running node: starts its parts in the order that keeps every promise, and stops them in the reverse.
//!
//! Start: hold the folder; connect; learn the shards; recover the spool and end dead epochs; publish; load keys;
//! only then serve. Stop: refuse new calls, let running ones end, close leases, end the epoch, flush the publisher.

use std::{path::PathBuf, sync::Arc, time::Duration};

use runtime::nats::{Nats, SetupError, stream_metadata, wait_for_stream};
use schemas::{NodeId, subject};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ask::{Askers, LeaseClient},
    clock,
    labels::Labels,
    meter::{Meter, MeterSettings},
    publish,
    reach::Reachability,
    spool::{Folder, Spool, SpoolError, SpoolLimits},
    watch::{self, WatchError},
};

/// How long the streams may take to appear after a start.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(60);

/// What a node needs to know.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub spool_dir: PathBuf,
    pub limits: SpoolLimits,
    /// `None` = what the folder says, or a new one.
    pub node_id: Option<NodeId>,
    /// What log lines of calls say of who runs this node.
    pub labels: Labels,
}

impl NodeSettings {
    /// A node that keeps its spool in this folder; everything else is as it is by default.
    #[must_use]
    pub fn new(spool_dir: impl Into<PathBuf>) -> Self {
        let (limits, labels) = (SpoolLimits::default(), Labels::default());
        Self { spool_dir: spool_dir.into(), limits, node_id: None, labels }
    }

    /// Takes the spool folder for this process, before anything else of the node begins.
    ///
    /// # Errors
    /// Another process holds it, it belongs to another node, or the disk refuses.
    pub fn open_folder(&self) -> Result<Folder, NodeError> {
        let minted =
            format!("n-{}", Uuid::now_v7().simple()).parse().expect("letters, digits and a dash");
        Ok(Folder::open(&self.spool_dir, self.node_id.as_ref(), &minted)?)
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the spool cannot be used")]
    Spool(#[from] SpoolError),
    #[error("the streams are not there")]
    Streams(#[from] SetupError),
    #[error("the log does not say how many shards it has")]
    Shards,
    #[error("what the ledger tells its nodes cannot be read")]
    Watch(#[from] WatchError),
}

/// A running node.
pub struct Node {
    meter: Meter,
    spool: Arc<Spool>,
    stop: CancellationToken,
    fenced: CancellationToken,
}

impl Node {
    /// Starts everything but the door, and returns once calls can be served.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(settings: &NodeSettings, nats: &Nats) -> Result<Self, NodeError> {
        Self::start_with(settings, MeterSettings::default(), nats).await
    }

    /// As [`Node::start`], with a say in how calls are counted and bounded.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start_with(
        settings: &NodeSettings,
        metering: MeterSettings,
        nats: &Nats,
    ) -> Result<Self, NodeError> {
        Self::start_in(settings.open_folder()?, settings, metering, nats).await
    }

    /// As [`Node::start_with`], in a folder that this process holds already.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start_in(
        folder: Folder,
        settings: &NodeSettings,
        metering: MeterSettings,
        nats: &Nats,
    ) -> Result<Self, NodeError> {
        let shards = shards(nats).await?;
        let now_ms = u64::try_from(clock::wall().0).unwrap_or(0);
        let spool = Spool::start(folder, settings.limits, now_ms, shards)?;
        tracing::info!(node = %spool.node(), epoch = spool.epoch().0, shards, "The spool is open");

        let (stop, fenced) = (CancellationToken::new(), CancellationToken::new());
        let (askers, queues) = Askers::new(shards);
        let labels = settings.labels.clone();
        let reach = Reachability::new(nats.client.clone(), shards);
        let meter = Meter::new(spool.clone(), askers, reach, fenced.clone(), labels, metering);
        publish::start(nats, &spool, &stop, &fenced);
        let who = LeaseClient {
            client: nats.client.clone(),
            node: spool.node().clone(),
            epoch: spool.epoch(),
        };
        queues.start(&who, meter.shared(), &stop);
        watch::watch_keys(nats, &meter, &stop).await?;
        watch::watch_watermarks(nats, &meter, &stop).await?;
        watch::watch_recalls(nats, &meter, &stop).await?;
        tokio::spawn(meter.clone().tick(stop.clone()));
        Ok(Self { meter, spool, stop, fenced })
    }

    /// The meter, for whoever serves calls.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The spool, for whoever watches it.
    #[must_use]
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// Cancelled when the node must stop: another process is this node, or the ledger has ended its epoch.
    #[must_use]
    pub fn fenced(&self) -> &CancellationToken {
        &self.fenced
    }

    /// Stops in order. `drain` = how long running calls may take; `flush` = how long the log may take to have it all.
    /// What is not on the log by then is sent at the next start.
    pub async fn stop(self, drain: Duration, flush: Duration) {
        self.meter.drain();
        if !self.meter.idle(drain).await {
            tracing::warn!("Calls are still running: they end unrecorded, and free");
        }
        match self.meter.close() {
            Ok(()) if tokio::time::timeout(flush, self.spool.flushed()).await.is_ok() => {
                tracing::info!("Everything recorded is on the log");
            }
            Ok(()) => tracing::warn!(
                "The log does not have everything yet: the next start sends the rest"
            ),
            Err(error) => {
                tracing::error!(%error, "The epoch could not be ended: the next start ends it");
            }
        }
    } // Dropped here: every task ends, and the folder is free.
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.spool.stop();
    }
}

async fn shards(nats: &Nats) -> Result<u16, NodeError> {
    let buckets = [subject::KEYS, subject::WATERMARKS].map(|bucket| format!("KV_{bucket}"));
    for stream in [subject::LOG, &buckets[0], &buckets[1]] {
        wait_for_stream(&nats.jetstream, stream, STREAMS_TIMEOUT).await?;
    }
    let said = stream_metadata(&nats.jetstream, subject::LOG, subject::SHARDS_METADATA).await?;
    said.and_then(|text| text.parse().ok()).filter(|shards| *shards > 0).ok_or(NodeError::Shards)
}
