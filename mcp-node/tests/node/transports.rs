//! HTTP+SSE of 2024-11-05 and WebSocket as clients speak them: metered, bounded and refused as Streamable HTTP is.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::Method;
use mcp_fixture::{Fixture, Speaks};
use mcp_node::{http::ListenSettings, upstream::UpstreamSettings};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    duplex::{Duplex, KINDS, Kind, headers, upgrade},
    process::{Process, known},
    rig::{
        Caller, Rig, SECRET, World, call, http_upstream, http_upstream_with, initialize, meta,
        settings, until, with_server,
    },
    server::Server,
};

const OTHER: &str = "tb_other";

async fn known_to(rig: &Rig, secret: &str) {
    until("the key is known", || rig.node.meter().authenticate(secret).is_ok()).await;
}

/// How many calls a server has been sent.
fn calls(server: &Server) -> usize {
    let is_call = |body: &[u8]| body.windows(12).any(|part| part == b"\"tools/call\"");
    server.sent.lock().iter().filter(|sent| is_call(&sent.body)).count()
}

async fn connect(kind: Kind, rig: &Rig, secret: &str) -> Duplex {
    Duplex::connect(kind, rig.address(), "", secret).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_quota_holds_over_either_transport() {
    for kind in KINDS {
        let (rig, server) = with_server().await;
        let key = rig.ledger().key(SECRET, Some(2)).await;
        known_to(&rig, SECRET).await;
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        let first = client.called(1, "success", json!({})).await;
        assert_eq!((&first["id"], first["result"].is_object()), (&json!(1), true), "{first}");
        // What a stream says on the way comes first, in its order.
        let progress = client.called(2, "events", json!({})).await;
        assert_eq!(progress["method"], "notifications/progress", "{kind:?}");
        let second = client.hear().await.unwrap();
        assert_eq!((&second["id"], second["result"].is_object()), (&json!(2), true), "{second}");
        let refused = client.called(3, "success", json!({})).await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(3), &json!(42901)));
        assert_eq!(refused["error"]["data"]["reason"], "quota_exhausted", "{kind:?}");
        let free = client.called(4, "success", json!({})).await;
        assert_eq!(free["error"]["code"], 42901, "the channel goes on");
        // Behind it is one session, in the revision that was agreed on, without the client's key.
        let calls = server
            .sent
            .lock()
            .iter()
            .filter(|sent| !sent.body.is_empty())
            .cloned()
            .collect::<Vec<_>>();
        let last = &calls[calls.len() - 1];
        assert_eq!(last.headers["mcp-protocol-version"], "2025-06-18");
        assert!(last.headers["mcp-session-id"].to_str().unwrap().starts_with("session-"));
        assert!(!last.headers.contains_key("x-api-key"));
        drop(client);
        let world = rig.stop().await;
        assert_eq!(world.ledger.consumed(&key), 2, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_channel_run_beside_each_other() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    for kind in KINDS {
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        client.say(&call(1, "slow", json!({}))).await;
        client.say(&call(2, "success", json!({}))).await;
        client.say(&call(1, "success", json!({}))).await;
        let ids = [client.hear().await.unwrap(), client.hear().await.unwrap()];
        let twice = ids.iter().find(|answer| answer["id"].is_null()).expect("whose id is in use");
        assert_eq!(twice["error"]["code"], -32600, "{kind:?}: {twice}");
        assert!(ids.iter().any(|answer| answer["id"] == 2), "{kind:?}: {ids:?}");
        assert_eq!(client.hear().await.unwrap()["id"], 1, "the slow one comes last");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_finds_no_stream_of_another_key() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    rig.ledger().key(OTHER, None).await;
    known_to(&rig, SECRET).await;
    known_to(&rig, OTHER).await;
    let mut client = connect(Kind::Sse, &rig, SECRET).await.initialized().await;
    let own = client.sse().post.clone();
    let ping = r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#;
    let thief = own.clone().with("x-api-key", OTHER);
    assert_eq!(thief.post(ping).await.status(), 404);
    assert_eq!(own.clone().with("x-api-key", "tb_unknown").post(ping).await.status(), 401);
    assert_eq!(own.clone().without("x-api-key").post(ping).await.status(), 401);
    assert_eq!(own.clone().with("origin", "https://evil.example").post(ping).await.status(), 403);
    assert_eq!(own.post("{").await.status(), 400, "no message");
    assert_eq!(own.send(Method::GET, "").await.status(), 405);
    let url = format!("http://{}/messages", rig.address());
    assert_eq!(Caller::new(&url, SECRET).post(ping).await.status(), 400, "which stream?");
    let unknown = Caller::new(&format!("{url}?sessionId=0"), SECRET);
    assert_eq!(unknown.post(ping).await.status(), 404);
    let large = own.post(vec![b' '; (5 << 20) + 1]).await;
    assert_eq!(large.status(), 413);
    client.say(ping).await;
    assert_eq!(client.hear().await.unwrap()["id"], 5, "nothing of it was heard");
    drop(client);
    for _ in 0..500 {
        if own.post(ping).await.status() == 404 {
            rig.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a session ends with its stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_no_channel_is_refused() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    let with = |name: &'static str, value: &str| {
        let mut said = headers(SECRET);
        said.retain(|(known, _)| *known != name);
        said.push((name, value.to_owned()));
        said
    };
    let without = |name: &str| {
        let mut said = headers(SECRET);
        said.retain(|(known, _)| *known != name);
        said
    };
    let rows = [
        (headers(SECRET), 101),
        (without("x-api-key"), 401),
        (with("x-api-key", "tb_unknown"), 401),
        (with("origin", "https://evil.example"), 403),
        (with("origin", "https://good.example"), 101),
        (without("sec-websocket-protocol"), 400),
        (with("sec-websocket-protocol", "chat"), 400),
        (with("sec-websocket-version", "8"), 426),
        (without("sec-websocket-key"), 400),
        (without("upgrade"), 400),
        (with("mcp-protocol-version", "2026-07-28"), 400),
    ];
    for (said, status) in rows {
        assert_eq!(upgrade(rig.address(), "/ws", &said).await.0, status, "{said:?}");
    }
    let keyless = without("x-api-key");
    let path = format!("/ws?x-api-key={SECRET}");
    assert_eq!(upgrade(rig.address(), &path, &keyless).await.0, 401, "no secrets in URLs");
    assert_eq!(upgrade(rig.address(), "/ws/none", &headers(SECRET)).await.0, 404);

    let stream = Caller::new(&format!("http://{}/sse", rig.address()), SECRET);
    let status = async |caller: Caller| caller.stream(Method::GET, "").await.status().as_u16();
    assert_eq!(status(stream.clone().without("x-api-key")).await, 401);
    assert_eq!(status(stream.clone().with("origin", "https://evil.example")).await, 403);
    assert_eq!(status(stream.clone().with("mcp-protocol-version", "2026-07-28")).await, 400);
    assert_eq!(stream.post(initialize(json!({}))).await.status(), 405, "clients then try GET");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_era_is_refused_and_names_the_old() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    for kind in KINDS {
        let mut client = connect(kind, &rig, SECRET).await;
        let params = json!({ "_meta": meta(json!({})) });
        let ask =
            json!({ "jsonrpc": "2.0", "id": "d", "method": "server/discover", "params": params });
        client.say(&ask.to_string()).await;
        let refused = client.hear().await.unwrap();
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("d"), &json!(-32022)));
        assert_eq!(refused["error"]["data"]["supported"][0], "2025-11-25", "{kind:?}");
    }
    assert!(server.sent.lock().is_empty(), "it went nowhere");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_client_outlives_the_times_of_idle_connections() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    let time = Duration::from_millis(300);
    let settings = ListenSettings { max_connections: 100, head_timeout: time, idle_timeout: time };
    let address = rig.open(settings).await;
    for kind in KINDS {
        let mut client = Duplex::connect(kind, address, "/", SECRET).await.initialized().await;
        // A connection that has said nothing for as long is closed: after that, both times are over.
        let mut quiet = tokio::net::TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            while tokio::io::AsyncReadExt::read(&mut quiet, &mut [0]).await.unwrap() > 0 {}
            quiet = tokio::net::TcpStream::connect(address).await.unwrap();
        }
        let answer = client.called(1, "success", json!({})).await;
        assert!(answer["result"].is_object(), "{kind:?}: {answer}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_cancels_nothing() {
    for kind in KINDS {
        let (rig, server) = with_server().await;
        let key = rig.ledger().key(SECRET, Some(10)).await;
        known_to(&rig, SECRET).await;
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        client.say(&call(1, "slow", json!({}))).await;
        until("the server has it", || calls(&server) == 1).await;
        drop(client);
        until("it is counted", || rig.outcomes() == [("slow".into(), "success".into())]).await;
        let world = rig.stop().await;
        assert_eq!(world.ledger.consumed(&key), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_is_counted_and_not_answered() {
    for kind in KINDS {
        let (rig, server) = with_server().await;
        let key = rig.ledger().key(SECRET, Some(10)).await;
        known_to(&rig, SECRET).await;
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        until("the session's stream is open", || !server.feeds.lock().is_empty()).await;
        client.say(&call(1, "stream", json!({}))).await;
        until("the server has it", || server.feeds.lock().len() == 2).await;
        server.feed("id: 1\ndata:\n\n");
        client
            .say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#)
            .await;
        let heard = || server.last().body.ends_with(br#""params":{"requestId":1}}"#);
        until("the server hears of it", heard).await;
        server.end();
        until("it is recorded", || rig.outcomes() == [("stream".into(), "cancelled".into())]).await;
        let next = client.called(2, "success", json!({})).await;
        assert_eq!(next["id"], 2, "{kind:?}: nothing came for the first");
        drop(client);
        let world = rig.stop().await;
        assert_eq!(world.ledger.consumed(&key), 2, "{kind:?}: the server was made to work");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_of_its_own_arrives() {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    for kind in KINDS {
        server.feeds.lock().clear();
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        until("the session's stream is open", || !server.feeds.lock().is_empty()).await;
        server.feed(
            "id: 4\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"method\":\"notifications/told\"}\n\n",
        );
        assert_eq!(client.hear().await.unwrap()["method"], "notifications/told", "{kind:?}");
        server.feed(": quiet\n\nevent: other\ndata: {}\n\n");
        // A stream that breaks off is opened again behind its last event.
        server.end();
        until("it is open again", || !server.feeds.lock().is_empty()).await;
        assert_eq!(server.last().headers["last-event-id"], "4");
        server.feed("data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}\n\n");
        assert_eq!(client.hear().await.unwrap()["id"], 7, "{kind:?}");
        client.say(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).await;
        let heard = || server.last().body.ends_with(br#""id":7,"result":{}}"#);
        until("the server has the answer", heard).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_resumed_or_refused() {
    let (rig, server) = with_server().await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    known_to(&rig, SECRET).await;
    for (number, kind) in KINDS.into_iter().enumerate() {
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        until("the session's stream is open", || !server.feeds.lock().is_empty()).await;
        client.say(&call(1, "stream", json!({}))).await;
        until("the answer's stream is open", || server.feeds.lock().len() == 2).await;
        server.feed("id: 9\nretry: 10\ndata:\n\n");
        server.end();
        let asked = || server.last().headers.get("last-event-id").is_some_and(|id| id == "9");
        until("it is asked for", asked).await;
        until("it is open", || server.feeds.lock().len() == 2).await;
        server.feed("id: 10\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n");
        assert_eq!(client.hear().await.unwrap()["id"], 1, "{kind:?}");
        until("it is counted", || rig.ledger().consumed(&key) == number as u64 + 1).await;
        server.feeds.lock().clear();
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_are_no_more_than_sessions_may_be() {
    let server = Server::start().await;
    let settings = UpstreamSettings { max_sessions: 2, ..settings() };
    let rig = Rig::start(http_upstream_with(&server.url(), settings)).await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    let first = connect(Kind::Sse, &rig, SECRET).await;
    let _second = connect(Kind::WebSocket, &rig, SECRET).await;
    assert_eq!(upgrade(rig.address(), "/ws", &headers(SECRET)).await.0, 503);
    let stream = Caller::new(&format!("http://{}/sse", rig.address()), SECRET);
    assert_eq!(stream.stream(Method::GET, "").await.status(), 503);
    drop(first);
    for _ in 0..500 {
        if upgrade(rig.address(), "/ws", &headers(SECRET)).await.0 == 101 {
            rig.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("a place becomes free with its stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_takes_text_of_its_size_alone() {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    let closed = async |message: Message| {
        let mut client = connect(Kind::WebSocket, &rig, SECRET).await.initialized().await;
        let socket = client.socket();
        socket.send(Message::Ping("are you there".into())).await.unwrap();
        let pong = socket.next().await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong("are you there".into()));
        // What is too large may be cut off while it is written.
        drop(socket.send(message).await);
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => frame.code,
            other => panic!("no close frame: {other:?}"),
        }
    };
    assert_eq!(closed(Message::binary(&b"{}"[..])).await, CloseCode::Unsupported);
    assert_eq!(closed(Message::text("x".repeat((5 << 20) + 1))).await, CloseCode::Size);
    let mut client = connect(Kind::WebSocket, &rig, SECRET).await;
    client.say("{").await;
    let refused = client.hear().await.unwrap();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32700)));
    client.say(r#"{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{}}"#).await;
    let refused = client.hear().await.unwrap();
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(8), &json!(-32602)));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_is_refused_on_an_open_socket() {
    let (rig, _server) = with_server().await;
    let mut key = rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    let mut client = connect(Kind::WebSocket, &rig, SECRET).await.initialized().await;
    assert_eq!(client.called(1, "success", json!({})).await["id"], 1);
    key.status = schemas::KeyStatus::Revoked;
    rig.ledger().put(&mut key).await;
    until("the key is refused", || rig.node.meter().authenticate(SECRET).is_err()).await;
    let mut refused = client.called(2, "success", json!({})).await;
    if refused["method"] == "notifications/tools/list_changed" {
        refused = client.hear().await.unwrap();
    }
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(2), &json!(40101)));
    assert_eq!(client.hear().await, None, "and the socket closes");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_channel_shows_that_it_lives_and_ends_in_order() {
    let (world, server) = (World::start().await, Server::start().await);
    world.ledger.key(SECRET, None).await;
    let heartbeat = ["--upstream", &server.url(), "--heartbeat-ms", "150"];
    let node = Process::start(&world, &heartbeat).await;
    known(&node.caller(SECRET)).await;
    let address = node.url.strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
    let address = address.parse().unwrap();
    let mut sse = Duplex::connect(Kind::Sse, address, "", SECRET).await;
    assert_eq!(sse.sse().raw().await.unwrap(), ": \n\n", "a comment");
    let mut socket = Duplex::connect(Kind::WebSocket, address, "", SECRET).await;
    let first = socket.socket().next().await.unwrap().unwrap();
    assert!(matches!(first, Message::Ping(_)), "{first:?}");
    // A client that answers no ping is gone.
    let (status, mut silent) = upgrade(address, "/ws", &headers(SECRET)).await;
    assert_eq!(status, 101);
    let ended = async {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut all).await
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), ended);
    // The other goes on meanwhile, since it reads and so answers.
    let (ended, socket) = tokio::join!(ended, async {
        let mut socket = socket.initialized().await;
        assert_eq!(socket.called(1, "slow", json!({})).await["id"], 1);
        socket
    });
    assert!(ended.is_ok(), "a silent client is let go");
    // A stop ends what is quiet, and lets a running call end.
    let mut socket = socket;
    socket.say(&call(2, "slow", json!({}))).await;
    until("the server has it", || calls(&server) == 2).await;
    let stopping = tokio::spawn(node.stop());
    assert_eq!(socket.hear().await.unwrap()["id"], 2);
    assert_eq!(socket.hear().await, None);
    assert_eq!(sse.hear().await, None);
    assert_eq!(stopping.await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_servers_and_all_as_one_are_reached() {
    for aggregate in [false, true] {
        let (world, one, two) =
            (World::start().await, Server::start().await, Server::start().await);
        one.old.store(true, std::sync::atomic::Ordering::Relaxed);
        let key = world.ledger.key(SECRET, None).await;
        let entry = |name: &str, server: &Server| {
            format!("[[upstream]]\nname = \"{name}\"\nurl = \"{}\"\n", server.url())
        };
        let text = format!("aggregate = {aggregate}\n{}{}", entry("one", &one), entry("two", &two));
        let file = world.folder.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        let node = Process::start(&world, &["--config", file.to_str().unwrap()]).await;
        known(&node.caller(SECRET)).await;
        let address = node.url.strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
        let address = address.parse().unwrap();
        let mut served = 0;
        for kind in KINDS {
            let sent = (calls(&one), calls(&two));
            let mut client =
                Duplex::connect(kind, address, "/two", SECRET).await.initialized().await;
            assert_eq!(client.called(1, "success", json!({})).await["id"], 1);
            assert_eq!((calls(&one), calls(&two)), (sent.0, sent.1 + 1), "{kind:?}: for the other");
            let mut client = Duplex::connect(kind, address, "", SECRET).await.initialized().await;
            let tool = if aggregate { "two_success" } else { "success" };
            let answer = client.called(2, tool, json!({})).await;
            assert_eq!(
                (&answer["id"], answer["result"].is_object()),
                (&json!(2), true),
                "{answer}"
            );
            served += 2;
        }
        until("all is counted", || world.ledger.consumed(&key) == served).await;
        assert_eq!(node.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_ends_when_its_session_is_lost() {
    const SERVER: &str = "import json,os,sys\n\
        for l in sys.stdin:\n m=json.loads(l)\n \
        if m.get('method')=='tools/call': os._exit(3)\n \
        if 'id' in m: print(json.dumps({'jsonrpc':'2.0','id':m['id'],'result':{}}),flush=True)\n";
    let args = vec!["-c".to_owned(), SERVER.to_owned()];
    let rig = Rig::start(crate::rig::stdio_upstream("python3".as_ref(), args)).await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    for kind in KINDS {
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        let refused = client.called(1, "die", json!({})).await;
        assert_eq!(refused["error"]["data"]["reason"], "upstream_unreachable", "{kind:?}");
        while let Some(message) = client.hear().await {
            assert_eq!(message["error"]["code"], 40401, "{kind:?}: {message}");
        }
    }
    let died = ("die".to_owned(), "upstream_error".to_owned());
    until("both are recorded, and free", || rig.outcomes() == [died.clone(), died.clone()]).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_child_goes_on_without_its_client() {
    const SERVER: &str = "import json,os,sys,time\n\
        for l in sys.stdin:\n m=json.loads(l)\n \
        if m.get('method')=='tools/call': open(sys.argv[1],'w').close(); time.sleep(0.5)\n \
        if 'id' in m: print(json.dumps({'jsonrpc':'2.0','id':m['id'],'result':{}}),flush=True)\n";
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let begun = folder.path().join("begun");
        let args = ["-c", SERVER, begun.to_str().unwrap()].map(str::to_owned).to_vec();
        let rig = Rig::start(crate::rig::stdio_upstream("python3".as_ref(), args)).await;
        let key = rig.ledger().key(SECRET, Some(5)).await;
        known_to(&rig, SECRET).await;
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        client.say(&call(1, "work", json!({}))).await;
        until("the child works", || begun.exists()).await;
        drop(client);
        until("it is counted", || rig.outcomes() == [("work".into(), "success".into())]).await;
        let world = rig.stop().await;
        assert_eq!(world.ledger.consumed(&key), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_before_its_session_leaves_none() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    for kind in KINDS {
        let mut client = connect(kind, &rig, SECRET).await;
        client.say(&initialize(json!({}))).await;
        assert!(client.hear().await.unwrap()["result"].is_object());
        client.say(&initialize(json!({})).replace("\"id\":0", "\"id\":1")).await;
        let again = client.hear().await.unwrap();
        assert_eq!((&again["id"], &again["error"]["code"]), (&json!(1), &json!(-32600)));
        drop(client);
        let ended = || {
            let last = server.last();
            last.body.is_empty() && last.headers.contains_key("mcp-session-id")
        };
        until("the session is ended", ended).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_new_era_is_bridged() {
    for kind in KINDS {
        let rig = Rig::start(http_upstream(&Fixture::serve(Speaks::New).await.unwrap())).await;
        let key = rig.ledger().key(SECRET, Some(5)).await;
        known_to(&rig, SECRET).await;
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        let answer = client.called(1, "test_simple_text", json!({})).await;
        assert!(answer["result"]["content"][0]["text"].is_string(), "{kind:?}: {answer}");
        until("it is counted", || rig.ledger().consumed(&key) == 1).await;
        drop(client);
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_runs_so_many_requests_at_a_time() {
    let (rig, _server) = with_server().await;
    let key = rig.ledger().key(SECRET, None).await;
    known_to(&rig, SECRET).await;
    for kind in KINDS {
        let mut client = connect(kind, &rig, SECRET).await.initialized().await;
        for id in 0..128 {
            client.say(&call(id, "never", json!({}))).await;
        }
        let refused = client.called(128, "success", json!({})).await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(128), &json!(42905)));
        assert_eq!(refused["error"]["data"]["concurrent"], 128, "{kind:?}");
        assert_eq!(refused["error"]["data"]["scope"], "connection", "{kind:?}");
    }
    assert_eq!(rig.ledger().consumed(&key), 0);
    drop(rig); // What never answers is not waited for.
}
