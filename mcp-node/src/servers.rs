//! The servers behind a running node, and what becomes of them when the settings are read again.
//!
//! A server whose settings did not change stays as it is, with its sessions, pools and children. One that changed is
//! begun anew for new requests; what runs on the one before ends there, and then that is stopped.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use mcp_node::upstream::{
    HttpUpstream, Server, Signer, Stamp, StdioUpstream, Upstream, UpstreamSettings,
};

use crate::config::{Behind, Config, Served};

/// How long after its last call can have ended a server is stopped.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// What a server was begun by.
#[derive(Clone, PartialEq)]
struct Spec {
    served: Served,
    identity: bool,
    organization: Option<HeaderValue>,
    settings: UpstreamSettings,
    connect_patience: Duration,
}

/// The servers of a node; the first is at `/mcp`.
#[derive(Clone)]
pub struct Servers {
    running: Vec<(Spec, Arc<Upstream>)>,
    signer: Option<(HeaderName, Arc<Signer>)>,
    /// Servers of settings before, on which calls may still run.
    retiring: Vec<Weak<Upstream>>,
}

impl Servers {
    /// Begins all.
    pub fn start(config: &Config, signer: Option<(HeaderName, Arc<Signer>)>) -> Self {
        Self { running: vec![], signer, retiring: vec![] }.changed(config)
    }

    /// The servers as the settings are now; those that did not change are the same.
    #[must_use]
    pub fn changed(&self, config: &Config) -> Self {
        let running = config.servers.iter().map(|served| {
            let spec = Spec {
                served: served.clone(),
                identity: config.told.identity,
                organization: config.told.organization.clone(),
                settings: config.upstream,
                connect_patience: config.connect_patience,
            };
            let kept = self.running.iter().find(|(known, _)| *known == spec);
            let upstream = kept.map_or_else(|| self.begin(&spec), |(_, upstream)| upstream.clone());
            (spec, upstream)
        });
        let mut now =
            Self { running: running.collect(), signer: self.signer.clone(), retiring: vec![] };
        let before = self.retiring.iter().filter(|weak| weak.strong_count() > 0).cloned();
        now.retiring = before.chain(now.gone(self).map(|(_, gone)| Arc::downgrade(gone))).collect();
        now
    }

    fn begin(&self, spec: &Spec) -> Arc<Upstream> {
        let settings = spec.settings;
        let server = match &spec.served.behind {
            Behind::Url(url) => {
                let stamp = Stamp {
                    fixed: spec.served.headers.clone(),
                    identity: spec.identity,
                    organization: spec.organization.clone(),
                    signer: self.signer.clone(),
                };
                let (url, patience) = (url.clone(), spec.connect_patience);
                Server::Http(HttpUpstream::stamped(url, patience, settings, stamp))
            }
            Behind::Command(command) => {
                Server::Stdio(StdioUpstream::new(command.clone(), settings))
            }
        };
        Arc::new(Upstream::new(server, settings))
    }

    /// The server at `/mcp`.
    pub fn first(&self) -> Arc<Upstream> {
        let (_, upstream) = self.running.first().expect("settings without a server are refused");
        upstream.clone()
    }

    /// The servers at `/mcp/{name}`.
    pub fn named(&self) -> HashMap<String, Arc<Upstream>> {
        let named = self
            .running
            .iter()
            .filter_map(|(spec, upstream)| Some((spec.served.name.clone()?, upstream.clone())));
        named.collect()
    }

    pub fn signer(&self) -> Option<Arc<Signer>> {
        self.signer.as_ref().map(|(_, signer)| signer.clone())
    }

    /// Those of `before` that are no more.
    fn gone<'a>(&self, before: &'a Self) -> impl Iterator<Item = &'a (Spec, Arc<Upstream>)> {
        let kept: Vec<_> = self.running.iter().map(|(_, kept)| kept.clone()).collect();
        before
            .running
            .iter()
            .filter(move |(_, found)| !kept.iter().any(|kept| Arc::ptr_eq(kept, found)))
    }

    /// Ends the streams that would never end by themselves.
    pub fn end_streams(&self) {
        self.all().iter().for_each(|upstream| upstream.end_streams());
    }

    /// Stops all.
    pub async fn stop(&self) {
        let all = self.all();
        futures::future::join_all(all.iter().map(|upstream| upstream.stop())).await;
    }

    fn all(&self) -> Vec<Arc<Upstream>> {
        let retiring = self.retiring.iter().filter_map(Weak::upgrade);
        self.running.iter().map(|(_, upstream)| upstream.clone()).chain(retiring).collect()
    }

    /// Stops those of `before` that are no more, once every call on them must have ended.
    pub fn retire(&self, before: &Self) {
        for (spec, upstream) in self.gone(before) {
            let (patience, upstream) = (spec.settings.request_patience, upstream.clone());
            tokio::spawn(async move {
                tokio::time::sleep(patience + AFTERWARDS).await;
                upstream.stop().await;
            });
        }
    }
}
