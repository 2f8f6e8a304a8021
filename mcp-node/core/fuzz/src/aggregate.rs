//! Of any two answers to a list, one list can be made in which each name stands once and finds its server; what a server
//! asks under any id is answered under that id.

use std::collections::HashSet;

use mcp_node_core::{
    aggregate::{
        list::{List, Part, merged, page},
        names,
        tag::{self, EventId},
    },
    message::{Message, read},
};
use serde_json::Value;

/// Makes one list of `bytes` as the answers of two servers, and takes `bytes` for a message, a call and an event's id.
pub fn check(bytes: &[u8]) {
    for (method, entries, by) in
        [("tools/list", "tools", "name"), ("resources/list", "resources", "uri")]
    {
        let list = List::of(method).expect("it lists");
        let (Ok(Some(one)), Ok(Some(two))) = (page(bytes, list), page(bytes, list)) else {
            continue;
        };
        let parts = [
            Part { server: "one", prefix: "p_", pages: vec![one] },
            Part { server: "two", prefix: "", pages: vec![two] },
        ];
        let found = merged(list, &parts, &["three"]);
        let result: Value = serde_json::from_str(&found.result).expect("a list is JSON");
        let shown = result[entries].as_array().expect("a list has entries");
        let shown: Vec<&str> =
            shown.iter().map(|entry| entry[by].as_str().expect("a name")).collect();
        let offered: Vec<&str> = found.offers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(shown, offered, "what is shown is what is known");
        assert_eq!(shown.iter().collect::<HashSet<_>>().len(), shown.len(), "once each");
        for (name, at) in &found.offers {
            assert!(!list.is_prefixed || *at == 1 || name.starts_with("p_"), "{name}");
        }
    }
    if let Ok(Message::Request { id, .. }) = read(bytes) {
        let (own, told) = (id.key(), tag::message("one", bytes));
        // One that is too long with the server's name is refused by whoever reads it.
        if let Ok(Message::Request { id, .. }) = read(&told) {
            let (server, found) = tag::id_of(id.raw).expect("an id of ours");
            let found = mcp_node_core::message::Id { raw: &found }.key();
            assert_eq!((server.as_str(), found), ("one", own));
        }
    }
    if let Some(cut) = names::with_name(bytes, "x") {
        let cut: Value = serde_json::from_slice(&cut).unwrap_or(Value::Null);
        assert!(cut.is_null() || cut["params"]["name"] == "x", "{cut}");
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(event) = EventId::read(text)
    {
        assert_eq!(EventId::read(&event.written()), Some(event));
    }
}
