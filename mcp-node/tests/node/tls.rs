//! Clients over TLS, and those whose certificate says who they are.

use std::{path::Path, sync::Arc};

use futures::{SinkExt, StreamExt};
use mcp_node::http::{Tls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use schemas::KeyState;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::{
    connections::{modern, old},
    duplex::{headers, shake_hands},
    rig::{Rig, SECRET, call, http_upstream, until},
    server::Server,
};

/// An authority.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate with these names, and its key.
fn issue(by: &Authority, hosts: &[&str], uris: &[String]) -> (rcgen::Certificate, KeyPair) {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
    }
    let pair = KeyPair::generate().unwrap();
    (params.signed_by(&pair, by).unwrap(), pair)
}

fn files(folder: &Path, ca: &Authority) -> TlsFiles {
    let (cert, pair) = issue(ca, &["localhost"], &[]);
    let put = |name: &str, pem: String| {
        let file = folder.join(name);
        std::fs::write(&file, pem).unwrap();
        file
    };
    TlsFiles {
        cert: put("cert.pem", cert.pem()),
        key: put("key.pem", pair.serialize_pem()),
        client_ca: Some(put("ca.pem", ca.pem())),
    }
}

/// Connects a client with this certificate.
async fn connect(
    address: std::net::SocketAddr,
    ca: &Authority,
    certificate: Option<&(rcgen::Certificate, KeyPair)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some((certificate, pair)) => {
            let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
            let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let connection = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connection).await
}

/// What a call by a client with this certificate is answered; empty = it got no connection.
async fn called(
    address: std::net::SocketAddr,
    ca: &Authority,
    certificate: Option<&(rcgen::Certificate, KeyPair)>,
    header: &str,
) -> String {
    let body = call(1, "success", json!({}));
    let text = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept: application/json, text/event-stream\r\n\
         content-type: application/json\r\n{header}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked = async {
        let mut stream = connect(address, ca, certificate).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    asked.await.unwrap_or_default()
}

fn name_of(key: &KeyState) -> String {
    format!("tollbook:key:{}", key.key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_for_the_key_that_it_names() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    let other = rig.ledger().key("tb_other", None).await;
    until("the keys are known", || rig.node.meter().authenticate("tb_other").is_ok()).await;
    let (folder, ca, stranger) = (tempfile::tempdir().unwrap(), authority(), authority());
    let tls = Arc::new(Tls::try_new(files(folder.path(), &ca)).unwrap());
    let address = rig.open_tls(tls.clone()).await;

    let own = issue(&ca, &[], &[name_of(&key)]);
    let nobody = issue(&ca, &["client"], &["tollbook:key:x".into()]);
    let both = issue(&ca, &[], &[name_of(&key), name_of(&other)]);
    let forged = issue(&stranger, &[], &[name_of(&key)]);
    let header = format!("x-api-key: {SECRET}\r\n");
    for (certificate, header, status) in [
        (Some(&own), "", "HTTP/1.1 200"),
        (Some(&own), &*header, "HTTP/1.1 200"),
        (Some(&own), "x-api-key: tb_other\r\n", "HTTP/1.1 401"),
        (Some(&own), "x-api-key: tb_unknown\r\n", "HTTP/1.1 401"),
        (None, &header, "HTTP/1.1 200"),
        (None, "", "HTTP/1.1 401"),
        (Some(&nobody), "", "HTTP/1.1 401"),
        (Some(&nobody), &header, "HTTP/1.1 200"),
        (Some(&both), "", "HTTP/1.1 401"),
        (Some(&forged), "", ""),
        (Some(&forged), &header, ""),
    ] {
        let answer = called(address, &ca, certificate, header).await;
        assert!(answer.starts_with(status), "{header:?}: {answer}");
        assert_eq!(answer.is_empty(), status.is_empty(), "{header:?}: {answer}");
    }
    until("they count for the key", || rig.ledger().consumed(&key) == 4).await;

    // New certificates serve from the next connection on; those that cannot be read change nothing.
    let new = authority();
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        let (file, nothing) = (folder.path().join(name), "nonsense");
        let before = std::fs::read(&file).unwrap();
        std::fs::write(&file, nothing).unwrap();
        assert!(tls.reload().is_err(), "{name}");
        std::fs::write(&file, before).unwrap();
    }
    assert!(called(address, &ca, Some(&own), "").await.starts_with("HTTP/1.1 200"));
    files(folder.path(), &new);
    tls.reload().unwrap();
    assert_eq!(called(address, &ca, Some(&own), "").await, "");
    let own = issue(&new, &[], &[name_of(&key)]);
    assert!(called(address, &new, Some(&own), "").await.starts_with("HTTP/1.1 200"));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_tls_that_has_gone_is_told_from_one_that_has_said_all() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let (folder, ca) = (tempfile::tempdir().unwrap(), authority());
    let tls = Arc::new(Tls::try_new(files(folder.path(), &ca)).unwrap());
    let address = rig.open_tls(tls).await;
    for text in [old("slow"), modern("slow")] {
        let mut stream = connect(address, &ca, None).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("HTTP/1.1 200") && answer.contains("\"result\""), "{answer}");
    }
    until("both are recorded", || rig.outcomes().len() == 2).await;
    for in_order in [false, true] {
        let sent = server.sent.lock().len();
        let mut stream = connect(address, &ca, None).await.unwrap();
        stream.write_all(modern("never").as_bytes()).await.unwrap();
        until("the server has it", || server.sent.lock().len() > sent).await;
        if in_order {
            stream.shutdown().await.unwrap();
        }
        let (before, began) = (rig.outcomes().len(), std::time::Instant::now());
        drop(stream);
        until("it is recorded", || rig.outcomes().len() > before).await;
        assert!(began.elapsed() < std::time::Duration::from_secs(4), "{:?}", began.elapsed());
    }
    let of = |outcome: &str| rig.outcomes().iter().filter(|(_, found)| found == outcome).count();
    assert_eq!((of("success"), of("cancelled")), (2, 2));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_for_the_key_over_a_websocket() {
    let server = Server::start().await;
    let rig = Rig::start(http_upstream(&server.url())).await;
    let key = rig.ledger().key(SECRET, Some(10)).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let (folder, ca) = (tempfile::tempdir().unwrap(), authority());
    let tls = Arc::new(Tls::try_new(files(folder.path(), &ca)).unwrap());
    let address = rig.open_tls(tls).await;
    let own = issue(&ca, &[], &[name_of(&key)]);
    let keyless: Vec<_> =
        headers(SECRET).into_iter().filter(|(name, _)| *name != "x-api-key").collect();
    let mut nobody = connect(address, &ca, None).await.unwrap();
    assert_eq!(shake_hands(&mut nobody, "localhost", "/ws", &keyless).await, 401);
    let mut stream = connect(address, &ca, Some(&own)).await.unwrap();
    assert_eq!(shake_hands(&mut stream, "localhost", "/ws", &keyless).await, 101);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    socket.send(Message::text(call(1, "success", json!({})))).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(answer.contains("\"result\""), "{answer}");
    until("it counts for the key", || rig.ledger().consumed(&key) == 1).await;
    rig.stop().await;
}
