//! What client addresses may do at the door: which may call at all, how fast they may connect, and how often they may
//! show a secret that nobody knows.
//!
//! A request with a valid key is served however many others its address had refused: many clients may share an
//! address, and none of them shuts the others out. Absent on purpose: allow-lists of single keys, which the ledger
//! would have to tell.

use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use mcp_node_core::{
    Refusal,
    address_limit::AddressLimit,
    forwarded::{ForwardedHeader, client_address},
    network::Networks,
};
use parking_lot::{Mutex, RwLock};

/// What client addresses may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSettings {
    /// Proxies that are believed whom they had a request from.
    pub trusted_proxies: Networks,
    /// Where they say so.
    pub forwarded_header: ForwardedHeader,
    /// Who may call; empty = everybody.
    pub allowed: Networks,
    /// New connections of one address, but of trusted proxies; 0 = any number.
    pub connections_per_minute: u32,
    /// Requests of one address whose secret is refused, before it is told to wait; 0 = any number.
    pub unauthorized_per_minute: u32,
}

impl Default for AddressSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Networks::default(),
            forwarded_header: ForwardedHeader::default(),
            allowed: Networks::default(),
            connections_per_minute: 0,
            unauthorized_per_minute: 300,
        }
    }
}

impl AddressSettings {
    /// The client's address, of a request that came from `peer`.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if self.trusted_proxies.is_empty() {
            return peer;
        }
        let lines = headers.get_all(self.forwarded_header.name()).iter();
        // A line that is no text names nobody.
        let lines = lines.map(|line| line.to_str().unwrap_or_default());
        let lines: Vec<&str> = lines.collect();
        client_address(peer, self.forwarded_header, lines.into_iter(), &self.trusted_proxies)
    }

    /// Checks that an address may call; `None` = nobody knows it.
    ///
    /// # Errors
    /// `AddressNotAllowed`.
    pub fn check(&self, client: Option<IpAddr>) -> Result<(), Refusal> {
        let listed = || client.is_some_and(|client| self.allowed.contains(client));
        if self.allowed.is_empty() || listed() {
            return Ok(());
        }
        metrics::counter!("mcp_addresses_refused_total").increment(1);
        Err(Refusal::AddressNotAllowed)
    }
}

/// What happened from which address, for all doors of a node.
pub struct AddressLimits {
    settings: RwLock<Arc<AddressSettings>>,
    began: Instant,
    connections: Mutex<AddressLimit>,
    unauthorized: Mutex<AddressLimit>,
}

impl Default for AddressLimits {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl AddressLimits {
    #[must_use]
    pub fn new(settings: Arc<AddressSettings>) -> Self {
        Self {
            settings: RwLock::new(settings),
            began: Instant::now(),
            connections: Mutex::default(),
            unauthorized: Mutex::default(),
        }
    }

    /// Replaces the settings; what happened stays counted.
    pub fn change(&self, settings: Arc<AddressSettings>) {
        *self.settings.write() = settings;
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Counts a new connection. Those of trusted proxies are not counted: many clients come by them.
    ///
    /// # Errors
    /// `TooManyNewConnections`.
    pub fn count_connection(&self, peer: IpAddr) -> Result<(), Refusal> {
        let settings = self.settings.read().clone();
        let per_minute = settings.connections_per_minute;
        if per_minute == 0 || settings.trusted_proxies.contains(peer) {
            return Ok(());
        }
        let counted = self.connections.lock().count(peer, per_minute, self.now_us());
        counted.map_err(|retry_ms| Refusal::TooManyNewConnections { retry_ms })
    }

    /// Counts a request that was refused; what it is answered. Only a secret that was shown counts: clients ask without
    /// one to be told where to get a token.
    #[must_use]
    pub fn count_refused(
        &self,
        client: Option<IpAddr>,
        headers: &HeaderMap,
        why: Refusal,
    ) -> Refusal {
        let shown = headers.contains_key("x-api-key") || headers.contains_key(AUTHORIZATION);
        let (Refusal::Unauthorized, Some(client), true) = (&why, client, shown) else { return why };
        let per_minute = self.settings.read().unauthorized_per_minute;
        match self.unauthorized.lock().count(client, per_minute, self.now_us()) {
            Ok(()) => why,
            Err(retry_ms) => {
                metrics::counter!("mcp_unauthorized_limited_total").increment(1);
                Refusal::TooManyUnauthorized { retry_ms }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn an_empty_list_allows_everybody_and_another_nobody_unknown() {
        let mut settings = AddressSettings::default();
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(settings.check(None).is_ok() && settings.check(Some(client)).is_ok());
        settings.allowed = "192.0.2.0/24".parse().unwrap();
        assert!(settings.check(Some(client)).is_ok());
        assert!(settings.check(Some("::ffff:192.0.2.1".parse().unwrap())).is_ok());
        assert_eq!(settings.check(Some("::1".parse().unwrap())), Err(Refusal::AddressNotAllowed));
        assert_eq!(settings.check(None), Err(Refusal::AddressNotAllowed));
    }

    #[test]
    fn only_the_header_that_the_operator_names_is_believed() {
        let trusted_proxies = "10.0.0.0/8".parse().unwrap();
        let settings = AddressSettings { trusted_proxies, ..AddressSettings::default() };
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", HeaderValue::from_static("for=1.1.1.1"));
        assert_eq!(settings.client(peer, &headers), peer);
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        assert_eq!(settings.client(peer, &headers), "192.0.2.1".parse::<IpAddr>().unwrap());
        let standard =
            AddressSettings { forwarded_header: ForwardedHeader::Forwarded, ..settings.clone() };
        assert_eq!(standard.client(peer, &headers), "1.1.1.1".parse::<IpAddr>().unwrap());
        headers.append("x-forwarded-for", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(settings.client(peer, &headers), peer);
    }
}
