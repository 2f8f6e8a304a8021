//! What the server behind the node is told: the node's own credentials, who asks, and nothing of the client's.

use std::{sync::atomic::Ordering, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use mcp_node::{
    access::{Access, issuer::KeySet},
    clock,
    upstream::{Signer, SignerSettings, UpstreamHeaders},
};
use mcp_node_core::token::read;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    rig::{Caller, Rig, SECRET, World, message, stamped_upstream, stdio_upstream, until},
    server::Server,
};

/// What clients say that is for this node alone.
fn loud(caller: Caller) -> Caller {
    let own = [
        ("authorization", "Bearer tb_told"),
        ("cookie", "session=secret-cookie"),
        ("x-upstream", "forged"),
        ("x-tollbook-tenant", "forged"),
        ("x-tollbook-key", "forged"),
        ("proxy-authorization", "Basic secret-proxy"),
    ];
    own.into_iter()
        .fold(caller.without("x-api-key"), |caller, (name, value)| caller.with(name, value))
}

fn stamp() -> UpstreamHeaders {
    let fixed = [("x-upstream", "ours"), ("x-other", "too")];
    let fixed =
        fixed.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let organization = Some(HeaderValue::from_static("org_1"));
    UpstreamHeaders {
        fixed: HeaderMap::from_iter(fixed),
        identity: true,
        organization,
        signer: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_learns_who_asks_and_nothing_of_how_that_was_proved() {
    let server = Server::start().await;
    let rig = Rig::start(stamped_upstream(&server.url(), stamp())).await;
    let key = rig.ledger().key("tb_told", None).await;
    until("the key is known", || rig.node.meter().authenticate("tb_told").is_ok()).await;
    let caller = loud(rig.caller("-"));
    let check = |from: usize| {
        let sent = server.sent.lock().split_off(from);
        assert!(!sent.is_empty());
        for sent in sent {
            let all = format!("{:?}{:?}", sent.headers, sent.body);
            for hidden in ["tb_told", "secret", "forged", "authorization", "cookie"] {
                assert!(!all.contains(hidden), "{hidden}: {all}");
            }
            let said = |name: &str| sent.headers[name].to_str().unwrap().to_owned();
            assert_eq!((said("x-upstream"), said("x-other")), ("ours".into(), "too".into()));
            // What the node asks for itself, as which revision there is, is nobody's.
            if sent.headers.contains_key("x-tollbook-key") {
                assert_eq!(said("x-tollbook-key"), key.key.to_string());
                assert_eq!(said("x-tollbook-tenant"), key.tenant.to_string());
                assert_eq!(said("x-tollbook-project"), key.project.to_string());
                assert_eq!(said("x-tollbook-organization"), "org_1");
                assert_eq!(said("x-tollbook-tier"), "team");
            } else {
                assert!(String::from_utf8_lossy(&sent.body).contains("server/discover"), "{all}");
            }
        }
    };
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    let session = caller.clone().initialized().await;
    assert_eq!(session.called(2, "success", json!({})).await.0, 200);
    assert!(session.send(Method::DELETE, "").await.status().is_success());
    assert_eq!(caller.asked("tools/call", json!({ "name": "success" })).await.0, 200);
    check(0);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_bridge_the_server_learns_the_same() {
    let server = Server::start().await;
    server.old.store(true, Ordering::Relaxed);
    let rig = Rig::start(stamped_upstream(&server.url(), stamp())).await;
    let key = rig.ledger().key("tb_told", None).await;
    until("the key is known", || rig.node.meter().authenticate("tb_told").is_ok()).await;
    let caller = loud(rig.caller("-"));
    for _ in 0..2 {
        assert_eq!(caller.asked("tools/call", json!({ "name": "success" })).await.0, 200);
    }
    let sent = server.sent.lock().clone();
    let named = sent.iter().filter(|sent| sent.headers.contains_key("x-tollbook-key"));
    for sent in named.clone() {
        assert_eq!(sent.headers["x-tollbook-key"].to_str().unwrap(), key.key.to_string());
    }
    assert!(named.count() >= 4, "its greeting and both of its calls");
    for sent in &sent {
        assert_eq!(sent.headers["x-upstream"], "ours");
        let all = format!("{:?}{:?}", sent.headers, sent.body);
        for hidden in ["tb_told", "secret", "forged"] {
            assert!(!all.contains(hidden), "{hidden}: {all}");
        }
    }
    rig.stop().await;
}

/// A child that answers with everything that it was given.
const CHILD: &str = r#"
import json, os, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m:
        print(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": {"content": [], "line": line, "env": dict(os.environ), "args": sys.argv}}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_child_learns_nothing_of_the_client_s_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("server.py");
    std::fs::write(&script, CHILD).unwrap();
    let args = vec![script.to_str().unwrap().to_owned()];
    let rig = Rig::start(stdio_upstream(std::path::Path::new("python3"), args)).await;
    rig.ledger().key("tb_told", None).await;
    until("the key is known", || rig.node.meter().authenticate("tb_told").is_ok()).await;
    let caller = loud(rig.caller("-")).initialized().await;
    let (status, said) = caller.called(1, "any", json!({})).await;
    assert_eq!(status, 200);
    assert!(said["result"]["line"].as_str().unwrap().contains("tools/call"));
    let all = said.to_string();
    for hidden in ["tb_told", "secret-", "forged"] {
        assert!(!all.contains(hidden), "{hidden}: {all}");
    }
    rig.stop().await;
}

fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_can_check_a_token_about_the_caller() {
    let server = Server::start().await;
    let world = World::start().await;
    let settings = SignerSettings {
        issuer: "https://node.example".into(),
        audience: server.url(),
        file: world.folder.path().join("internal-jwt.pem"),
        rotation: Some(Duration::from_secs(3_600)),
    };
    let signer = Signer::start(settings, CancellationToken::new()).unwrap();
    let stamp = UpstreamHeaders {
        signer: Some((AUTHORIZATION, signer.clone())),
        ..UpstreamHeaders::default()
    };
    let upstream = stamped_upstream(&server.url(), stamp);
    let rig = Rig::start_signing(world, upstream, Access::default(), Some(signer)).await;
    let scopes = |key: &mut schemas::KeyState| key.scopes = vec!["debate:*".into()];
    let mut key = rig.ledger().key_with(SECRET, Some(10), scopes).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let caller = rig.caller(SECRET);
    let token = |server: &Server| {
        let said = server.last().headers[AUTHORIZATION].to_str().unwrap().to_owned();
        said.strip_prefix("Bearer ").expect("a bearer").to_owned()
    };
    assert_eq!(caller.called(1, "success", json!({})).await.0, 200);
    let first = token(&server);
    let jwks = Caller::new(&rig.url().replace("/mcp", "/.well-known/jwks.json"), "-");
    let jwks = jwks.without("x-api-key").send(Method::GET, "").await;
    assert_eq!(jwks.status(), 200);
    assert!(!String::from_utf8_lossy(jwks.body()).contains("\"d\""), "public keys alone");
    let keys = KeySet::read(jwks.body()).unwrap();
    let parts = read(&first).unwrap();
    let kid = parts.kid.as_deref();
    assert!(kid.is_some());
    let good = keys.verify(parts.algorithm, kid, parts.signed.as_bytes(), &parts.signature);
    assert_eq!(good, Some(true));
    let said = claims(&first);
    assert_eq!(
        (&said["iss"], &said["aud"]),
        (&json!("https://node.example"), &json!(server.url()))
    );
    assert_eq!((&said["sub"], &said["tier"]), (&json!(key.key.to_string()), &json!("team")));
    assert_eq!(
        (&said["org_id"], &said["scopes"]),
        (&json!(key.tenant.to_string()), &json!(["debate:*"]))
    );
    let (iat, exp) = (said["iat"].as_i64().unwrap(), said["exp"].as_i64().unwrap());
    assert!(exp - iat <= 300 && (iat - clock::wall().0 / 1_000).abs() < 60, "{said}");

    // One token for many calls, until what it says is no more so.
    assert_eq!(caller.called(2, "success", json!({})).await.0, 200);
    assert_eq!(token(&server), first);
    key.scopes = vec!["context:read".into()];
    rig.ledger().put(&mut key).await;
    let state = || rig.node.meter().authenticate(SECRET).unwrap().state();
    until("the change is known", || state().scopes == key.scopes).await;
    assert_eq!(caller.called(3, "success", json!({})).await.0, 200);
    let second = claims(&token(&server));
    assert_eq!(second["scopes"], json!(["context:read"]));
    assert_ne!(second["jti"], said["jti"]);
    assert_eq!(message(caller.call(4, "success", json!({})).await.body())["id"], 4);
    rig.stop().await;
}
