//! The bytes of a request.

use super::{plan::Plan, spellings::FRAMES};
use crate::{answers::message::fill, gzip::gzip};

/// What a request is made of besides its plan.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub host: &'a str,
    /// The number of the run; its tool is `r` and the number, a second one has a `b` behind it.
    pub number: u64,
    pub secret: &'a str,
    pub open: &'a str,
    pub session: &'a str,
}

/// The tool of a run, as its server knows it.
#[must_use]
pub fn tool(number: u64) -> String {
    format!("r{number}")
}

/// The path of a case.
#[must_use]
pub fn path(plan: &Plan) -> String {
    if plan.server == "all" { "/mcp".to_owned() } else { format!("/mcp/{}", plan.server) }
}

/// The tool as the client calls it.
#[must_use]
pub fn called(plan: &Plan, tool: &str) -> String {
    match plan.server {
        "all" => {
            let servers = &super::plan::SERVERS[..4];
            let place = usize::try_from(plan.position).unwrap_or(0) % servers.len();
            format!("{}_{tool}", servers[place])
        }
        _ => tool.to_owned(),
    }
}

/// All bytes of a case.
#[must_use]
pub fn write(plan: &Plan, parts: Parts<'_>) -> Vec<u8> {
    let (first, second) = (tool(parts.number), format!("{}b", tool(parts.number)));
    let second_body = body(plan, &called(plan, &second), parts.number + 1);
    let second_request = frame(plan, FRAMES[0].1, &second_body, &called(plan, &second), parts, b"");
    let body = body(plan, &called(plan, &first), parts.number);
    frame(plan, plan.frame.1, &body, &called(plan, &first), parts, &second_request)
}

fn body(plan: &Plan, called: &str, number: u64) -> Vec<u8> {
    let meta = if plan.era.0.starts_with("new") {
        r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#
    } else {
        ""
    };
    let escaped: String = called.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let plain = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{called}"}}}}"#
    );
    let utf16: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16_bom = [&[0xff, 0xfe], &utf16[..]].concat();
    let template = plan.body.1.replace("\"id\":1,", &format!("\"id\":{number},"));
    fill(
        &template,
        &[
            ("t", called.as_bytes()),
            ("te", escaped.as_bytes()),
            ("meta", meta.as_bytes()),
            ("utf16", &utf16),
            ("utf16_bom", &utf16_bom),
        ],
    )
}

fn frame(
    plan: &Plan,
    template: &str,
    body: &[u8],
    called: &str,
    parts: Parts<'_>,
    second: &[u8],
) -> Vec<u8> {
    let values: &[(&str, &[u8])] = &[
        ("secret", parts.secret.as_bytes()),
        ("open", parts.open.as_bytes()),
        ("session", parts.session.as_bytes()),
        ("called", called.as_bytes()),
    ];
    let shown = fill(&format!("{}{}", plan.secret.1, plan.era.1), values);
    let general = format!(
        "host: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n",
        parts.host
    );
    let headers = [general.as_bytes(), &shown].concat();
    let path = path(plan);
    let post = format!("POST {path} HTTP/1.1\r\n");
    let lf =
        |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != b'\r').collect::<Vec<u8>>();
    let ping_body = br#"{"jsonrpc":"2.0","id":"ping","method":"ping"}"#;
    let length = format!("content-length: {}\r\n\r\n", ping_body.len());
    let ping = [post.as_bytes(), &headers, length.as_bytes(), ping_body].concat();
    let zipped = gzip(body);
    fill(
        template,
        &[
            ("post", post.as_bytes()),
            ("post_lf", &lf(post.as_bytes())),
            ("path", path.as_bytes()),
            ("host", parts.host.as_bytes()),
            ("headers", &headers),
            ("headers_lf", &lf(&headers)),
            ("m", body),
            ("n", body.len().to_string().as_bytes()),
            ("h", format!("{:x}", body.len()).as_bytes()),
            ("ping", &ping),
            ("second", second),
            ("s", second.len().to_string().as_bytes()),
            ("gzip", &zipped),
            ("z", zipped.len().to_string().as_bytes()),
        ],
    )
}
