//! What our servers answer well: everything but `tools/call`.

use serde_json::{Value, json};

/// The answer to a request of the revision 2026-07-28 (`new`) or of one before it: status and body.
#[must_use]
pub fn answer(message: &Value, new: bool) -> (&'static str, String) {
    let (status, mut body) = match message["method"].as_str().unwrap_or_default() {
        "initialize" if !new => {
            let result = json!({
                "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
                "serverInfo": { "name": "differential", "version": "1" },
            });
            ("200 OK", json!({ "result": result }))
        }
        "initialize" => {
            let data = json!({ "supported": ["2026-07-28"], "requested": "2025-11-25" });
            let error = json!({ "code": -32022, "message": "unsupported", "data": data });
            ("400 Bad Request", json!({ "error": error }))
        }
        "server/discover" if new => {
            let info = json!({ "name": "differential", "version": "1" });
            let result = json!({
                "resultType": "complete", "supportedVersions": ["2026-07-28"],
                "capabilities": { "tools": {} }, "ttlMs": 3_600_000, "cacheScope": "public",
                "_meta": { "io.modelcontextprotocol/serverInfo": info },
            });
            ("200 OK", json!({ "result": result }))
        }
        "ping" => ("200 OK", json!({ "result": {} })),
        "tools/list" => {
            let result = json!({
                "tools": [], "resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "private",
            });
            ("200 OK", json!({ "result": result }))
        }
        _ => {
            let status = if new { "404 Not Found" } else { "200 OK" };
            (status, json!({ "error": { "code": -32601, "message": "no such method" } }))
        }
    };
    body["jsonrpc"] = json!("2.0");
    body["id"] = message["id"].clone();
    (status, body.to_string())
}

/// The answer to a call, whose id is this JSON.
#[must_use]
pub fn call(id: &str) -> String {
    let result = r#"{"content":[{"type":"text","text":"ran"}],"resultType":"complete"}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}
