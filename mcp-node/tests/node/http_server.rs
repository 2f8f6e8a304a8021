//! A server over Streamable HTTP that no one here wrote.

use http::Method;
use serde_json::json;
use stack::{Folder, McpServer};

use crate::rig::{Rig, SECRET, http_upstream, messages, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_over_http_is_metered_without_a_change() {
    let folder = Folder::temporary().unwrap();
    let server = McpServer::start(&folder).await.unwrap();
    let rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(12)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET).initialized().await;
    let tools = caller.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    let tools = messages(tools.body()).pop().unwrap();
    assert!(tools["result"]["tools"].as_array().is_some_and(|tools| tools.len() > 5), "{tools}");

    let (status, answer) = caller.called(2, "echo", json!({ "message": "hello" })).await;
    assert_eq!(status, 200);
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("hello"), "{answer}");
    let (_, answer) = caller.called(3, "no-such-tool", json!({})).await;
    assert!(answer.get("error").is_some() || answer["result"]["isError"] == true, "{answer}");
    let mut statuses = vec![];
    for id in 10..30 {
        statuses.push(caller.called(id, "echo", json!({ "message": "again" })).await.0);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 11, "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429));

    let stranger =
        rig.caller(SECRET).with("mcp-session-id", "00000000-0000-0000-0000-000000000000");
    assert_eq!(
        stranger.post(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await.status(),
        404
    );
    let stream = caller.stream(Method::GET, "").await;
    assert_eq!(stream.status(), 200);
    drop(stream);
    assert!(caller.send(Method::DELETE, "").await.status().is_success());
    assert_eq!(
        caller.post(r#"{"jsonrpc":"2.0","id":9,"method":"tools/list"}"#).await.status(),
        404
    );
    let world = rig.stop().await;
    assert_eq!(world.ledger.consumed(&key), 12);
}
