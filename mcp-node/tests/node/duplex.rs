//! A client that holds one connection for a whole session: over HTTP+SSE of 2024-11-05, or over WebSocket.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_node_core::sse::Splitter;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::rig::{Caller, call, initialize};

/// How long a test waits for a message.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The key of RFC 6455's example.
const WS_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sse,
    WebSocket,
}

pub const KINDS: [Kind; 2] = [Kind::Sse, Kind::WebSocket];

pub enum Duplex {
    Sse(Box<Sse>),
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// A stream, and where messages are posted.
pub struct Sse {
    pub post: Caller,
    body: Incoming,
    splitter: Splitter,
}

impl Duplex {
    /// Connects; `server` = one of several, as in `/time`.
    pub async fn connect(kind: Kind, address: SocketAddr, server: &str, secret: &str) -> Self {
        match kind {
            Kind::Sse => Self::Sse(Box::new(Sse::open(address, server, secret).await)),
            Kind::WebSocket => {
                let path = format!("/ws{server}");
                let (status, socket) = upgrade(address, &path, &headers(secret)).await;
                assert_eq!(status, 101);
                let socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
                Self::WebSocket(Box::new(socket))
            }
        }
    }

    pub async fn initialized(mut self) -> Self {
        self.say(&initialize(json!({}))).await;
        let hello = self.hear().await.expect("an answer");
        assert_eq!(hello["id"], 0, "{hello}");
        assert!(hello["result"].is_object(), "{hello}");
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        self
    }

    pub async fn say(&mut self, message: &str) {
        match self {
            Self::Sse(sse) => {
                let taken = sse.post.post(message.to_owned()).await;
                assert_eq!(taken.status(), 202, "{:?}", taken.body());
            }
            Self::WebSocket(socket) => socket.send(Message::text(message)).await.unwrap(),
        }
    }

    /// The next message; `None` = there will be none.
    pub async fn hear(&mut self) -> Option<Value> {
        let hearing = async {
            match self {
                Self::Sse(sse) => sse.event().await.map(|(_, data)| data),
                Self::WebSocket(socket) => loop {
                    match socket.next().await {
                        Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                        Some(Ok(_)) => {}
                    }
                },
            }
        };
        let heard = tokio::time::timeout(TIMEOUT, hearing).await.expect("something in time");
        heard.map(|text| serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }

    /// Calls a tool and returns what comes next.
    pub async fn called(&mut self, id: u64, tool: &str, arguments: Value) -> Value {
        self.say(&call(id, tool, arguments)).await;
        self.hear().await.expect("an answer")
    }

    pub fn sse(&mut self) -> &mut Sse {
        let Self::Sse(sse) = self else { panic!("it is a WebSocket") };
        sse
    }

    pub fn socket(&mut self) -> &mut WebSocketStream<TcpStream> {
        let Self::WebSocket(socket) = self else { panic!("it is HTTP+SSE") };
        socket
    }
}

impl Sse {
    async fn open(address: SocketAddr, server: &str, secret: &str) -> Self {
        let caller = Caller::new(&format!("http://{address}/sse{server}"), secret);
        let response = caller.stream(Method::GET, "").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let splitter = Splitter::new(64 << 20);
        let mut opened = Self { post: caller, body: response.into_body(), splitter };
        let (event, endpoint) = opened.event().await.unwrap();
        assert_eq!(event, "endpoint");
        opened.post = Caller::new(&format!("http://{address}{endpoint}"), secret);
        opened
    }

    /// The next event that has data; `None` = the stream is over.
    async fn event(&mut self) -> Option<(String, String)> {
        loop {
            while let Some(frame) = self.splitter.next_frame().unwrap() {
                let text = String::from_utf8(frame.to_vec()).unwrap();
                let event = text.lines().find_map(|line| line.strip_prefix("event: "));
                let data = text.lines().find_map(|line| line.strip_prefix("data: "));
                if let Some(data) = data {
                    return Some((event.unwrap_or_default().to_owned(), data.to_owned()));
                }
            }
            let data = self.raw().await?;
            self.splitter.push(&data);
        }
    }

    /// What comes next on the stream, as it is.
    pub async fn raw(&mut self) -> Option<bytes::Bytes> {
        let frame = self.body.frame().await?.ok()?;
        Some(frame.into_data().unwrap_or_default())
    }
}

/// What a client says that opens a WebSocket.
pub fn headers(secret: &str) -> Vec<(&'static str, String)> {
    let said = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", WS_KEY),
        ("sec-websocket-protocol", "mcp"),
        ("x-api-key", secret),
    ];
    said.map(|(name, value)| (name, value.to_owned())).to_vec()
}

/// Asks for a WebSocket; the status, and the connection behind the answer's head.
pub async fn upgrade(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, String)],
) -> (u16, TcpStream) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let status = shake_hands(&mut socket, &address.to_string(), path, headers).await;
    (status, socket)
}

/// Asks for a WebSocket on a connection; the status.
pub async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    host: &str,
    path: &str,
    headers: &[(&str, String)],
) -> u16 {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 101 {
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(head.to_ascii_lowercase().contains("sec-websocket-protocol: mcp"), "{head}");
    }
    status
}
