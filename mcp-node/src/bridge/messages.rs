//! The messages that the bridge says itself, and what it reads and changes in those of others.

use std::collections::BTreeMap;

use bytes::Bytes;
use mcp_node_core::{
    Refusal,
    message::{META_CAPABILITIES, META_VERSION},
    splice,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::link::wire_id;
use crate::wire::{FIRST_MODERN, RequestId, answer::VERSIONS};

pub const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// What cannot be edited without a doubt is not edited.
pub const TWICE: Refusal =
    Refusal::InvalidRequest("A member that decides what is done stands more than once.");

/// The newest revision with sessions.
pub const LAST_OLD: &str = "2025-11-25";
/// What the old era says of a resource that is not there; the new one says `-32602`.
const OLD_NOT_FOUND: i64 = -32002;
/// What only a server of the new era says.
const UNSUPPORTED_VERSION: i64 = -32022;

/// Members of any object, as they were written.
pub type Members<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

fn members(raw: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(raw.get()).ok()
}

/// The members of a message's result.
pub fn result(message: &[u8]) -> Option<Members<'_>> {
    members(serde_json::from_slice::<Envelope<'_>>(message).ok()?.result?)
}

/// The members of a message's params.
pub fn params(message: &[u8]) -> Option<Members<'_>> {
    members(serde_json::from_slice::<Envelope<'_>>(message).ok()?.params?)
}

/// A member that is a text.
pub fn text(of: &Members<'_>, name: &str) -> Option<String> {
    serde_json::from_str(of.get(name)?.get()).ok()
}

/// By what name the sender of a request wants to hear of its progress, as it is written.
pub fn progress_token(message: &[u8]) -> Option<String> {
    let params = params(message)?;
    let meta = object(&params, "_meta")?;
    Some(meta.get("progressToken")?.get().to_owned())
}

/// The members of a member that is an object.
pub fn object<'a>(of: &Members<'a>, name: &str) -> Option<Members<'a>> {
    members(of.get(name).copied()?)
}

/// The id of `server/discover`, the first request of a conversation.
pub fn first() -> RequestId {
    wire_id(0)
}

/// The id of `initialize`, which may follow a `server/discover` that nobody answered.
pub fn second() -> RequestId {
    wire_id(u64::MAX)
}

/// What the node says of itself.
pub fn implementation() -> serde_json::Value {
    json!({ "name": "mcp-node", "version": env!("CARGO_PKG_VERSION") })
}

/// `initialize` for a client that can do so and so (JSON).
pub fn initialize(capabilities: &str) -> String {
    let (id, client) = (second().raw, implementation());
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{LAST_OLD}","capabilities":{capabilities},"clientInfo":{client}}}}}"#
    )
}

/// The `_meta` members of the new era, for a client that can do so and so (JSON).
pub fn meta(capabilities: &str, client: Option<&str>) -> String {
    let ours = implementation().to_string();
    let client = client.unwrap_or(&ours);
    format!(
        r#""{META_VERSION}":"{FIRST_MODERN}","{META_CAPABILITIES}":{capabilities},"{META_CLIENT}":{client}"#
    )
}

pub fn discover(capabilities: &str) -> String {
    let (id, meta) = (first().raw, meta(capabilities, None));
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"server/discover","params":{{"_meta":{{{meta}}}}}}}"#
    )
}

/// The revision that an answer to `initialize` agrees to.
pub fn agreed(hello: &[u8]) -> Option<String> {
    text(&result(hello)?, "protocolVersion")
}

/// Whether an answer to `server/discover` says that the server speaks the new era.
pub fn speaks_new(hello: &[u8]) -> bool {
    let versions = result(hello).and_then(|result| Some(result.get("supportedVersions")?.get()));
    let versions = versions.and_then(|raw| serde_json::from_str::<Vec<String>>(raw).ok());
    versions.is_some_and(|versions| versions.iter().any(|version| version == FIRST_MODERN))
}

/// Whether an error says that a request of the new era is the one to send.
pub fn wants_new(error: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Fault {
        code: i64,
        data: Versions,
    }
    #[derive(Deserialize)]
    struct Versions {
        supported: Vec<String>,
    }
    let fault = serde_json::from_slice::<Envelope<'_>>(error).ok().and_then(|said| said.error);
    fault.and_then(|raw| serde_json::from_str::<Fault>(raw.get()).ok()).is_some_and(|fault| {
        fault.code == UNSUPPORTED_VERSION
            && fault.data.supported.iter().any(|version| version == FIRST_MODERN)
    })
}

/// An answer of ours.
pub fn answer(id: &str, result: &str) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into()
}

/// What an answer to `initialize` is as one to `server/discover`.
pub fn discovered(id: &str, hello: &[u8]) -> Option<Bytes> {
    let said = result(hello)?;
    let mut capabilities = object(&said, "capabilities").unwrap_or_default();
    capabilities.remove("tasks"); // They mean something else in the new era.
    let raw = |name: &str| said.get(name).map(|raw| (*raw).to_owned());
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": VERSIONS,
        "capabilities": capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
    });
    if let Some(instructions) = raw("instructions") {
        result["instructions"] = json!(instructions);
    }
    if let Some(server) = raw("serverInfo") {
        result["_meta"] = json!({ META_SERVER: server });
    }
    Some(answer(id, &result.to_string()))
}

/// What an answer to `server/discover` is as one to `initialize` by a client of `version`.
pub fn initialized(id: &str, hello: &[u8], version: &str) -> Option<Bytes> {
    let said = result(hello)?;
    let known = |known: &&&str| **known == version && **known != FIRST_MODERN;
    let version = VERSIONS.iter().find(known).unwrap_or(&LAST_OLD);
    let server =
        object(&said, "_meta").and_then(|meta| meta.get(META_SERVER).map(|raw| json!(raw)));
    let mut capabilities = object(&said, "capabilities").unwrap_or_default();
    capabilities.remove("extensions");
    let mut result = json!({
        "protocolVersion": version,
        "capabilities": capabilities,
        "serverInfo": server.unwrap_or_else(|| json!({ "name": "unknown", "version": "0" })),
    });
    if let Some(instructions) = said.get("instructions") {
        result["instructions"] = json!(instructions);
    }
    Some(answer(id, &result.to_string()))
}

/// An answer with the id that its asker gave; one that names no request is made to.
pub fn addressed(message: &[u8], id: &str) -> Option<Bytes> {
    if let Some(message) = splice::with_id(message, id) {
        return Some(message.into());
    }
    let error = serde_json::from_slice::<Envelope<'_>>(message).ok()?.error?.get();
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into())
}

/// A request of the new era, as an old server should see it: one that knows both eras would go by what `_meta` says.
pub fn aged(message: &[u8]) -> Option<Vec<u8>> {
    let known =
        |name: &str| [META_VERSION, META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL].contains(&name);
    splice::without_meta(message, known)
}

/// An answer of the old era to `method`, as the new one says it.
pub fn renewed(message: Bytes, method: &str) -> Bytes {
    if splice::code(&message) == Some(OLD_NOT_FOUND) {
        return splice::with_code(&message, -32602).map_or(message, Bytes::from);
    }
    let Some(has) = result(&message) else { return message };
    let mut missing = vec![];
    if !has.contains_key("resultType") {
        missing.push(r#""resultType":"complete""#);
    }
    if (method.ends_with("/list")
        || method == "resources/read"
        || method.ends_with("/templates/list"))
        && !has.contains_key("ttlMs")
    {
        missing.push(r#""ttlMs":0,"cacheScope":"private""#);
    }
    splice::with_result(&message, &missing.join(",")).map_or(message, Bytes::from)
}

/// A notification that belongs to a subscription.
pub fn subscribed(message: &[u8], id: &str) -> Option<Bytes> {
    splice::with_meta(message, &format!(r#""{SUBSCRIPTION}":{id}"#)).map(Bytes::from)
}

/// The first and the last words on a stream of subscriptions.
pub fn acknowledged(id: &str, accepted: &str) -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"_meta":{{"{SUBSCRIPTION}":{id}}},"notifications":{accepted}}}}}"#
    )
    .into()
}

pub fn unsubscribed(id: &str) -> Bytes {
    answer(id, &format!(r#"{{"resultType":"complete","_meta":{{"{SUBSCRIPTION}":{id}}}}}"#))
}

/// Tells a server that nobody waits for an answer any more.
pub fn cancelled(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
    )
}

/// Refuses what a server asks.
pub fn no_such_method(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn value(bytes: Option<Bytes>) -> Value {
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    #[test]
    fn a_greeting_of_one_era_is_one_of_the_other() {
        let hello = br#"{"jsonrpc":"2.0","id":"tb-0","result":{"protocolVersion":"2025-06-18",
            "capabilities":{"tools":{"listChanged":true},"tasks":{},"x":1},"serverInfo":{"name":"s","version":"1"},"instructions":"Hi"}}"#;
        assert_eq!(agreed(hello).as_deref(), Some("2025-06-18"));
        let found = value(discovered("7", hello));
        let result = &found["result"];
        assert_eq!((&found["id"], &result["resultType"]), (&json!(7), &json!("complete")));
        assert_eq!(result["capabilities"], json!({ "tools": { "listChanged": true }, "x": 1 }));
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "s");
        assert_eq!(
            (&result["instructions"], &result["cacheScope"]),
            (&json!("Hi"), &json!("private"))
        );
        let back = found.to_string();
        assert!(speaks_new(back.as_bytes()));
        let back = value(initialized("\"a\"", back.as_bytes(), "2025-03-26"));
        assert_eq!(back["result"]["protocolVersion"], "2025-03-26");
        assert_eq!(back["result"]["serverInfo"], json!({ "name": "s", "version": "1" }));
        let other = value(initialized("1", found.to_string().as_bytes(), "2026-07-28"));
        assert_eq!(other["result"]["protocolVersion"], LAST_OLD);
    }

    #[test]
    fn a_server_that_refuses_the_revision_and_names_it_speaks_it() {
        let error = |code: i64, supported: &str| {
            let data = format!(r#"{{"supported":{supported},"requested":"x"}}"#);
            let error = format!(r#"{{"id":1,"error":{{"code":{code},"data":{data}}}}}"#);
            wants_new(error.as_bytes())
        };
        assert!(error(-32022, r#"["2025-11-25","2026-07-28"]"#));
        assert!(!error(-32022, r#"["2025-11-25"]"#) && !error(-32601, r#"["2026-07-28"]"#));
        assert!(!wants_new(br#"{"id":1,"error":{"code":-32022}}"#) && !wants_new(b"{}"));
    }

    #[test]
    fn an_old_answer_is_completed_and_nothing_else() {
        #[track_caller]
        fn check(method: &str, old: &str, new: &str) {
            assert_eq!(renewed(Bytes::from(old.to_owned()), method), new);
        }
        check(
            "tools/call",
            r#"{"id":1,"result":{"content":[]}}"#,
            r#"{"id":1,"result":{"resultType":"complete","content":[]}}"#,
        );
        check(
            "tools/call",
            r#"{"id":1,"result":{"resultType":"x"}}"#,
            r#"{"id":1,"result":{"resultType":"x"}}"#,
        );
        check(
            "tools/list",
            r#"{"id":1,"result":{"tools":[]}}"#,
            r#"{"id":1,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[]}}"#,
        );
        check(
            "resources/read",
            r#"{"id":1,"error":{"code":-32002}}"#,
            r#"{"id":1,"error":{"code":-32602}}"#,
        );
        check(
            "tools/call",
            r#"{"id":1,"error":{"code":-32001}}"#,
            r#"{"id":1,"error":{"code":-32001}}"#,
        );
    }
}
