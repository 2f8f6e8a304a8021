//! A connection of HTTP+SSE of 2024-11-05: the server's messages come on a stream, the session's are posted to where
//! the stream's first event says.
//!
//! That must be of the stream's own origin: a server cannot send this node's credentials elsewhere.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, Uri, header::ACCEPT},
};
use bytes::Bytes;
use mcp_node_core::{Refusal, sse};
use tokio::sync::mpsc;

use super::{
    Session,
    post::Poster,
    way::{RemoteServer, on_one_line},
};
use crate::{
    access::Grant,
    upstream::UpstreamSettings,
    wire::frames::{Frames, is_events},
};

/// An open stream.
pub struct SseConnection {
    events: Frames,
    poster: Poster,
}

impl SseConnection {
    /// Opens a stream, and waits until it says where to post.
    ///
    /// # Errors
    /// The server cannot be reached, or speaks something else.
    pub async fn open(
        remote: Arc<RemoteServer>,
        grant: Option<&Grant>,
        settings: UpstreamSettings,
    ) -> Result<Self, Refusal> {
        let mut request = remote.request(Method::GET, &remote.url, grant, Bytes::new());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let response = remote.send(request).await?;
        let status = response.status();
        if status != StatusCode::OK || !is_events(response.headers()) {
            tracing::warn!(%status, "The upstream opens no stream of events");
            return Err(Refusal::UpstreamInvalid);
        }
        let body = Body::new(response.into_body());
        let mut events = Frames::of(body, settings.max_answer_bytes);
        loop {
            let Some(Ok(frame)) = events.next().await else {
                tracing::warn!("The upstream's stream ended before it said where to post");
                return Err(Refusal::UpstreamInvalid);
            };
            if sse::field(&frame, b"event") != Some(&b"endpoint"[..]) {
                continue;
            }
            let data = sse::data(&frame).unwrap_or_default();
            let said = std::str::from_utf8(&data).unwrap_or_default().trim();
            let Some(endpoint) = resolve(&remote.url, said) else {
                tracing::warn!("The upstream names an endpoint of another origin");
                return Err(Refusal::UpstreamInvalid);
            };
            let poster = Poster::new(remote, grant.cloned(), endpoint, settings.request_timeout);
            return Ok(Self { events, poster });
        }
    }

    /// Serves a session until it ends, or the stream does.
    pub async fn serve(self, session: &Arc<Session>, lines: mpsc::Receiver<Bytes>) {
        let Self { mut events, poster } = self;
        let reading = async {
            while let Some(Ok(frame)) = events.next().await {
                let is_message = sse::is_message(&frame);
                let data = sse::data(&frame).filter(|data| !data.trim_ascii().is_empty());
                if let Some(data) = data.filter(|_| is_message) {
                    session.take_line(on_one_line(Bytes::copy_from_slice(&data))).await;
                }
            }
        };
        tokio::select! {
            () = reading => {
                tracing::warn!("The upstream's stream has ended");
                session.failed_to_start();
            }
            () = poster.run(session, lines) => {}
            () = session.end.cancelled() => {}
        }
    }
}

/// The address that an `endpoint` event names, if it is of the same origin as the stream.
fn resolve(base: &Uri, said: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if said.starts_with("//") {
        format!("{scheme}:{said}")
    } else if said.starts_with('/') {
        format!("{scheme}://{authority}{said}")
    } else if said.contains("://") {
        said.to_owned()
    } else if said.is_empty() {
        return None;
    } else {
        let path = base.path();
        let folder = if said.starts_with('?') { path } else { &path[..=path.rfind('/')?] };
        format!("{scheme}://{authority}{folder}{said}")
    };
    let uri: Uri = text.split('#').next()?.parse().ok()?;
    (origin(&uri)? == origin(base)?).then_some(uri)
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?;
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    let port = uri.port_u16().or(match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })?;
    Some((scheme.to_owned(), uri.host()?.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_of_the_streams_own_origin() {
        #[track_caller]
        fn check(said: &str, resolved: Option<&str>) {
            let base = Uri::from_static("http://a.example/x/sse");
            assert_eq!(resolve(&base, said).map(|uri| uri.to_string()).as_deref(), resolved);
        }
        check("/m?sessionId=1", Some("http://a.example/m?sessionId=1"));
        check("m?sessionId=1", Some("http://a.example/x/m?sessionId=1"));
        check("?sessionId=1", Some("http://a.example/x/sse?sessionId=1"));
        check("http://A.example:80/m", Some("http://A.example:80/m"));
        check("/m?to=http://b.example/", Some("http://a.example/m?to=http://b.example/"));
        check("//a.example/m", Some("http://a.example/m"));
        for other in [
            "https://a.example/m",
            "http://a.example:81/m",
            "http://b.example/m",
            "//b.example/m",
            "http://a.example@b.example/m",
            "http://b.example@a.example/m",
            "ftp://a.example/m",
            "",
        ] {
            check(other, None);
        }
    }
}
