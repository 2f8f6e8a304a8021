//! Several servers behind one node, and settings that are read again while it runs.

use std::path::PathBuf;

use http::Method;
use http_body_util::BodyExt;
use rustix::process::Signal;
use schemas::{MeterName, Record, UsageEvent};
use serde_json::json;
use tokio::process::Command;

use crate::{
    process::{Process, known},
    rig::{Caller, SECRET, World, call, message, until},
    server::Server,
};

/// What is served without a name, and what with one by the older transports.
const PATHS: [&str; 4] = ["/mcp", "/sse", "/messages", "/ws"];
const FORMS: [&str; 3] = ["/sse/{name}", "/messages/{name}", "/ws/{name}"];

struct Behind {
    world: World,
    one: Server,
    two: Server,
    file: PathBuf,
}

impl Behind {
    async fn start() -> Self {
        let (world, one, two) =
            (World::start().await, Server::start().await, Server::start().await);
        world.ledger.key(SECRET, None).await;
        let file = world.folder.path().join("node.toml");
        Self { world, one, two, file }
    }

    fn say(&self, text: &str) {
        let text = text.replace("ONE", &self.one.url()).replace("TWO", &self.two.url());
        std::fs::write(&self.file, text).unwrap();
    }

    async fn process(&self) -> Process {
        Process::start(&self.world, &["--config", self.file.to_str().unwrap()]).await
    }
}

fn at(process: &Process, name: &str) -> Caller {
    Caller::new(&format!("{}/{name}", process.url), SECRET)
}

fn got(server: &Server, header: &str) -> Option<String> {
    server.last().headers.get(header).map(|value| value.to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_has_its_own_address_credentials_and_sessions() {
    let test = Behind::start().await;
    test.say(
        "[[upstream]]\nname = \"one\"\nurl = \"ONE\"\nheaders = { authorization = \"for one\" }\n\
         [[upstream]]\nname = \"two\"\nurl = \"TWO\"\nheaders = { x-api-key = \"for two\" }\n\
         [[upstream]]\nname = \"child\"\ncommand = [\"cat\"]\n",
    );
    let process = test.process().await;
    let (one, two) = (at(&process, "one"), at(&process, "two"));
    known(&one).await;
    assert_eq!(one.called(1, "success", json!({})).await.0, 200);
    assert_eq!(
        (got(&test.one, "authorization"), got(&test.one, "x-api-key")),
        (Some("for one".into()), None)
    );
    let (sent, before) = (call(2, "success", json!({})), test.one.sent.lock().len());
    assert_eq!(two.post(sent.clone()).await.status(), 200);
    assert_eq!(
        (got(&test.two, "authorization"), got(&test.two, "x-api-key")),
        (None, Some("for two".into()))
    );
    assert_eq!(test.two.last().body, sent.as_bytes(), "byte for byte");
    let new = two.asked("tools/call", json!({ "name": "success" })).await;
    assert_eq!(new.0, 200, "the new era too");
    assert_eq!(test.one.sent.lock().len(), before, "nothing of it went to the other");

    // The first is at /mcp besides.
    assert_eq!(process.caller(SECRET).called(3, "success", json!({})).await.0, 200);
    assert_eq!(test.one.sent.lock().len(), before + 1);
    let before = test.two.sent.lock().len();
    assert_eq!(at(&process, "two/").called(4, "tool_error", json!({})).await.0, 200);
    assert_eq!(test.two.sent.lock().len(), before + 1, "with a slash, too");
    for path in ["three", "three/", "two/three"] {
        let nowhere = at(&process, path).call(4, "success", json!({})).await;
        let body = message(nowhere.body());
        assert_eq!(nowhere.status(), 404);
        let names = ["/mcp/child", "/mcp/one", "/mcp/two"];
        let served = [&PATHS[..], &names, &FORMS].concat();
        assert_eq!(body["error"]["data"]["served"], json!(served));
        let stranger = at(&process, path).without("x-api-key").call(4, "success", json!({})).await;
        let body = message(stranger.body());
        let served = [&PATHS[..], &["/mcp/{name}"], &FORMS].concat();
        assert_eq!(body["error"]["data"]["served"], json!(served));
    }

    let session = one.initialized().await;
    assert_eq!(session.called(5, "success", json!({})).await.0, 200);
    let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let elsewhere = two.with("mcp-session-id", &id);
    assert_eq!(
        elsewhere.called(6, "success", json!({})).await.0,
        404,
        "a session of one is none of two"
    );
    assert_eq!(process.stop().await, Some(0));
    let usage = |placed: &&crate::ledger::Placed| matches!(placed.record, Record::Usage(_));
    until("all are counted", || test.world.ledger.records().iter().filter(usage).count() == 6)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_read_again_and_no_call_is_lost() {
    const BEFORE: &str = "allowed_origins = \"https://old.example\"\n\
        [[upstream]]\nname = \"moves\"\nurl = \"ONE\"\n[[upstream]]\nname = \"stays\"\nurl = \"TWO\"\n";
    const AFTER: &str = "allowed_origins = \"https://new.example\"\n\
        [[upstream]]\nname = \"moves\"\nurl = \"TWO\"\n[[upstream]]\nname = \"stays\"\nurl = \"TWO\"\n";
    let test = Behind::start().await;
    test.say(BEFORE);
    let process = test.process().await;
    let (moves, stays) = (at(&process, "moves"), at(&process, "stays"));
    known(&moves).await;
    let stays = stays.initialized().await;
    let page = moves.clone().with("origin", "https://new.example");
    assert_eq!(page.called(1, "success", json!({})).await.0, 403);
    let mut running = moves.stream(Method::POST, call(2, "stream", json!({}))).await;

    // What cannot be used changes nothing.
    for broken in ["not settings", "max_sessions = 0\n", "[[upstream]]\nname = \"moves\"\n"] {
        test.say(broken);
        process.signal(Signal::HUP);
    }
    assert_eq!(moves.called(3, "success", json!({})).await.0, 200);
    test.say(AFTER);
    process.signal(Signal::HUP);
    for id in 10.. {
        if page.called(id, "success", json!({})).await.0 == 200 {
            break;
        }
        assert!(id < 2_000, "the new origin is never allowed");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(test.two.last().body.starts_with(b"{"), "new calls go to the new server");
    let (before, after) = (test.one.sent.lock().len(), test.two.sent.lock().len());
    assert_eq!(moves.called(4, "success", json!({})).await.0, 200);
    assert_eq!((test.one.sent.lock().len(), test.two.sent.lock().len()), (before, after + 1));
    assert_eq!(stays.called(5, "success", json!({})).await.0, 200, "its session goes on");
    test.one.feed("data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"content\":[]}}\n\n");
    let rest = running.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(message(&rest)["id"], 2, "what ran goes on where it was");
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_counts_for_and_how_many_may_come_are_read_again() {
    const BEFORE: &str = "[[upstream]]\nname = \"one\"\nurl = \"ONE\"\n";
    const AFTER: &str = "tenant_per_minute = 1\ntenant_burst = 2\n\
        [[upstream]]\nname = \"one\"\nurl = \"ONE\"\n[weights]\nsuccess = 5\n\
        [[meter]]\nname = \"bytes\"\nfrom = \"bytes_in\"\nreserve = 1000\n";
    let test = Behind::start().await;
    test.say(BEFORE);
    let process = test.process().await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    let mut running = caller.stream(Method::POST, call(1, "stream", json!({}))).await;
    assert_eq!(caller.called(2, "success", json!({})).await.0, 200);
    test.say(AFTER);
    process.signal(Signal::HUP);
    let mut refused = (0, json!(null));
    for id in 3..2_000 {
        refused = caller.called(id, "success", json!({})).await;
        if refused.0 != 200 {
            break;
        }
    }
    assert_eq!((refused.0, &refused.1["error"]["data"]["scope"]), (429, &json!("tenant")));
    test.one.feed("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n");
    running.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(process.stop().await, Some(0));

    let (calls, bytes) = (MeterName::tool_calls(), "bytes".parse().unwrap());
    let of =
        |event: &UsageEvent, meter: &MeterName| event.quantities.get(meter).map(|units| units.0);
    let usage = || {
        let records = test.world.ledger.records().into_iter();
        let usage = records.filter_map(|placed| match placed.record {
            Record::Usage(event) => {
                Some((event.tool.clone(), of(&event, &calls), of(&event, &bytes)))
            }
            _ => None,
        });
        usage.collect::<Vec<_>>()
    };
    until("the running call is counted", || usage().iter().any(|(tool, ..)| tool == "stream"))
        .await;
    let usage = usage();
    let first = usage.iter().find(|(tool, ..)| tool == "success").unwrap();
    assert_eq!((first.1, first.2), (Some(1), None));
    let heavy = usage.iter().filter(|(_, calls, bytes)| *calls == Some(5) && bytes.is_some());
    assert_eq!(heavy.count(), 2, "as many as the new bound lets go: {usage:?}");
    let stream = usage.iter().find(|(tool, ..)| tool == "stream").unwrap();
    assert_eq!((stream.1, stream.2), (Some(1), None), "it began under the old rules");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_shows_that_it_lives_in_both_eras() {
    let test = Behind::start().await;
    test.say("heartbeat_ms = 100\n[[upstream]]\nname = \"one\"\nurl = \"ONE\"\n");
    let process = test.process().await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    let (modern, body) = caller.modern("tools/call", json!({ "name": "stream" }));
    let old = caller.clone().initialized().await;
    for mut stream in [
        modern.stream(Method::POST, body).await,
        old.stream(Method::POST, call(1, "stream", json!({}))).await,
        old.stream(Method::GET, "").await,
    ] {
        let beat = stream.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(beat, ": \n\n");
    }
    assert_eq!(process.stop().await, Some(0));
}

#[tokio::test]
async fn servers_that_contradict_each_other_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let one = "[[upstream]]\nname = \"one\"\nurl = \"http://127.0.0.1:9/mcp\"\n";
    let rows = [
        (format!("{one}{one}"), "name of two"),
        (one.replace("one", "One"), "no name of a server"),
        (format!("{one}command = [\"cat\"]\n"), "not both"),
        ("[[upstream]]\nname = \"one\"\n".to_owned(), "name the MCP server"),
        (
            "[[upstream]]\nname = \"one\"\ncommand = [\"cat\"]\nheaders = { a = \"b\" }\n"
                .to_owned(),
            "a child has no headers",
        ),
        (format!("{one}headers = {{ host = \"b\" }}\n"), "no name of a header"),
        (format!("internal_jwt = true\n{one}{}", one.replace("one", "two")), "one server alone"),
        (format!("{one}prefix = \"x\"\n"), "only then has an [[upstream]] a `prefix`"),
        (format!("aggregate = true\n{one}"), "at least two"),
        (
            format!("aggregate = true\nupstream_url = \"http://127.0.0.1:9/mcp\"\n{one}"),
            "must be an [[upstream]]",
        ),
        (
            format!(
                "aggregate = true\nupstream_headers = \"a=b\"\n{one}{}",
                one.replace("one", "two")
            ),
            "`headers` of each",
        ),
        (
            format!("aggregate = true\n{one}prefix = \"a b\"\n{}", one.replace("one", "two")),
            "no prefix",
        ),
    ];
    for (text, why) in rows {
        std::fs::write(&file, &text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-node"));
        command.arg("--config").arg(&file).env("NO_COLOR", "1");
        let out = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && said.contains(why), "{text}\n{said}");
    }
}
