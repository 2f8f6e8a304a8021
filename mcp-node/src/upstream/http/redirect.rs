//! Where the server is: at the address of the settings, or where it has sent us within the same origin.
//!
//! Frameworks answer `/mcp` with a redirect to `/mcp/`. A 307 or 308 within the origin is followed once and remembered;
//! any other redirect is named in the log and refused: it would take a request, and credentials, somewhere else.

use axum::http::{Request, Response, StatusCode, Uri, header::LOCATION, uri::PathAndQuery};
use bytes::Bytes;
use http_body_util::Full;
use mcp_node_core::Refusal;
use parking_lot::RwLock;

/// The address of a server.
pub struct Address {
    /// As of now, and whether an answer has come from there.
    now: RwLock<(Uri, bool)>,
}

/// What an answer asks for.
pub enum Next<B> {
    /// Nothing: it is the answer.
    Answer(Response<B>),
    /// The same request at the new address.
    Again(Request<Full<Bytes>>),
    Refused,
}

impl Address {
    pub fn new(url: Uri) -> Self {
        Self { now: RwLock::new((url, false)) }
    }

    pub fn now(&self) -> Uri {
        self.now.read().0.clone()
    }

    /// A copy of a request, as long as the server may answer that it is elsewhere.
    pub fn copy(&self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        (!self.now.read().1).then(|| request.clone())
    }

    /// What to do with an answer; `again` = a copy of its request.
    pub fn follow<B>(&self, response: Response<B>, again: Option<Request<Full<Bytes>>>) -> Next<B> {
        let status = response.status();
        if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
            self.settle();
            return Next::Answer(response);
        }
        let followed =
            matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        let place = self.place(&response).filter(|_| followed);
        let Some(place) = place else {
            let location = response.headers().get(LOCATION);
            tracing::warn!(%status, ?location, "Redirect of the upstream refused: only 307 and 308 within its origin are followed");
            return Next::Refused;
        };
        tracing::info!(%status, path = place.path(), "Upstream redirects: its new address is used from now on");
        *self.now.write() = (place.clone(), false);
        match again {
            Some(mut request) => {
                *request.uri_mut() = place;
                Next::Again(request)
            }
            None => Next::Refused, // The next request goes there.
        }
    }

    /// The answer from an address that was redirected to.
    ///
    /// # Errors
    /// It redirects again.
    pub fn arrived<B>(&self, response: Response<B>) -> Result<Response<B>, Refusal> {
        match self.follow(response, None) {
            Next::Answer(response) => Ok(response),
            Next::Again(_) | Next::Refused => Err(Refusal::UpstreamRedirects),
        }
    }

    fn settle(&self) {
        if !self.now.read().1 {
            self.now.write().1 = true;
        }
    }

    /// Where it redirects to, if that is within its origin.
    fn place<B>(&self, response: &Response<B>) -> Option<Uri> {
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        let now = self.now();
        let target: Uri = location.parse().ok()?;
        if target.authority().is_some() {
            let same = target.scheme() == now.scheme()
                && target.host() == now.host()
                && port(&target) == port(&now);
            return same.then_some(target);
        }
        let path: PathAndQuery = location
            .parse()
            .ok()
            .filter(|_| location.starts_with('/') && !location.starts_with("//"))?;
        let mut parts = now.into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).ok()
    }
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, location: &str, expected: Option<&str>) {
        let address = Address::new(Uri::from_static("http://server:80/mcp"));
        let response =
            Response::builder().status(status).header(LOCATION, location).body(()).unwrap();
        let request = Request::new(Full::new(Bytes::new()));
        let copy = address.copy(&request);
        assert!(copy.is_some(), "no answer has come yet");
        let found = match address.follow(response, copy) {
            Next::Again(request) => Some(request.uri().to_string()),
            Next::Answer(_) => panic!("{status} is no answer"),
            Next::Refused => None,
        };
        assert_eq!(found.as_deref(), expected, "{status} {location}");
        assert_eq!(address.now() == "http://server:80/mcp", expected.is_none());
    }

    #[test]
    fn a_redirect_is_followed_within_the_origin_alone() {
        check(307, "/mcp/", Some("http://server:80/mcp/"));
        check(308, "http://server/mcp/", Some("http://server/mcp/"));
        check(307, "http://server:80/x?y=1", Some("http://server:80/x?y=1"));
        check(307, "https://server:80/mcp", None);
        check(307, "http://server:81/mcp", None);
        check(307, "http://other/mcp", None);
        check(307, "//other/mcp", None);
        check(307, "mcp/", None);
        check(301, "/mcp/", None);
        check(302, "/mcp/", None);
        check(303, "/mcp/", None);
    }

    #[test]
    fn once_an_answer_has_come_no_copy_is_made() {
        let address = Address::new(Uri::from_static("http://server/mcp"));
        let answer = Response::new(());
        assert!(matches!(address.follow(answer, None), Next::Answer(_)));
        assert!(address.copy(&Request::new(Full::new(Bytes::new()))).is_none());
    }
}
