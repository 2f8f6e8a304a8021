//! Messages as they come, and as someone who wants a free call would write them.

use proptest::prelude::*;

use super::*;

fn request<'a>(id: &'a str, method: &'a str, tool: Option<&'a str>) -> Message<'a> {
    let about = About::default();
    Message::Request {
        id: Id { raw: id },
        method: method.into(),
        tool: tool.map(Into::into),
        about,
    }
}

#[track_caller]
fn reads(text: &str, message: &Message<'_>) {
    let mut found = read(text.as_bytes()).unwrap();
    if let Message::Request { about, .. } = &mut found {
        *about = About::default(); // It has a test of its own.
    }
    assert_eq!(&found, message, "{text}");
}

#[test]
fn what_a_request_is_about_is_read_in_the_same_pass() {
    #[track_caller]
    fn check(
        method: &str,
        params: &str,
        target: Option<&str>,
        version: Option<&str>,
        can: Option<&str>,
    ) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let Ok(Message::Request { about, .. }) = read(text.as_bytes()) else { panic!("{text}") };
        let found =
            (about.target.as_deref(), about.meta.version.as_deref(), about.meta.capabilities);
        assert_eq!(found, (target, version, can), "{text}");
    }
    check("tools/call", r#"{"name":"a"}"#, Some("a"), None, None);
    check("prompts/get", r#"{"name":"a","uri":"b"}"#, Some("a"), None, None);
    check("resources/read", r#"{"uri":"test://x","name":"a"}"#, Some("test://x"), None, None);
    check("tasks/get", r#"{"taskId":"t"}"#, Some("t"), None, None);
    check("tools/list", r#"{"name":"a"}"#, None, None, None);
    let meta = r#"{"_meta":{"x":1,"io.modelcontextprotocol/clientCapabilities":{ "sampling":{}},
        "io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
    check("tools/list", meta, None, Some("2026-07-28"), Some(r#"{ "sampling":{}}"#));
    let odd = r#"{"_meta":{"io.modelcontextprotocol/clientCapabilities":[],
        "io.modelcontextprotocol/protocolVersion":7}}"#;
    check("tools/list", odd, None, None, None);
    check("tools/list", r#"{"_meta":null}"#, None, None, None);
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{
        "io.modelcontextprotocol/protocolVersion":"2025-11-25","io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    assert!(matches!(read(twice.as_bytes()), Err(Refusal::InvalidRequest(_))));
}

#[test]
fn requests_notifications_and_answers_are_told_apart() {
    reads(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"name":"not me"}}}"#,
        &request("1", "tools/call", Some("echo")),
    );
    reads(
        r#" { "params":{"name":"x"}, "id":"a", "method":"prompts/get", "jsonrpc":"2.0" } "#,
        &request("\"a\"", "prompts/get", None),
    );
    reads(r#"{"jsonrpc":"2.0","id":-3,"method":"ping"}"#, &request("-3", "ping", None));
    reads(
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        &Message::Notification { method: "notifications/initialized".into(), cancels: None },
    );
    reads(
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"7","reason":"bored"}}"#,
        &Message::Notification {
            method: "notifications/cancelled".into(),
            cancels: Some(Id { raw: "\"7\"" }),
        },
    );
    reads(
        r#"{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"no"}}"#,
        &Message::Answer { id: Some(Id { raw: "2" }), answer: Answer::Error },
    );
    reads(
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"no"}}"#,
        &Message::Answer { id: None, answer: Answer::Error },
    );
    reads(
        r#"{"jsonrpc":"2.0","id":2,"result":{"content":[{"isError":true}],"isError":false}}"#,
        &Message::Answer {
            id: Some(Id { raw: "2" }),
            answer: Answer::Result {
                is_error: Some("false"),
                result_type: None,
                has_task: false,
                has_content: true,
            },
        },
    );
    reads(
        r#"{"jsonrpc":"2.0","id":2,"result":[1]}"#,
        &Message::Answer { id: Some(Id { raw: "2" }), answer: Answer::Unclear },
    );
}

#[test]
fn escapes_are_read_as_any_reader_reads_them() {
    reads(
        r#"{"jsonrpc":"2.0","id":1,"\u006dethod":"tools\/call","params":{"n\u0061me":"e\u0063ho"}}"#,
        &request("1", "tools/call", Some("echo")),
    );
}

#[test]
fn what_is_no_single_message_is_refused() {
    #[track_caller]
    fn check(text: impl AsRef<[u8]>, code: i64) {
        let text = text.as_ref();
        assert_eq!(
            read(text).map_err(|refusal| refusal.code()),
            Err(code),
            "{}",
            String::from_utf8_lossy(text)
        );
    }
    for broken in [
        "",
        " ",
        "{",
        "nonsense",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#,
        r#"{"jsonrpc":"2.0","id":1e,"method":"x"}"#,
    ] {
        check(broken, -32700);
    }
    check(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{\"a\":\"\xff\"}}", -32700);
    for wrong in [
        "[]",
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}]"#,
        "7",
        "null",
        "\"text\"",
        "true",
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
    ] {
        check(wrong, -32600);
    }
    check(format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(600)), -32600);
    check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, -32602);
    check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, -32602);
    check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["echo"]}"#, -32602);
    check(
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}"}}}}"#,
            "x".repeat(513)
        ),
        -32602,
    );
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for twice in [
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"a"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"PARAMS":{"name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"paramſ":{"name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
    ] {
        assert_eq!(
            read(twice.as_bytes()).map_err(|refusal| refusal.code()),
            Err(-32600),
            "{twice}"
        );
    }
}

#[test]
fn an_id_that_two_readers_write_in_two_ways_is_refused() {
    let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    for good in ["9007199254740991", "-9007199254740991", "0", "-0", r#""\uD83D\uDE00""#, r#""""#] {
        assert!(read(ping(good).as_bytes()).is_ok(), "{good}");
    }
    for bad in [
        r#""\uD800""#,
        r#""\ud800""#,
        r#""a\uDC00\uD800""#,
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993",
        "12345678901234567890",
        "1.0",
        "1e0",
        "1E400",
        "0.5",
    ] {
        let text = ping(bad);
        let found = read(text.as_bytes()).map_err(|refusal| refusal.code());
        assert_eq!(found, Err(-32600), "{bad}");
        assert_eq!(readable_id_of(text.as_bytes()), None, "{bad}");
    }
}

#[test]
fn without_an_id_only_notifications_pass() {
    for method in
        ["tools/call", "tools/list", "ping", "notifications", "Notifications/x", "vendor/x"]
    {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"name":"a"}}}}"#);
        let found = read(text.as_bytes()).map_err(|refusal| refusal.code());
        assert_eq!(found, Err(-32600), "{method}");
    }
}

#[test]
fn a_refused_message_is_answered_by_its_id_where_it_has_one() {
    let id = |text: &str| readable_id_of(text.as_bytes()).map(|id| id.raw.to_owned());
    assert_eq!(
        id(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":7}}"#),
        Some("7".into())
    );
    assert_eq!(id(r#"{"id":"a","method":"x"}"#), Some("\"a\"".into()));
    assert_eq!(id(r#"{"jsonrpc":"2.0","id":7,"method":"x","Method":"y"}"#), Some("7".into()));
    assert_eq!(id(r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"x"}"#), None);
    assert_eq!(id(r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#), None);
    assert_eq!(id("[]"), None);
    assert_eq!(id(r#"{"id":7"#), None);
}

#[test]
fn an_answer_that_says_a_thing_twice_is_unclear() {
    let text = r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"isError":false}}"#;
    assert!(matches!(read(text.as_bytes()), Ok(Message::Answer { answer: Answer::Unclear, .. })));
}

#[test]
fn nesting_costs_no_stack() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{}{}}}}}"#,
        "[".repeat(2_000_000),
        "]".repeat(2_000_000)
    );
    assert!(read(deep.as_bytes()).is_ok());
}

#[test]
fn ids_are_equal_by_value() {
    let key = |raw| Id { raw }.key();
    assert_eq!(key("\"a\""), key(r#""\u0061""#));
    assert_eq!(key("0"), key("-0"));
    assert_ne!(key("1"), key("\"1\""));
}

proptest! {
    /// Whatever comes, it is read or refused, and what is read says what a full parser says.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn any_names_are_read_as_a_full_parser_reads_them(method in "[a-z/]{1,12}", tool in "\\PC{1,40}", id in -9_007_199_254_740_991..=9_007_199_254_740_991_i64) {
        let value = serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": { "x": [1, {}], "name": tool } });
        let text = value.to_string();
        let Message::Request { id: read_id, method: read_method, .. } = read(text.as_bytes()).unwrap() else {
            return Err(TestCaseError::fail("no request"));
        };
        prop_assert_eq!(read_id.raw, id.to_string());
        prop_assert_eq!(read_method, method);
        let call = text.replacen(&format!("\"method\":\"{}\"", value["method"].as_str().unwrap()), "\"method\":\"tools/call\"", 1);
        let Message::Request { tool: Some(read_tool), .. } = read(call.as_bytes()).unwrap() else {
            return Err(TestCaseError::fail("no call"));
        };
        prop_assert_eq!(read_tool, tool);
    }
}
