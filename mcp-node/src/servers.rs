//! The servers behind a running node, and what becomes of them when the settings are read again.
//!
//! A server whose settings did not change stays as it is, with its sessions, pools and children. One that changed is
//! begun anew for new requests; what runs on the one before ends there, and then that is stopped.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue, Uri};
use mcp_node::{
    aggregate::{Aggregate, Member},
    http::Endpoint,
    server::Upstream,
    upstream::{
        DuplexUpstream, HttpUpstream, RemoteServer, Server, Signer, Transport, UpstreamHeaders,
        UpstreamSettings,
    },
};

use crate::config::{AggregateEntry, Config, ServerEntry, ServerTarget, UrlTransport};

/// How long after its last call can have ended a server is stopped.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// What a server was begun by.
#[derive(Clone, PartialEq)]
struct Spec {
    served: ServerEntry,
    identity: bool,
    organization: Option<HeaderValue>,
    settings: UpstreamSettings,
    connect_timeout: Duration,
}

/// The servers of a node; the first is at `/mcp`.
#[derive(Clone)]
pub struct Servers {
    running: Vec<(Spec, Arc<Upstream>)>,
    /// All of them as one, if that is what is at `/mcp`.
    together: Option<Arc<Aggregate>>,
    signer: Option<(HeaderName, Arc<Signer>)>,
    /// Servers of settings before, on which calls may still run.
    retiring: Vec<Weak<Upstream>>,
}

impl Servers {
    /// Begins all.
    pub fn start(config: &Config, signer: Option<(HeaderName, Arc<Signer>)>) -> Self {
        Self { running: vec![], together: None, signer, retiring: vec![] }.changed(config)
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
                connect_timeout: config.connect_timeout,
            };
            let kept = self.running.iter().find(|(known, _)| *known == spec);
            let upstream = kept.map_or_else(|| self.begin(&spec), |(_, upstream)| upstream.clone());
            (spec, upstream)
        });
        let running: Vec<(Spec, Arc<Upstream>)> = running.collect();
        let together = self.together(config, &running);
        let mut now = Self { running, together, signer: self.signer.clone(), retiring: vec![] };
        let before = self.retiring.iter().filter(|weak| weak.strong_count() > 0).cloned();
        now.retiring = before.chain(now.gone(self).map(|(_, gone)| Arc::downgrade(gone))).collect();
        now
    }

    fn together(
        &self,
        config: &Config,
        running: &[(Spec, Arc<Upstream>)],
    ) -> Option<Arc<Aggregate>> {
        let members = config.together.iter().filter_map(|AggregateEntry { name, prefix }| {
            let named = |(spec, _): &&(Spec, _)| spec.served.name.as_ref() == Some(name);
            let (_, upstream) = running.iter().find(named)?;
            let (name, prefix) = (name.as_str().into(), prefix.clone());
            Some(Member { name, prefix, upstream: upstream.clone() })
        });
        let members: Vec<Member> = members.collect();
        match &self.together {
            _ if members.is_empty() => None,
            Some(before) => Some(before.changed(members, config.upstream)),
            None => Some(Aggregate::new(members, config.upstream)),
        }
    }

    fn begin(&self, spec: &Spec) -> Arc<Upstream> {
        let settings = spec.settings;
        let stamp = UpstreamHeaders {
            fixed: spec.served.headers.clone(),
            identity: spec.identity,
            organization: spec.organization.clone(),
            signer: self.signer.clone(),
        };
        let remote = |url: &Uri, transport| {
            let remote =
                RemoteServer::new(url.clone(), transport, spec.connect_timeout, stamp.clone());
            Upstream::new(Server::Duplex(DuplexUpstream::of_remote(remote, settings)), settings)
        };
        let upstream = match &spec.served.behind {
            ServerTarget::Url(url, UrlTransport::Http) => {
                let (url, timeout) = (url.clone(), spec.connect_timeout);
                let http = HttpUpstream::stamped(url, timeout, settings, stamp);
                Upstream::new(Server::Http(http), settings)
            }
            ServerTarget::Url(url, UrlTransport::Auto) => {
                let (address, timeout) = (url.clone(), spec.connect_timeout);
                let http = HttpUpstream::stamped(address, timeout, settings, stamp.clone());
                Upstream::new(Server::Http(http), settings).or_older(remote(url, Transport::Sse))
            }
            ServerTarget::Url(url, UrlTransport::Sse) => remote(url, Transport::Sse),
            ServerTarget::Url(url, UrlTransport::WebSocket) => remote(url, Transport::WebSocket),
            ServerTarget::Command(command) => {
                let duplex = DuplexUpstream::of_command(command.clone(), settings);
                Upstream::new(Server::Duplex(duplex), settings)
            }
        };
        Arc::new(upstream.named(spec.served.name.as_deref()))
    }

    /// What is at `/mcp`: the first server, or all as one.
    pub fn front(&self) -> Endpoint {
        if let Some(all) = &self.together {
            return Endpoint::All(all.clone());
        }
        let (_, upstream) = self.running.first().expect("settings without a server are refused");
        upstream.clone().into()
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

    /// Tells clients that listen of servers that came and went, once new requests meet those that there are.
    pub fn announce(&self) {
        if let Some(all) = &self.together {
            all.announce();
        }
    }

    /// Ends the streams that would never end by themselves.
    pub fn end_streams(&self) {
        if let Some(all) = &self.together {
            all.end_streams();
        }
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
        if let (Some(all), None) = (&before.together, &self.together) {
            all.end_streams();
        }
        for (spec, upstream) in self.gone(before) {
            let (timeout, upstream) = (spec.settings.request_timeout, upstream.clone());
            tokio::spawn(async move {
                tokio::time::sleep(timeout + AFTERWARDS).await;
                upstream.stop().await;
            });
        }
    }
}
