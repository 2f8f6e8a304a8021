//! Callers that show a token of an issuer instead of their key.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mcp_node::{
    access::{Access, AccessSettings, IssuerSettings, Resource, issuer::Source},
    clock,
};
use mcp_node_core::{scope::ToolScopes, token::Expected};
use parking_lot::Mutex;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use schemas::{KeyState, KeyStatus};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    rig::{Caller, Rig, World, http_upstream, reason, until},
    server::Server,
};

const AUDIENCE: &str = "https://node.example/mcp";
const SECRET: &str = "tb_of_tokens";

/// One key of an issuer.
struct Signer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": "EdDSA", "kid": self.kid }), claims)
    }
}

/// An issuer that publishes its keys, and counts who asks for them.
#[derive(Clone, Default)]
struct Publisher {
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<usize>>,
    url: String,
}

impl Publisher {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let publisher = Self { url: url.clone(), ..Self::default() };
        let metadata = json!({ "issuer": url, "jwks_uri": format!("{url}/keys") });
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(|| async { Json(metadata) }))
            .route("/keys", get(publish))
            .with_state(publisher.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        publisher
    }

    fn publishes(&self, signers: &[&Signer]) {
        *self.keys.lock() = signers.iter().map(|signer| signer.jwk()).collect();
    }

    fn claims(&self, key: &KeyState) -> Value {
        let exp = clock::wall().0 / 1_000 + 600;
        json!({ "iss": self.url, "aud": AUDIENCE, "exp": exp, "tollbook_key": key.key.to_string() })
    }

    fn access(&self, source: Source, apart: Duration) -> (Access, CancellationToken) {
        let (issuer, audience) = (self.url.clone(), AUDIENCE.to_owned());
        let resource =
            Resource::try_new(&issuer, None, vec!["context:read".into()], false).unwrap();
        let expected = Expected { issuer, audience, key_claim: "tollbook_key".into() };
        let needs = [("success".to_owned(), "context:read".to_owned())];
        let settings = AccessSettings {
            needs: ToolScopes::try_new(needs).unwrap(),
            issuer: Some(IssuerSettings { expected, source, apart }),
            resource: Some(resource),
        };
        let stop = CancellationToken::new();
        (Access::start(settings, &stop), stop)
    }

    fn metadata(&self) -> Source {
        Source::Metadata(self.url.parse().unwrap())
    }
}

async fn publish(State(publisher): State<Publisher>) -> Json<Value> {
    *publisher.asked.lock() += 1;
    let keys = publisher.keys.lock().clone();
    Json(json!({ "keys": keys }))
}

async fn rig(access: Access) -> (Rig, Server, KeyState) {
    let server = Server::start().await;
    let upstream = http_upstream(&server.url());
    let rig = Rig::start_with(World::start().await, upstream, access).await;
    let scopes = |key: &mut KeyState| key.scopes = vec!["context:*".into()];
    let key = rig.ledger().key_with(SECRET, Some(3), scopes).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    (rig, server, key)
}

fn bearer(rig: &Rig, token: &str) -> Caller {
    rig.caller("-").without("x-api-key").with("authorization", &format!("Bearer {token}"))
}

async fn called(caller: &Caller) -> (u16, String) {
    let response = caller.call(1, "success", json!({})).await;
    let status = response.status().as_u16();
    (status, if status == 200 { String::new() } else { reason(response.body()) })
}

fn refused(status: u16, why: &str) -> (u16, String) {
    (status, why.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stands_for_the_key_that_it_names() {
    let (publisher, signer) = (Publisher::start().await, Signer::new("one"));
    publisher.publishes(&[&signer]);
    let (access, _stop) = publisher.access(publisher.metadata(), Duration::from_secs(30));
    let issuer = access.issuer.clone().unwrap();
    until("its keys are known", || issuer.has_keys()).await;
    let (rig, server, key) = rig(access).await;
    let with = |scope: &str| {
        let mut claims = publisher.claims(&key);
        claims["scope"] = json!(scope);
        bearer(&rig, &signer.token(&claims))
    };
    assert_eq!(called(&with("context:read")).await.0, 200);
    assert_eq!(called(&with("debate:* context:*")).await.0, 200);
    let seen = format!("{:?}", server.last().headers);
    assert!(!seen.contains("authorization"), "the client's token goes nowhere: {seen}");
    assert_eq!(called(&with("debate:*")).await, refused(403, "insufficient_scope"));
    assert_eq!(called(&bearer(&rig, &signer.token(&publisher.claims(&key)))).await.0, 403, "none");
    let (_, listed) = with("debate:*").asked("tools/list", json!({})).await;
    assert_eq!(listed["result"]["tools"][0]["name"], "tool_error", "the list is narrowed too");
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1);
    until("it counts for the key", || rig.ledger().consumed(&key) == 2).await;

    // The key's quota and state hold for its tokens.
    assert_eq!(called(&with("context:read")).await.0, 200);
    assert_eq!(called(&with("context:read")).await, refused(429, "quota_exhausted"));
    let mut suspended = key.clone();
    suspended.status = KeyStatus::Suspended;
    rig.ledger().put(&mut suspended).await;
    until("the state is known", || rig.node.meter().authenticate(SECRET).is_err()).await;
    assert_eq!(called(&with("context:read")).await, refused(402, "key_suspended"));
    assert_eq!(*publisher.asked.lock(), 1, "no call asked the issuer");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_for_here_is_refused_as_an_unknown_key() {
    let (publisher, signer) = (Publisher::start().await, Signer::new("one"));
    publisher.publishes(&[&signer]);
    let (access, _stop) = publisher.access(publisher.metadata(), Duration::from_secs(30));
    let issuer = access.issuer.clone().unwrap();
    until("its keys are known", || issuer.has_keys()).await;
    let (rig, server, key) = rig(access).await;
    let good = publisher.claims(&key);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims["scope"] = json!("context:read");
        claims[name] = value;
        signer.token(&claims)
    };
    let past = clock::wall().0 / 1_000 - 61;
    let unsigned = with("x", json!(1));
    let (signed, _) = unsigned.rsplit_once('.').unwrap();
    let hs256 = signer.sign(&json!({ "alg": "HS256", "kid": "one" }), &good);
    let none = signer.sign(&json!({ "alg": "none" }), &good);
    let stranger = Signer::new("one").token(&good);
    let mut bad = vec![
        with("exp", json!(past)),
        with("nbf", json!(past + 300)),
        with("aud", json!("https://other.example")),
        with("iss", json!("https://other.example")),
        with("tollbook_key", json!("key_00000000000000000000000000000001")),
        with("tollbook_key", json!("app")),
        with("pad", json!("x".repeat(17 * 1_024))),
        format!("{signed}."),
        format!("{signed}.AAAA"),
        hs256,
        none,
        stranger,
        "a.b.c".into(),
        "..".into(),
        "eyJ.eyJ.e\u{7f}".replace('\u{7f}', "~"),
    ];
    bad.push(with("x", json!(2)).replacen('.', "..", 1));
    let unknown = bearer(&rig, "tb_unknown").call(1, "success", json!({})).await;
    for token in &bad {
        let response = bearer(&rig, token).call(1, "success", json!({})).await;
        assert_eq!(response.status(), 401, "{token:.200}");
        assert_eq!(response.body(), unknown.body(), "nobody is told what was wrong");
    }
    let (header, token) = ("x-api-key", with("x", json!(3)));
    let as_key = rig.caller("-").with(header, &token);
    assert_eq!(called(&as_key).await.0, 401, "a token is no key");
    let twice = bearer(&rig, &token).with(header, SECRET);
    assert_eq!(called(&twice).await.0, 401, "which of the two?");
    assert!(server.sent.lock().is_empty());
    assert_eq!(called(&bearer(&rig, &token)).await.0, 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_issuer_come_and_go_behind_the_calls() {
    let (publisher, old, new) = (Publisher::start().await, Signer::new("old"), Signer::new("new"));
    let (access, _stop) = publisher.access(publisher.metadata(), Duration::from_millis(200));
    let issuer = access.issuer.clone().unwrap();
    let (rig, _server, key) = rig(access).await;
    let mut claims = publisher.claims(&key);
    claims["scope"] = json!("context:read");
    let (by_old, by_new) = (bearer(&rig, &old.token(&claims)), bearer(&rig, &new.token(&claims)));

    // No keys yet: it cannot be said whether the token is good. A foreign one is refused all the same.
    let waits = by_old.call(1, "success", json!({})).await;
    assert_eq!(
        (waits.status().as_u16(), reason(waits.body()).as_str()),
        (503, "issuer_unreachable")
    );
    assert!(waits.headers().contains_key("retry-after"));
    let mut foreign = claims.clone();
    foreign["iss"] = json!("https://other.example");
    assert_eq!(called(&bearer(&rig, &old.token(&foreign))).await.0, 401);
    publisher.publishes(&[&old]);
    until("the keys are known", || issuer.has_keys()).await;
    assert_eq!(called(&by_old).await.0, 200);

    // An unknown key: refused, looked for behind the call, and then known. The one that is withdrawn is unknown then.
    let asked = *publisher.asked.lock();
    publisher.publishes(&[&new]);
    assert_eq!(called(&by_new).await, refused(401, "unauthorized"));
    for _ in 0..20 {
        drop(called(&by_new).await);
    }
    let mut status = 401;
    for _ in 0..500 {
        status = called(&by_new).await.0;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status, 200);
    assert_eq!(called(&by_old).await.0, 401, "its key is gone, so is what was remembered");
    assert!(*publisher.asked.lock() - asked <= 3, "not once a call");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_may_come_from_a_file_and_clients_learn_where_tokens_are() {
    let (publisher, signer) = (Publisher::start().await, Signer::new("one"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, json!({ "keys": [signer.jwk()] }).to_string()).unwrap();
    let source = Source::named(file.to_str().unwrap()).unwrap();
    let (access, _stop) = publisher.access(source, Duration::from_secs(30));
    let issuer = access.issuer.clone().unwrap();
    until("its keys are known", || issuer.has_keys()).await;
    let (rig, _server, key) = rig(access).await;
    let mut claims = publisher.claims(&key);
    claims["scope"] = json!("context:read");
    assert_eq!(called(&bearer(&rig, &signer.token(&claims))).await.0, 200);

    let address = rig.address();
    let refused = bearer(&rig, "nobody").call(1, "success", json!({})).await;
    let metadata = format!("http://{address}/.well-known/oauth-protected-resource/mcp");
    assert_eq!(
        refused.headers()["www-authenticate"],
        format!(r#"Bearer realm="tollbook", resource_metadata="{metadata}""#)
    );
    let lacks =
        bearer(&rig, &signer.token(&publisher.claims(&key))).call(1, "success", json!({})).await;
    let said = lacks.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        said.contains(r#"error="insufficient_scope", scope="context:read", resource_metadata=""#),
        "{said}"
    );
    for url in [metadata.clone(), metadata.replace("/mcp", "")] {
        let document =
            Caller::new(&url, "-").without("x-api-key").send(http::Method::GET, "").await;
        assert_eq!(document.status(), 200);
        assert_eq!(document.headers()["access-control-allow-origin"], "*");
        let document: Value = serde_json::from_slice(document.body()).unwrap();
        assert_eq!(
            document,
            json!({
                "resource": format!("http://{address}/mcp"),
                "authorization_servers": [publisher.url],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["context:read"],
            })
        );
    }
    let rebound = Caller::new(&metadata, "-").with("host", "evil.example");
    assert_eq!(rebound.send(http::Method::GET, "").await.status(), 403);
    let other = Caller::new(&metadata.replace("/mcp", "/other"), "-");
    assert_eq!(other.send(http::Method::GET, "").await.status(), 404);
    rig.stop().await;
}
