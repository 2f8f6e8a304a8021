//! Where a request carries its key: `x-api-key`, or `Authorization: Bearer`.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use mcp_node_core::Refusal;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The secret that a request carries.
///
/// # Errors
/// It carries none, or several: what was checked must be what was meant.
pub fn secret(headers: &HeaderMap) -> Result<&str, Refusal> {
    let keys = headers.get_all(API_KEY).iter().map(|value| value.to_str().ok());
    let bearers = headers.get_all(AUTHORIZATION).iter().map(bearer);
    let mut secrets = keys.chain(bearers);
    match (secrets.next(), secrets.next()) {
        (Some(Some(secret)), None) => Ok(secret.trim()),
        _ => Err(Refusal::Unauthorized),
    }
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_in_one_of_two_places() {
        #[track_caller]
        fn check(headers: &[(&'static str, &'static str)], expected: Option<&str>) {
            let pairs =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let map: HeaderMap = pairs
                .collect::<Vec<(HeaderName, HeaderValue)>>()
                .into_iter()
                .fold(HeaderMap::new(), |mut map, (name, value)| {
                    map.append(name, value);
                    map
                });
            assert_eq!(secret(&map).ok(), expected, "{headers:?}");
        }
        check(&[("x-api-key", "tb_1")], Some("tb_1"));
        check(&[("authorization", "Bearer tb_1")], Some("tb_1"));
        check(&[("authorization", "bearer  tb_1")], Some("tb_1"));
        check(&[], None);
        check(&[("authorization", "Basic dTpw")], None);
        check(&[("authorization", "tb_1")], None);
        check(&[("x-api-key", "tb_1"), ("x-api-key", "tb_2")], None);
        check(&[("x-api-key", "tb_1"), ("authorization", "Bearer tb_2")], None);
    }
}
