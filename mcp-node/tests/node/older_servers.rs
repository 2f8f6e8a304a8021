//! Servers over HTTP+SSE of 2024-11-05 and WebSocket: each session is a connection, as over stdio it is a child.
//!
//! The server is most often another node in front of a server, so that both ends are tried against each other; servers
//! of others stand in `clients.rs`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body_util::BodyExt;
use mcp_node::server::Upstream;
use mcp_node::upstream::{
    DuplexUpstream, HttpUpstream, RemoteServer, Server as Behind, Transport, UpstreamHeaders,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    duplex::{KINDS, Kind},
    process::{Process, known},
    rig::{
        Caller, Rig, SECRET, World, call, initialize, message, messages, settings, until,
        with_server,
    },
    server::Server,
};

/// The key of the outer node's clients.
const OUTER: &str = "tb_outer";

/// The credentials of the outer node at the inner.
fn stamp() -> UpstreamHeaders {
    let fixed =
        HeaderMap::from_iter([("x-api-key".parse().unwrap(), HeaderValue::from_static(SECRET))]);
    UpstreamHeaders { fixed, ..UpstreamHeaders::default() }
}

fn url(kind: Kind, address: SocketAddr) -> String {
    match kind {
        Kind::Sse => format!("http://{address}/sse"),
        Kind::WebSocket => format!("ws://{address}/ws"),
    }
}

fn remote(kind: Kind, url: &str, stamp: UpstreamHeaders) -> Upstream {
    let transport = match kind {
        Kind::Sse => Transport::Sse,
        Kind::WebSocket => Transport::WebSocket,
    };
    let url = url.parse::<Uri>().unwrap();
    let remote = RemoteServer::new(url, transport, Duration::from_secs(5), stamp);
    Upstream::new(Behind::Duplex(DuplexUpstream::of_remote(remote, settings())), settings())
}

/// A node in front of a server, which is the server of another.
async fn inner() -> (Rig, Server) {
    let (rig, server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    (rig, server)
}

async fn outer(upstream: Upstream, limit: Option<u64>) -> (Rig, schemas::KeyState) {
    let rig = Rig::start(upstream).await;
    let key = rig.ledger().key(OUTER, limit).await;
    until("the key is known", || rig.node.meter().authenticate(OUTER).is_ok()).await;
    (rig, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_a_connection_is_metered_like_any() {
    for kind in KINDS {
        let (inner, server) = inner().await;
        let (outer, key) = outer(remote(kind, &url(kind, inner.address()), stamp()), Some(4)).await;
        let caller = outer.caller(OUTER).initialized().await;
        let (status, answer) = caller.called(1, "success", json!({})).await;
        assert_eq!((status, answer["result"].is_object()), (200, true), "{kind:?}: {answer}");
        let events = caller.call(2, "events", json!({})).await;
        let events = messages(events.body());
        assert_eq!(events[0]["method"], "notifications/progress", "{kind:?}");
        assert_eq!(events[1]["id"], 2, "{kind:?}");
        let (_, failed) = caller.called(3, "tool_error", json!({})).await;
        assert_eq!(failed["result"]["isError"], true);
        // What the server says of its own, and what the client answers.
        let mut stream = caller.stream(Method::GET, "").await;
        until("the inner stream is open", || !server.feeds.lock().is_empty()).await;
        server.feed("data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":7,\"method\":\"ping\"}\n\n");
        let told = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(message(&told)["id"], 7, "{kind:?}");
        let answered = caller.post(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).await;
        assert_eq!(answered.status(), 202);
        let heard = || server.last().body.ends_with(br#""id":7,"result":{}}"#);
        until("the server has the answer", heard).await;
        drop(stream);
        // A client of the new era comes through the bridge.
        let (status, modern) =
            outer.caller(OUTER).asked("tools/call", json!({ "name": "success" })).await;
        assert_eq!((status, modern["result"].is_object()), (200, true), "{kind:?}: {modern}");
        let (status, _) = caller.called(4, "success", json!({})).await;
        assert_eq!(status, 200);
        let (status, refused) = caller.called(5, "success", json!({})).await;
        assert_eq!((status, &refused["error"]["code"]), (429, &json!(42901)));
        let bodiless = || server.sent.lock().iter().filter(|sent| sent.body.is_empty()).count();
        let before = bodiless();
        assert_eq!(caller.send(Method::DELETE, "").await.status(), 204);
        until("the session behind it has ended", || bodiless() > before).await;
        let world = outer.stop().await;
        assert_eq!(world.ledger.consumed(&key), 4, "{kind:?}");
        inner.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_is_heard_behind_the_connection() {
    for kind in KINDS {
        let (inner, server) = inner().await;
        let (outer, _) = outer(remote(kind, &url(kind, inner.address()), stamp()), None).await;
        let caller = outer.caller(OUTER).initialized().await;
        until("the inner session's stream is open", || !server.feeds.lock().is_empty()).await;
        let waiting = tokio::spawn({
            let caller = caller.clone();
            async move { caller.call(5, "stream", json!({})).await }
        });
        let has = |text: &'static str| {
            let sent = server.sent.lock();
            sent.iter().any(|sent| String::from_utf8_lossy(&sent.body).contains(text))
        };
        until("the server has it", || server.feeds.lock().len() == 2).await;
        let cancel =
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#;
        assert_eq!(caller.post(cancel).await.status(), 202);
        assert_eq!(waiting.await.unwrap().status(), 502);
        until("the server heard of it", || has("notifications/cancelled")).await;
        server.end();
        let cancelled = ("stream".to_owned(), "cancelled".to_owned());
        until("both recorded it", || {
            outer.outcomes() == [cancelled.clone()] && inner.outcomes() == [cancelled.clone()]
        })
        .await;
        outer.stop().await;
        inner.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_this_node_begins_no_session() {
    let (inner, _server) = inner().await;
    for kind in KINDS {
        let keyless = remote(kind, &url(kind, inner.address()), UpstreamHeaders::default());
        let (outer, _) = outer(keyless, None).await;
        let refused = outer.caller(OUTER).post(initialize(json!({}))).await;
        assert_eq!(refused.status(), 502, "{kind:?}");
        assert_eq!(message(refused.body())["error"]["data"]["reason"], "upstream_invalid");
        outer.stop().await;
    }
    inner.stop().await;
}

/// Passes connections on to `to`, and cuts them all when it is dropped.
struct Cut {
    address: SocketAddr,
    _open: tokio::task::JoinSet<()>,
}

impl Cut {
    async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut server = TcpStream::connect(to).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        Self { address, _open: tasks }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_a_child_that_died() {
    for kind in KINDS {
        let (inner, server) = inner().await;
        let cut = Cut::before(inner.address()).await;
        let (outer, key) = outer(remote(kind, &url(kind, cut.address), stamp()), Some(5)).await;
        let caller = outer.caller(OUTER).initialized().await;
        let waiting = tokio::spawn({
            let caller = caller.clone();
            async move { caller.called(5, "never", json!({})).await }
        });
        let calls = || {
            let sent = server.sent.lock();
            sent.iter().any(|sent| String::from_utf8_lossy(&sent.body).contains("\"never\""))
        };
        until("the server has it", calls).await;
        drop(cut);
        let (status, refused) = waiting.await.unwrap();
        assert_eq!((status, &refused["id"]), (502, &json!(5)), "{kind:?}: {refused}");
        assert_eq!(refused["error"]["data"]["reason"], "upstream_unreachable", "{kind:?}");
        until("the session is gone", || outer.node.meter().is_idle()).await;
        assert_eq!(caller.call(6, "success", json!({})).await.status(), 404, "{kind:?}");
        let failed = ("never".to_owned(), "upstream_error".to_owned());
        until("it is recorded", || outer.outcomes() == [failed.clone()]).await;
        let world = outer.stop().await;
        assert_eq!(world.ledger.consumed(&key), 0, "{kind:?}: and free");
        drop(inner); // Its call runs on, as of a client that went away.
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_origin_is_refused() {
    let posted = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let thief = listener.local_addr().unwrap();
    let counted = posted.clone();
    let other = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready("")
    });
    tokio::spawn(async move { axum::serve(listener, other).await });
    let endpoint = format!("event: endpoint\ndata: http://{thief}/messages?sessionId=1\n\n");
    let stream =
        move || std::future::ready(([("content-type", "text/event-stream")], endpoint.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/sse", get(stream));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let (outer, _) = outer(remote(Kind::Sse, &url(Kind::Sse, address), stamp()), None).await;
    let refused = outer.caller(OUTER).post(initialize(json!({}))).await;
    assert_eq!(message(refused.body())["error"]["data"]["reason"], "upstream_invalid");
    outer.stop().await;
    assert_eq!(posted.load(Ordering::Relaxed), 0, "the credentials stay here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_2024_is_found_out() {
    let found_out = |address: SocketAddr| {
        let (at, timeout) = (format!("http://{address}/sse"), Duration::from_secs(5));
        let http = HttpUpstream::stamped(at.parse().unwrap(), timeout, settings(), stamp());
        let http = Upstream::new(Behind::Http(http), settings());
        http.or_older(remote(Kind::Sse, &at, stamp()))
    };
    let (inner, _server) = inner().await;
    // By a client of either era, whichever comes first.
    let (old, _) = outer(found_out(inner.address()), None).await;
    let caller = old.caller(OUTER).initialized().await;
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    assert_eq!(old.caller(OUTER).asked("tools/call", json!({ "name": "success" })).await.0, 200);
    old.stop().await;
    let (new, _) = outer(found_out(inner.address()), None).await;
    let (status, answer) =
        new.caller(OUTER).asked("tools/call", json!({ "name": "success" })).await;
    assert_eq!(status, 200, "{answer}");
    new.stop().await;
    inner.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_reaches_its_server_by_any_address() {
    let (inner, _server) = inner().await;
    let (sse, socket) = (url(Kind::Sse, inner.address()), url(Kind::WebSocket, inner.address()));
    let world = World::start().await;
    let key = world.ledger.key(OUTER, None).await;
    let credentials = format!("x-api-key={SECRET}");
    let rows: [&[&str]; 3] = [
        &["--upstream", &sse],
        &["--upstream", &sse, "--upstream-transport", "sse"],
        &["--upstream", &socket],
    ];
    for (row, served) in rows.into_iter().zip(1..) {
        let args = [row, &["--upstream-headers", &credentials]].concat();
        let node = Process::start(&world, &args).await;
        let caller = Caller::new(&node.url, OUTER);
        known(&caller).await;
        let caller = caller.initialized().await;
        assert_eq!(caller.post(call(1, "success", json!({}))).await.status(), 200, "{row:?}");
        until("it is counted", || world.ledger.consumed(&key) == served).await;
        assert_eq!(node.stop().await, Some(0));
    }
    inner.stop().await;
}
