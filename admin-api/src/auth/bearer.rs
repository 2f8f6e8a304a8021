//! The operator's bearer token, in front of everything under `/admin`.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};

use super::Fingerprint;
use crate::error::ApiError;

/// Lets a request pass that bears the token.
///
/// # Errors
/// It bears none, or another one.
pub async fn require(
    State(operator): State<Fingerprint>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match token(request.headers()) {
        Some(token) if Fingerprint::of(token).matches(operator) => Ok(next.run(request).await),
        _ => Err(ApiError::Unauthorized),
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return None }; // Two are none.
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_is_read() {
        #[track_caller]
        fn check(values: &[&str], wanted: Option<&str>) {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(token(&headers), wanted, "{values:?}");
        }
        check(&["Bearer abc"], Some("abc"));
        check(&["bearer  abc "], Some("abc"));
        check(&[], None);
        check(&["abc"], None);
        check(&["Basic abc"], None);
        check(&["Bearer "], None);
        check(&["Bearer abc", "Bearer abc"], None);
    }
}
