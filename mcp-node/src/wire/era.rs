//! Which of the protocol's two eras a request speaks: sessions with a handshake (2025-11-25 and before), or requests
//! that each say everything (2026-07-28 and later).
//!
//! A server behind us may go by the header, we go by the body: where both speak they must agree, and in the new era
//! both must speak. Absent on purpose: what the server behind us speaks (see `bridge`).

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine, engine::general_purpose::STANDARD};
use mcp_node_core::{Message, Refusal, message::About, mirror};

use super::VERSION;

/// The first revision without sessions, where a client that goes away cancels its call.
pub const FIRST_MODERN: &str = "2026-07-28";

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Whether the headers say that the request speaks a revision without sessions.
#[must_use]
pub fn is_modern(headers: &HeaderMap) -> bool {
    version(headers).is_some_and(|version| version >= FIRST_MODERN)
}

/// The revision that the headers name.
#[must_use]
pub fn version(headers: &HeaderMap) -> Option<&str> {
    headers.get(VERSION)?.to_str().ok().map(str::trim)
}

/// Checks that headers and body say the same, and in the new era all that they must.
///
/// # Errors
/// `HeaderMismatch` or `InvalidParams` that say what; `InvalidRequest` for an answer in the new era, where servers
/// ask nothing.
pub fn check(message: &Message<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(VERSION).iter().count() > 1 {
        return Err(Refusal::HeaderMismatch("The header MCP-Protocol-Version stands twice."));
    }
    let modern = is_modern(headers);
    match message {
        Message::Request { method, about, .. } => {
            mirrored(headers, METHOD, method)?;
            if let Some(target) = &about.target {
                mirrored(headers, NAME, target)?;
            }
            if modern { complete(method, about, headers) } else { old(about) }
        }
        Message::Notification { method, .. } => {
            mirrored(headers, METHOD, method)?;
            if modern { present(headers, &METHOD) } else { Ok(()) }
        }
        Message::Answer { .. } if modern => {
            Err(Refusal::InvalidRequest("Since 2026-07-28 clients answer by `inputResponses`."))
        }
        Message::Answer { .. } => Ok(()),
    }
}

/// A request of the old era must not call itself one of the new in its body alone.
fn old(about: &About<'_>) -> Result<(), Refusal> {
    match &about.meta.version {
        Some(version) if &**version >= FIRST_MODERN => Err(Refusal::HeaderMismatch(
            "The header MCP-Protocol-Version does not say what `_meta` says.",
        )),
        _ => Ok(()),
    }
}

fn complete(method: &str, about: &About<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(said) = about.meta.version.as_deref() else {
        return Err(Refusal::InvalidParams(
            "`_meta` must say io.modelcontextprotocol/protocolVersion.",
        ));
    };
    if about.meta.capabilities.is_none() {
        return Err(Refusal::InvalidParams(
            "`_meta` must say io.modelcontextprotocol/clientCapabilities.",
        ));
    }
    if version(headers) != Some(said) {
        return Err(Refusal::HeaderMismatch(
            "The header MCP-Protocol-Version does not say what `_meta` says.",
        ));
    }
    present(headers, &METHOD)?;
    match method {
        "tools/call" | "prompts/get" | "resources/read" => present(headers, &NAME),
        _ => Ok(()),
    }
}

fn present(headers: &HeaderMap, name: &HeaderName) -> Result<(), Refusal> {
    if headers.contains_key(name) {
        return Ok(());
    }
    Err(Refusal::HeaderMismatch("The header Mcp-Method or Mcp-Name is missing."))
}

/// The value of a header that repeats a text of the body.
#[must_use]
pub fn mirroring(text: &str) -> HeaderValue {
    let is_plain = text.bytes().all(|byte| (0x21..0x7f).contains(&byte)) && !text.starts_with("=?");
    let encoded = || format!("=?base64?{}?=", STANDARD.encode(text));
    let text = if is_plain { text.to_owned() } else { encoded() };
    HeaderValue::from_str(&text).expect("visible ASCII is a header's value")
}

fn mirrored(headers: &HeaderMap, name: HeaderName, body: &str) -> Result<(), Refusal> {
    let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    mirror::check(values, body, |text| STANDARD.decode(text).ok())
}

#[cfg(test)]
mod tests {
    use mcp_node_core::message::read;

    use super::*;

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[track_caller]
    fn check(method: &str, params: &str, said: &[(&'static str, &'static str)], code: Option<i64>) {
        let text =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#);
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers: HeaderMap = said.iter().map(pair).collect();
        let found = super::check(&read(text.as_bytes()).unwrap(), &headers);
        assert_eq!(found.err().map(|refusal| refusal.code()), code, "{text} {said:?}");
    }

    #[test]
    fn in_the_new_era_headers_and_body_say_everything_and_the_same() {
        let (new, list) = (("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list"));
        check("tools/list", META, &[new, list], None);
        check("tools/list", META, &[new], Some(-32020));
        check("tools/list", META, &[list], Some(-32020));
        check("tools/list", META, &[("mcp-protocol-version", "2027-01-01"), list], Some(-32020));
        check("tools/list", META, &[new, ("mcp-method", "Tools/List")], Some(-32020));
        check("tools/list", "", &[new, list], Some(-32602));
        let mute = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        check("tools/list", mute, &[new, list], Some(-32602));
        let call = ("mcp-method", "tools/call");
        let params = format!(r#""name":"echo",{META}"#);
        check("tools/call", &params, &[new, call, ("mcp-name", "echo")], None);
        check("tools/call", &params, &[new, call, ("mcp-name", "=?base64?ZWNobw==?=")], None);
        check("tools/call", &params, &[new, call], Some(-32020));
        check("tools/call", &params, &[new, call, ("mcp-name", "other")], Some(-32020));
    }

    #[test]
    fn in_the_old_era_nothing_needs_to_be_repeated() {
        let old = ("mcp-protocol-version", "2025-11-25");
        check("tools/call", r#""name":"echo""#, &[], None);
        check("tools/call", r#""name":"echo""#, &[old], None);
        check("tools/call", r#""name":"echo""#, &[old, ("mcp-name", "other")], Some(-32020));
        check("tools/list", META, &[old], Some(-32020));
        check("tools/list", META, &[], Some(-32020));
    }
}
