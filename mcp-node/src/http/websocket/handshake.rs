//! The server's side of the opening handshake (RFC 6455, section 4.2).

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::wire::websocket::{SUBPROTOCOL, accept_key};

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is of another version of the protocol.
    Version,
    Request(&'static str),
}

/// The answer to a request that opens a WebSocket.
///
/// # Errors
/// It does not, or not for MCP.
pub fn accept(headers: &HeaderMap) -> Result<Response, Unfit> {
    if !lists(headers, CONNECTION, "upgrade") || !lists(headers, UPGRADE, "websocket") {
        return Err(Unfit::Request("Here is a WebSocket: the request must ask for an upgrade."));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Unfit::Version);
    }
    if !lists(headers, SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(Unfit::Request("The WebSocket's subprotocol must be `mcp`."));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(Unfit::Request("One header Sec-WebSocket-Key must be there."));
    };
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Unfit::Request("Sec-WebSocket-Key must be 16 bytes in base64."));
    }
    let said = [
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (SEC_WEBSOCKET_ACCEPT, accept_key(key)),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, said).into_response())
}

/// Says which version is spoken here.
pub fn other_version() -> Response {
    (StatusCode::UPGRADE_REQUIRED, [(SEC_WEBSOCKET_VERSION, "13"), (UPGRADE, "websocket")])
        .into_response()
}

/// Whether a header that is a list has a member, in whatever case.
fn lists(headers: &HeaderMap, name: HeaderName, member: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &[(&'static str, &'static str)], expected: Result<u16, Option<Unfit>>) {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "other, mcp"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in good.iter().chain(said) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        headers.retain_said();
        let found = accept(&headers);
        match expected {
            Ok(status) => assert_eq!(found.map(|response| response.status().as_u16()), Ok(status)),
            Err(Some(unfit)) => assert_eq!(found.err(), Some(unfit), "{said:?}"),
            Err(None) => assert!(matches!(found, Err(Unfit::Request(_))), "{said:?}"),
        }
    }

    trait RetainSaid {
        fn retain_said(&mut self);
    }

    impl RetainSaid for HeaderMap {
        /// Drops the headers that a row leaves empty.
        fn retain_said(&mut self) {
            let empty: Vec<HeaderName> = self
                .iter()
                .filter(|(_, value)| value.is_empty())
                .map(|(name, _)| name.clone())
                .collect();
            empty.iter().for_each(|name| drop(self.remove(name)));
        }
    }

    #[test]
    fn only_a_handshake_for_mcp_is_accepted() {
        check(&[], Ok(101));
        check(&[("sec-websocket-version", "12")], Err(Some(Unfit::Version)));
        check(&[("sec-websocket-version", "")], Err(Some(Unfit::Version)));
        for name in ["connection", "upgrade", "sec-websocket-protocol", "sec-websocket-key"] {
            check(&[(name, "")], Err(None));
            check(&[(name, "other")], Err(None));
        }
    }

    #[test]
    fn the_key_is_answered_as_the_rfc_says() {
        // RFC 6455, section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_key(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
