//! HTTP/1.1 by hand: a client that sends whatever bytes it is told to, and reads like a sloppy one.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::Failure;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// One answer, as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 0 = nothing that begins like an answer came.
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// Posts a body over a connection of its own and reads until the answer is complete or the connection ends.
///
/// # Errors
/// There is no connection.
pub async fn post(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, Failure> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body.as_bytes()).await?;
    Ok(parse(&read_to_end(&mut connection, ANSWER_TIMEOUT).await))
}

/// Gets a page over a connection of its own.
///
/// # Errors
/// There is no connection.
pub async fn get(address: &str, path: &str) -> Result<Answer, Failure> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    Ok(parse(&read_to_end(&mut connection, ANSWER_TIMEOUT).await))
}

/// What comes until the connection ends, however it ends, or until the time is over.
pub async fn read_to_end(connection: &mut TcpStream, within: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async {
        let mut piece = [0; 16 * 1024];
        while let Ok(length) = connection.read(&mut piece).await {
            if length == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..length]);
        }
    };
    _ = timeout(within, read).await; // What came until then is what came.
    bytes
}

/// Takes the first answer of some bytes apart; a chunked body is put together as far as it goes.
#[must_use]
pub fn parse(bytes: &[u8]) -> Answer {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Answer::default();
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let rest = &bytes[end + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { dechunk(rest) } else { rest.to_vec() };
    Answer { status, head, body }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..end]);
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        let from = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[from..bytes.len().min(from + size)]);
        bytes = bytes.get(from + size + 2..).unwrap_or_default();
    }
    body
}

/// Where some bytes stand in others.
#[must_use]
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether the first answer of some bytes is whole.
#[must_use]
pub fn is_complete(bytes: &[u8]) -> bool {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with(b"0\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}
