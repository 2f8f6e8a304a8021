//! The server's side of HTTP/1.1, by hand: requests as they come from a node, answers as bytes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::raw::find;

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection from which requests are read one after another.
pub struct Connection {
    pub stream: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        drop(stream.set_nodelay(true)); // Only pieces come together otherwise.
        Self { stream, bytes: Vec::new() }
    }

    /// The next request; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Request> {
        let end = loop {
            if let Some(end) = find(&self.bytes, b"\r\n\r\n") {
                break end;
            }
            self.read().await?;
        };
        let head = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        self.bytes.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Request { method, path, headers, body: Vec::new() };
        if request.header("transfer-encoding").is_some() {
            request.body = self.chunks().await?;
        } else if let Some(length) = request.header("content-length") {
            let length = length.parse().ok()?;
            while self.bytes.len() < length {
                self.read().await?;
            }
            request.body = self.bytes.drain(..length).collect();
        }
        Some(request)
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.bytes, b"\r\n") {
                    break end;
                }
                self.read().await?;
            };
            let size = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            while self.bytes.len() < end + 2 + size + 2 {
                self.read().await?;
            }
            body.extend_from_slice(&self.bytes[end + 2..end + 2 + size]);
            self.bytes.drain(..end + 2 + size + 2);
            if size == 0 {
                return Some(body);
            }
        }
    }

    async fn read(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => None,
            Ok(length) => {
                self.bytes.extend_from_slice(&piece[..length]);
                Some(())
            }
        }
    }

    /// Sends bytes; `None` when the other side is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()?;
        self.stream.flush().await.ok()
    }

    /// Sends an answer in one piece of JSON.
    pub async fn send_json(&mut self, status: &str, headers: &str, body: &str) -> Option<()> {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes()).await
    }

    /// Sends a status alone.
    pub async fn send_status(&mut self, status: &str) -> Option<()> {
        self.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await
    }

    /// Waits until the other side is gone.
    pub async fn gone(&mut self) {
        while self.read().await.is_some() {}
    }
}

/// Ends a connection with a reset instead of an end.
pub fn reset(stream: TcpStream) {
    drop(stream.set_zero_linger());
    drop(stream);
}
