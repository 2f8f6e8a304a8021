//! The least HTTP client that readiness and administration need: one request, one connection.
//!
//! Absent on purpose: TLS, redirects, pools. Everything asked here is on the loopback interface,
//! `CLICKHOUSE_URL` aside.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The bound on one exchange.
const BOUND: Duration = Duration::from_secs(10);

pub(crate) type Status = StatusCode;

/// An answer with its whole body.
pub(crate) struct Answer {
    pub status: Status,
    pub body: Bytes,
}

impl Answer {
    /// The body as text, without the newline at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

type Failure = Box<dyn Error + Send + Sync>;

/// `GET url`, for an `http://host:port/path?query`.
pub(crate) async fn get(url: &str) -> Result<Answer, Failure> {
    send(Method::GET, url, &[], Bytes::new()).await
}

/// `POST url` with headers and a body.
pub(crate) async fn post(
    url: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Answer, Failure> {
    send(Method::POST, url, headers, body.into()).await
}

async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, Failure> {
    let exchange = exchange(method, url, headers, body);
    match timeout(BOUND, exchange).await {
        Ok(answer) => answer.map_err(|error| format!("{url}: {error}").into()),
        Err(_) => Err(format!("{url}: no answer in {} s", BOUND.as_secs()).into()),
    }
}

async fn exchange(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, Failure> {
    let uri: Uri = url.parse()?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is spoken here".into());
    }
    let authority = uri.authority().ok_or("no host in the address")?;
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the exchange; what goes wrong with it, `sender` says too.
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request =
        Request::builder().method(method).uri(path).header(header::HOST, authority.as_str());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(body))?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(Answer { status, body })
}
