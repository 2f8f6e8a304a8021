//! A hostile client that reads like a sloppy one: ids that two readers write in two ways, cancels, hang-ups and resumed
//! streams; any JSON with a result that reaches it is a result, whoever it was meant for.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

use super::plan::Plan;
use crate::{Failure, lenient, raw};

/// The ids that it takes, by number of the call where they hold one.
const IDS: &[&str] = &[
    "«n»",
    "\"«n»\"",
    r#""\uD800«n»""#,
    r#""«n»\u0041""#,
    "90071992547«n»93",
    "1234567890123«n»7890",
    "«n».0",
    "«n»e1",
    "-«n»",
    "\"\"",
];
const HELLO: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"sloppy","version":"1"}}}"#;
/// How long it reads on when it knows that nothing more comes.
const READS_ON: Duration = Duration::from_millis(250);
/// Longer than the node waits for an answer.
const PAST_TIMEOUT: Duration = Duration::from_millis(4_800);

/// What it does besides calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Waits,
    Cancels,
    CancelsAndResumes,
    HangsUpAndResumes,
    WaitsForTheTimeoutAndResumes,
}

/// One call of a tool. Returns the results that reached it.
///
/// # Errors
/// There is no connection.
pub async fn call(
    plan: &Plan,
    node: SocketAddr,
    secret: &str,
    tool: &str,
    number: u64,
) -> Result<Vec<String>, Failure> {
    let place = usize::try_from(plan.position >> 8).unwrap_or(0);
    let id = IDS[place % IDS.len()].replace("«n»", &(1_000 + number % 9_000).to_string());
    let manner = match place / IDS.len() % 32 {
        0..12 => Manner::Waits,
        12..18 => Manner::Cancels,
        18..24 => Manner::CancelsAndResumes,
        24..31 => Manner::HangsUpAndResumes,
        _ => Manner::WaitsForTheTimeoutAndResumes,
    };
    let path =
        if plan.target == "all" { "/mcp".to_owned() } else { format!("/mcp/{}", plan.target) };
    let client = Client { host: node.to_string(), node, path, secret };
    let (mut headers, mut meta) = (String::new(), "");
    if plan.target == "new" {
        headers = format!(
            "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n"
        );
        meta = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    } else if plan.target != "plain" {
        let greeted = client.send(&client.post("", HELLO), Duration::from_secs(5)).await?;
        let head = raw::parse(&greeted).head;
        let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        headers = format!("mcp-session-id: {}\r\n", session.unwrap_or("none").trim());
    }
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}{meta}}}}}"#
    );
    let request = client.post(&headers, &body);
    let cancel = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
    );
    let cancel = client.post(&headers, &cancel);
    let mut came = match manner {
        Manner::Waits => client.send(&request, Duration::from_millis(1_500)).await?,
        Manner::HangsUpAndResumes => client.send(&request, READS_ON).await?,
        Manner::WaitsForTheTimeoutAndResumes => client.send(&request, PAST_TIMEOUT).await?,
        Manner::Cancels | Manner::CancelsAndResumes => {
            let cancels = async {
                sleep(Duration::from_millis(plan.position % 8)).await;
                client.send(&cancel, Duration::from_secs(2)).await
            };
            let (came, cancelled) = tokio::join!(client.send(&request, READS_ON * 2), cancels);
            cancelled?;
            came?
        }
    };
    let resumes = !matches!(manner, Manner::Waits | Manner::Cancels);
    if let Some(event) = last_event_id(&came).filter(|_| resumes) {
        let host = &client.host;
        let resume = format!(
            "GET {} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {secret}\r\naccept: text/event-stream\r\n\
             {headers}last-event-id: {event}\r\n\r\n",
            client.path
        );
        came.extend(client.send(resume.as_bytes(), READS_ON * 2).await?);
    }
    Ok(lenient::results(&came))
}

struct Client<'a> {
    host: String,
    node: SocketAddr,
    path: String,
    secret: &'a str,
}

impl Client<'_> {
    fn post(&self, headers: &str, body: &str) -> Vec<u8> {
        let Self { host, path, secret, .. } = self;
        format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {secret}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// Sends a request over a connection of its own, and reads for so long, or until the answer is whole.
    async fn send(&self, request: &[u8], within: Duration) -> Result<Vec<u8>, Failure> {
        let mut connection = TcpStream::connect(self.node).await?;
        connection.write_all(request).await?;
        let (mut came, mut piece) = (Vec::new(), [0; 16 * 1024]);
        let deadline = Instant::now() + within;
        while let Ok(Ok(length)) = timeout_at(deadline, connection.read(&mut piece)).await {
            came.extend_from_slice(&piece[..length]);
            if length == 0 || raw::is_complete(&came) {
                break;
            }
        }
        Ok(came)
    }
}

fn last_event_id(came: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(came);
    let ids = text.split(['\n', '\r']).filter_map(|line| line.strip_prefix("id:"));
    ids.map(|id| id.trim().to_owned()).rfind(|id| !id.is_empty() && id.is_ascii())
}
