//! The scanner never panics, and what it takes every other reader reads in the same way.

use mcp_node_core::{
    Message,
    message::{LONGEST_NAME, read},
};
use serde_json::Value;

/// Reads `bytes` as a message, and once more as plain JSON: the two agree on all that decides.
pub fn check(bytes: &[u8]) {
    let Ok(message) = read(bytes) else { return };
    let plain: Value = match serde_json::from_slice(bytes) {
        Ok(plain) => plain,
        // A reader of ordinary depth may refuse what the scanner takes; it then forwards nothing either.
        Err(error) => return assert!(is_depth_or_range(&error), "taken, but not JSON: {error}"),
    };
    assert_eq!(plain["jsonrpc"], "2.0");
    match message {
        Message::Request { id, method, tool, .. } => {
            assert_eq!(plain["method"], *method);
            let same: Value = serde_json::from_str(id.raw).expect("an id is JSON");
            assert_eq!(plain["id"], same);
            assert!(method.len() <= LONGEST_NAME, "a method of any length was taken");
            assert_eq!(tool.is_some(), method == "tools/call");
            if let Some(tool) = tool {
                assert_eq!(plain["params"]["name"], *tool);
            }
            assert_eq!(id.key(), id.key());
        }
        Message::Notification { method, cancels } => {
            assert_eq!(plain["method"], *method);
            assert!(plain.get("id").is_none());
            if let Some(cancels) = cancels {
                let same: Value = serde_json::from_str(cancels.raw).expect("an id is JSON");
                assert_eq!(plain["params"]["requestId"], same);
            }
        }
        Message::Answer { .. } => {
            assert!(plain.get("method").is_none());
            assert!(plain.get("result").is_some() != plain.get("error").is_some());
        }
    }
}

/// Numbers that no double holds, and nesting past 128, are JSON; a plain reader refuses them.
fn is_depth_or_range(error: &serde_json::Error) -> bool {
    let words = error.to_string();
    words.starts_with("number out of range") || words.starts_with("recursion limit")
}
