//! Of any answer to `tools/list`, a caller is shown no tool that it may not call, and filtering twice is filtering once.

use mcp_node_core::tool_list::filtered;
use serde_json::Value;

fn may(tool: &str) -> bool {
    tool.starts_with('m')
}

/// Filters `bytes` as an answer.
pub fn check(bytes: &[u8]) {
    for private in [false, true] {
        let Ok(once) = filtered(bytes, may, private) else { continue };
        assert_eq!(filtered(&once, may, private).as_deref(), Ok(&*once), "twice is once");
        let Ok(answer) = serde_json::from_slice::<Value>(&once) else { continue };
        let result = &answer["result"];
        assert!(!private || !result.is_object() || result["cacheScope"] == "private");
        for tool in result["tools"].as_array().into_iter().flatten() {
            assert!(tool["name"].as_str().is_some_and(may), "{tool} shows");
        }
    }
}
