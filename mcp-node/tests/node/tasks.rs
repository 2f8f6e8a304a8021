//! Calls whose result comes later: made free, counted when their result is first delivered, and never again.

use http::Method;
use http_body_util::BodyExt;
use mcp_node::MeterSettings;
use serde_json::json;

use crate::{
    rig::{Rig, SECRET, World, http_upstream, message, messages, until, with_server},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_task_counts_once_whatever_the_polling() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(2)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let (status, made) = caller.asked("tools/call", json!({ "name": "task" })).await;
    assert_eq!((status, &made["result"]["resultType"]), (200, &json!("task")));
    let poll = || caller.asked("tasks/get", json!({ "taskId": "t" }));
    for _ in 0..3 {
        assert_eq!(poll().await.1["result"]["status"], "working");
    }
    until("its making is recorded", || rig.outcomes().len() == 1).await;
    assert_eq!(rig.ledger().consumed(&key), 0, "made and polled: free");
    server.finish("t");
    let (first, second, third) = tokio::join!(poll(), poll(), poll());
    for (status, answer) in [first, second, third, poll().await] {
        assert_eq!((status, &answer["result"]["status"]), (200, &json!("completed")));
    }
    let counted =
        [("task".to_owned(), "success".to_owned()), ("task".to_owned(), "task_created".to_owned())];
    until("it is counted by its tool", || rig.outcomes() == counted).await;
    assert_eq!(rig.ledger().consumed(&key), 1);

    // One that failed is free, and so is one whose tool did.
    for (id, tool) in [("failed", "task_that_failed"), ("sorry", "task_with_error")] {
        caller.asked("tools/call", json!({ "name": tool })).await;
        server.finish(id);
        assert_eq!(caller.asked("tasks/get", json!({ "taskId": id })).await.0, 200);
    }
    // One that nobody here has seen being made counts too, for no tool.
    server.finish("other");
    assert_eq!(caller.asked("tasks/get", json!({ "taskId": "other" })).await.0, 200);
    until("it is counted", || rig.ledger().consumed(&key) == 2).await;

    // The quota is spent: the next result is not delivered, until there is leave again.
    server.finish("late");
    let (status, refused) = caller.asked("tasks/get", json!({ "taskId": "late" })).await;
    assert_eq!((status, &refused["error"]["data"]["reason"]), (429, &json!("quota_exhausted")));
    assert_eq!(poll().await.0, 200, "what was counted is delivered again");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_whichever_way_it_is_delivered() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    // 2025-11-25: the result itself.
    caller.called(1, "old_task", json!({})).await;
    let result = r#"{"jsonrpc":"2.0","id":2,"method":"tasks/result","params":{"taskId":"t"}}"#;
    for _ in 0..2 {
        assert_eq!(message(caller.post(result).await.body())["result"]["content"], json!([]));
    }
    until("it is counted once", || rig.ledger().consumed(&key) == 1).await;

    // 2026-07-28: told on a stream.
    let (listener, body) = caller.modern("subscriptions/listen", json!({ "notifications": {} }));
    let mut stream = listener.stream(Method::POST, body).await;
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/tasks", "params": {
        "taskId": "u", "status": "completed", "result": { "content": [] } } });
    for _ in 0..2 {
        server.feed(&format!("data: {told}\n\n"));
        let frame = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(messages(&frame), std::slice::from_ref(&told));
    }
    until("it is counted once", || rig.ledger().consumed(&key) == 2).await;
    rig.stop().await;
}

/// Tasks that nobody ever asks for: a quota bounds what a server is made to do all the same.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_are_never_asked_for_count_beyond_a_bound() {
    let server = Server::start().await;
    let settings = MeterSettings { max_open_tasks: 2, ..MeterSettings::default() };
    let rig =
        Rig::start_metering(World::start().await, http_upstream(&server.url()), settings).await;
    let key = rig.ledger().key(SECRET, Some(4)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let make = async |id: &str| {
        caller.asked("tools/call", json!({ "name": format!("task_named_{id}") })).await.0
    };
    let poll = async |id: &str| {
        server.finish(id);
        caller.asked("tasks/get", json!({ "taskId": id })).await.0
    };
    // Two are free until their results come; the third counts when it is made, and its result is free.
    for id in ["a", "b", "c"] {
        assert_eq!(make(id).await, 200);
    }
    until("the third is counted", || rig.ledger().consumed(&key) == 1).await;
    assert_eq!(poll("c").await, 200);
    assert_eq!(make("d").await, 200);
    until("the fourth too, and no result", || rig.ledger().consumed(&key) == 2).await;
    // The result of one makes room.
    assert_eq!(poll("a").await, 200);
    until("the first is counted by its result", || rig.ledger().consumed(&key) == 3).await;
    assert_eq!((make("e").await, make("f").await), (200, 200));
    until("the sixth is counted", || rig.ledger().consumed(&key) == 4).await;
    let before = server.sent.lock().len();
    assert_eq!(make("g").await, 429, "the quota is spent");
    assert_eq!(server.sent.lock().len(), before, "and the server did nothing");
    rig.stop().await;
}
