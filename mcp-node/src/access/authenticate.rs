//! Who a request is from: a key's secret, a token of the issuer, or the certificate of its connection.
//!
//! Whatever is shown must mean one key: a request that shows two is refused. Nobody is told what was wrong.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use mcp_node_core::{Refusal, token::is_token};
use schemas::KeyId;

use super::{Access, Grant};
use crate::{clock, meter::Meter};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a request shows in its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows<'a> {
    Key(&'a str),
    /// A key or a token.
    Bearer(&'a str),
}

impl Access {
    /// Who sent a request, and what it may do; `certificate` = the key that its connection's certificate names.
    ///
    /// # Errors
    /// `Unauthorized` where it shows nothing, or several things; see [`Meter::authenticate`] besides, and
    /// [`super::Issuer::check`].
    pub fn authenticate(
        &self,
        meter: &Meter,
        headers: &HeaderMap,
        certificate: Option<KeyId>,
    ) -> Result<Grant, Refusal> {
        let grant = match (shows(headers)?, &self.issuer) {
            (Some(Shows::Bearer(text)), Some(issuer)) if is_token(text) => {
                let token = issuer.check(text, clock::wall())?;
                let caller = meter.authenticate_key(token.key)?;
                Grant { caller, scopes: Some(token.scopes.clone()) }
            }
            (Some(Shows::Key(secret) | Shows::Bearer(secret)), _) => {
                Grant::of_key(meter.authenticate(secret)?)
            }
            (None, _) => {
                let key = certificate.ok_or(Refusal::Unauthorized)?;
                return meter.authenticate_key(key).map(Grant::of_key);
            }
        };
        match certificate {
            Some(key) if key != grant.caller.state().key => Err(Refusal::Unauthorized),
            _ => Ok(grant),
        }
    }
}

/// What the headers show: one thing, once, or nothing.
fn shows(headers: &HeaderMap) -> Result<Option<Shows<'_>>, Refusal> {
    let keys = headers.get_all(API_KEY).iter();
    let keys = keys.map(|value| value.to_str().ok().map(|secret| Shows::Key(secret.trim())));
    let bearers = headers.get_all(AUTHORIZATION).iter().map(bearer);
    let mut all = keys.chain(bearers);
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(Some(one)), None) => Ok(Some(one)),
        _ => Err(Refusal::Unauthorized),
    }
}

fn bearer(value: &HeaderValue) -> Option<Shows<'_>> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(Shows::Bearer(token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_in_one_of_two_places() {
        #[track_caller]
        fn check(headers: &[(&'static str, &'static str)], expected: Option<Option<Shows<'_>>>) {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(shows(&map).ok(), expected, "{headers:?}");
        }
        check(&[("x-api-key", "tb_1")], Some(Some(Shows::Key("tb_1"))));
        check(&[("authorization", "Bearer tb_1")], Some(Some(Shows::Bearer("tb_1"))));
        check(&[("authorization", "bearer  a.b.c")], Some(Some(Shows::Bearer("a.b.c"))));
        check(&[], Some(None));
        check(&[("authorization", "Basic dTpw")], None);
        check(&[("authorization", "tb_1")], None);
        check(&[("authorization", "Bearer tb_1"), ("authorization", "Bearer tb_1")], None);
        check(&[("x-api-key", "tb_1"), ("x-api-key", "tb_2")], None);
        check(&[("x-api-key", "tb_1"), ("authorization", "Bearer tb_2")], None);
        check(&[("x-api-key", "tb_1"), ("authorization", "Basic dTpw")], None);
    }
}
