//! The real billing process between a simulated Stripe and the ledger, with nodes that hear of keys.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use http_body_util::Full;
use mcp_node::{Node, NodeSettings};
use plant::{Api, STRIPE_KEY};
use runtime::http::Client;
use schemas::{BillingMode, ControlFact, KeyId, subject};
use serde_json::{Value, json};
use sha2::Sha256;
use stack::{Service, ServiceSettings, StripeSim, ports};
use tokio::task::JoinSet;

use crate::{
    Outcome,
    report::measure,
    rig::{Rig, wait_until},
    tenants::{Tenant, secret, tenants},
};

pub const NODES: usize = 20;
/// Tenants that subscribe, one after another.
const SUBSCRIBERS: u64 = 100;
const SHARDS: u16 = 16;
const TOKEN: &str = "a token of the benchmark's operator";
/// Webhooks come over so many connections at once, for so long.
const SENDERS: u64 = 16;
const TURN: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(60);
/// How finely an activation is seen.
const LOOK: Duration = Duration::from_micros(500);

pub struct World {
    rig: Rig,
    stripe: StripeSim,
    nodes: Vec<Node>,
    tenants: Vec<Tenant>,
    billing: String,
    webhook_secret: String,
    _services: [Service; 2],
}

impl World {
    pub async fn start() -> Outcome<Self> {
        let rig = Rig::start().await?;
        rig.make_log(SHARDS).await?;
        let database = rig.postgres.create_database("tollbook").await?;
        let ledger = rig.ledger("ledger", &database, &[]).await?;
        let stripe = StripeSim::start(&rig.folder).await?;
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let billing = format!("http://{listen}");
        let hook = format!("{billing}/stripe/webhook");
        let fields = [("url", hook.as_str()), ("enabled_events[]", "*")];
        let api = Api::new(&stripe.url(), Some(STRIPE_KEY));
        let endpoint = api.post_form("/v1/webhook_endpoints", &fields).await?;
        let webhook_secret = text(&endpoint, "secret")?;
        let env = [
            ("NATS_URL", rig.nats.url()),
            ("POSTGRES_URL", database),
            ("LISTEN", listen),
            ("STRIPE_URL", stripe.url()),
            ("STRIPE_API_KEY", STRIPE_KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRETS", webhook_secret.clone()),
            ("OPERATOR_TOKEN", TOKEN.to_owned()),
            ("SETUP", "1".to_owned()),
        ];
        let settings = ServiceSettings {
            binary: "billing".into(),
            name: "billing".into(),
            args: vec!["serve".into()],
            env: env.map(|(name, value)| (format!("BILLING_{name}"), value)).to_vec(),
            health: format!("{billing}/ready"),
        };
        let service = Service::start(&rig.folder, settings).await?;
        let tenants = tenants(SUBSCRIBERS, 1, SHARDS, |_| Some(1_000));
        for tenant in &tenants {
            let mut decision = tenant.decision(mcp_node::clock::wall());
            for fact in &mut decision.facts {
                if let ControlFact::TenantCreated { billing, .. } = fact {
                    *billing = BillingMode::Stripe;
                }
            }
            let subject = subject::control(&decision.facts[0]);
            let payload = serde_json::to_vec(&decision)?;
            rig.connection.jetstream.publish(subject, payload.into()).await?.await?;
        }
        let mut nodes = Vec::with_capacity(NODES);
        for number in 0..NODES {
            let name = format!("node-{number}");
            let settings = NodeSettings {
                node_id: Some(name.parse()?),
                ..NodeSettings::new(rig.folder.path().join(&name))
            };
            let nats = runtime::nats::connect(&rig.nats.url(), &name).await?;
            nodes.push(Node::start(&settings, &nats).await?);
        }
        let services = [ledger, service];
        Ok(Self { rig, stripe, nodes, tenants, billing, webhook_secret, _services: services })
    }

    /// From a paid checkout (when Stripe sends its webhooks) until the last node serves the key. Unit: milliseconds.
    pub async fn activations(&self) -> Outcome<Vec<f64>> {
        let (billing, stripe) =
            (Api::new(&self.billing, Some(TOKEN)), Api::new(&self.stripe.url(), None));
        let mut took = Vec::new();
        for tenant in &self.tenants {
            let back = "http://127.0.0.1/";
            let id = tenant.tenant.to_string();
            let body = json!({ "tenant_id": id, "success_url": back, "cancel_url": back });
            let opens = || async { Ok(billing.post("/billing/checkout", &body).await.is_ok()) };
            wait_until("billing knows the tenant", TIMEOUT, opens).await?;
            let session = text(&billing.post("/billing/checkout", &body).await?, "session_id")?;
            let completed = format!("/_sim/checkout/sessions/{session}/complete");
            let began = Instant::now();
            stripe.post(&completed, &json!({})).await?;
            while !self.nodes.iter().all(|node| serves(node, tenant.keys[0])) {
                if began.elapsed() > TIMEOUT {
                    return Err(format!("{id} has paid, and its key does not serve").into());
                }
                tokio::time::sleep(LOOK).await;
            }
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    }

    /// Signed events that billing's door takes a second; each is stored on the log before it is answered.
    pub async fn webhooks(&self) -> Outcome<f64> {
        let client = Client::new(Duration::from_secs(5), 64);
        let (began, mut senders) = (Instant::now(), JoinSet::new());
        for sender in 0..SENDERS {
            let (client, hook) = (client.clone(), format!("{}/stripe/webhook", self.billing));
            let secret = self.webhook_secret.clone();
            senders.spawn(async move {
                let mut taken = 0u64;
                while began.elapsed() < TURN {
                    let body = event(sender, taken);
                    let signature = sign(&secret, &body)?;
                    let request = Request::post(&hook)
                        .header("stripe-signature", signature)
                        .body(Full::new(Bytes::from(body)))?;
                    let answer = client.send(request, Duration::from_secs(20), 1 << 20).await?;
                    if answer.status() != 200 {
                        return Err(format!("a webhook is answered {}", answer.status()).into());
                    }
                    taken += 1;
                }
                Ok::<u64, crate::Failure>(taken)
            });
        }
        let mut taken = 0;
        for sender in senders.join_all().await {
            taken += sender?;
        }
        println!("{taken} webhooks taken over {} on one log", self.rig.nats.url());
        Ok(measure(taken) / began.elapsed().as_secs_f64())
    }
}

fn serves(node: &Node, key: KeyId) -> bool {
    node.meter().authenticate(&secret(key)).is_ok()
}

/// An event that no customer is touched by.
fn event(sender: u64, number: u64) -> String {
    let id = format!("evt_bench{sender:04}{number:012}");
    json!({
        "id": id, "object": "event", "api_version": "2026-10-28.endive", "created": 1_795_176_000,
        "livemode": false, "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null },
        "type": "product.updated", "data": { "object": { "id": "prod_bench", "object": "product" } },
    })
    .to_string()
}

fn sign(secret: &str, body: &str) -> Outcome<String> {
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    mac.update(format!("{stamp}.{body}").as_bytes());
    Ok(format!("t={stamp},v1={}", hex::encode(mac.finalize().into_bytes())))
}

fn text(value: &Value, name: &str) -> Outcome<String> {
    let text = value[name].as_str().ok_or_else(|| format!("no `{name}` in {value}"))?;
    Ok(text.to_owned())
}
