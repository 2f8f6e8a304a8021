//! One world: the parts, a billing process in front of them, and hands on all sides.

use std::{future::Future, time::Duration};

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use runtime::{http::Client, nats::Nats};
use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, Hour, LedgerBatch, LedgerFact, Quantity,
    SealLine, Shard, TOOL_CALLS, TenantId, Timestamp, fact::VERSION, subject,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use stack::{Folder, Postgres, Service, ServiceSettings, ports};
use tokio::sync::Mutex;
use uuid::Uuid;

pub const SECRET: &str = "whsec_of_the_tests";
pub const OPERATOR: &str = "operator-token";
pub const METER_EVENTS: &str = "/v1/billing/meter_events";
pub const API_KEY: &str = "sk_test_of_the_tests";
/// How long a condition may take to come about.
const TIMEOUT: Duration = Duration::from_secs(60);

pub struct World {
    pub nats: Nats,
    pub pool: PgPool,
    pub sim: String,
    /// `http://127.0.0.1:port` of the billing process, running or not.
    pub billing: String,
    pub port: u16,
    http: Client,
    database: String,
    nats_url: String,
    folder: Folder,
    _sim: stripe_sim::Server,
    pub parts: Mutex<(stack::Nats, Postgres)>,
}

impl World {
    pub async fn new() -> Self {
        let folder = Folder::temporary().unwrap();
        let nats_part = stack::Nats::start(&folder).await.unwrap();
        let postgres = Postgres::start(&folder).await.unwrap();
        let database = postgres.create_database("billing_test").await.unwrap();
        let nats = runtime::nats::connect(&nats_part.url(), "tests").await.unwrap();
        for spec in subject::STREAMS {
            let subjects = spec.subjects.iter().map(ToString::to_string).collect();
            let config = Config { name: spec.name.to_owned(), subjects, ..Config::default() };
            nats.jetstream.create_stream(config).await.unwrap();
        }
        let port = ports::free().unwrap();
        let billing = format!("http://127.0.0.1:{port}");
        let config = stripe_sim::Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            api_key: API_KEY.to_owned(),
            webhook_url: Some(format!("{billing}/stripe/webhook")),
            webhook_secret: Some(SECRET.to_owned()),
            ..stripe_sim::Config::default()
        };
        let sim = stripe_sim::Server::start(config).await.unwrap();
        let pool = billing::store::connect(&database).await.unwrap();
        Self {
            nats_url: nats_part.url(),
            sim: format!("http://{}", sim.address()),
            http: Client::default(),
            parts: Mutex::new((nats_part, postgres)),
            _sim: sim,
            nats,
            pool,
            billing,
            port,
            database,
            folder,
        }
    }

    /// Starts billing with the simulator as its Stripe.
    pub async fn start(&self) -> Service {
        self.start_with(&[]).await
    }

    /// Starts billing with these settings on top.
    pub async fn start_with(&self, more: &[(&str, &str)]) -> Service {
        let service = self.try_start(more).await.unwrap();
        self.until_ready().await;
        service
    }

    pub async fn until_ready(&self) {
        self.until("billing is ready", async || self.get("/ready").await.0 == StatusCode::OK).await;
    }

    pub async fn try_start(&self, more: &[(&str, &str)]) -> Result<Service, stack::StackError> {
        self.try_start_at("billing", self.port, more).await
    }

    /// Starts a process of this name that listens on this port; it need not become ready.
    pub async fn try_start_at(
        &self,
        name: &str,
        port: u16,
        more: &[(&str, &str)],
    ) -> Result<Service, stack::StackError> {
        let listen = format!("127.0.0.1:{port}");
        let mut env = self.env();
        env.push(("BILLING_LISTEN", &listen));
        env.extend(more.iter().copied());
        let settings = ServiceSettings {
            binary: "billing".to_owned(),
            name: name.to_owned(),
            args: vec!["serve".into()],
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            health: format!("http://{listen}/health"),
        };
        Service::start(&self.folder, settings).await
    }

    fn env(&self) -> Vec<(&str, &str)> {
        vec![
            ("BILLING_NATS_URL", self.nats_url.as_str()),
            ("BILLING_POSTGRES_URL", &self.database),
            ("BILLING_STRIPE_URL", &self.sim),
            ("BILLING_STRIPE_API_KEY", API_KEY),
            ("BILLING_STRIPE_WEBHOOK_SECRETS", SECRET),
            ("BILLING_OPERATOR_TOKEN", OPERATOR),
            ("BILLING_SETUP", "1"),
            ("BILLING_REPORTS_PER_S", "500"),
            ("BILLING_STRIPE_TIMEOUT_MS", "5000"),
            ("RUST_LOG", "info,billing=debug"),
        ]
    }

    /// Runs one command of billing to its end; gives whether it succeeded, and what it printed and logged.
    pub async fn command(&self, args: &[&str], more: &[(&str, &str)]) -> (bool, String, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_billing"));
        command.args(args).envs(self.env()).envs(more.iter().copied()).kill_on_drop(true);
        let ended = tokio::time::timeout(TIMEOUT, command.output()).await;
        let output = ended.expect("it ends").unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }

    /// A folder of this world.
    pub fn folder(&self, name: &str) -> std::path::PathBuf {
        self.folder.part(name).unwrap()
    }

    pub async fn sql(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    // --- the control log and the ledger's log -------------------------------------------------------------------

    /// A tenant that is billed so.
    pub async fn tenant(&self, billing: BillingMode) -> TenantId {
        let tenant = TenantId(Uuid::now_v7());
        let (name, time_zone) = ("Test".to_owned(), "UTC".to_owned());
        self.decide(tenant, ControlFact::TenantCreated { tenant, name, time_zone, billing }).await;
        tenant
    }

    pub async fn decide(&self, tenant: TenantId, fact: ControlFact) -> u64 {
        let subject = subject::control(&fact);
        self.publish(subject, serde_json::to_vec(&self.decision(tenant, vec![fact])).unwrap()).await
    }

    pub fn decision(&self, tenant: TenantId, facts: Vec<ControlFact>) -> Decision {
        let (decision, by) = (DecisionId(Uuid::now_v7()), "operator".to_owned());
        Decision { v: VERSION, decision, at: now(), by, tenant, shard: None, facts }
    }

    /// Seals lines of (tenant, hour, revision, delta) in one message of the ledger.
    pub async fn seal(&self, lines: &[(TenantId, Hour, u64, u64)]) -> u64 {
        self.seal_with(vec![], lines).await
    }

    /// Seals lines behind other facts of the same message.
    pub async fn seal_with(
        &self,
        mut facts: Vec<LedgerFact>,
        lines: &[(TenantId, Hour, u64, u64)],
    ) -> u64 {
        facts.extend(lines.iter().map(|&(tenant, hour, revision, delta)| {
            let (meter, delta) = (TOOL_CALLS.parse().unwrap(), Quantity(delta));
            let lines = vec![SealLine { tenant, meter, revision, delta }];
            LedgerFact::HourSealed { hour, closed: false, behind: vec![], lines }
        }));
        let batch = LedgerBatch { v: VERSION, shard: Shard(0), at: now(), facts };
        self.publish(subject::ledger(Shard(0)), serde_json::to_vec(&batch).unwrap()).await
    }

    pub async fn publish(&self, subject: String, payload: Vec<u8>) -> u64 {
        self.nats.jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap().sequence
    }

    /// Everything decided of a tenant's subscription, in order.
    pub async fn decisions(&self, tenant: TenantId) -> Vec<Decision> {
        let stream = self.nats.jetstream.get_stream(subject::CONTROL).await.unwrap();
        let subject = billing::control::subscription_subject(tenant);
        let mut found = Vec::new();
        for seq in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(seq).await.unwrap();
            if message.subject.as_str() == subject {
                found.push(serde_json::from_slice(&message.payload).unwrap());
            }
        }
        found
    }

    /// What the last decision says of a tenant's access, as `active: subscription active`.
    pub async fn access(&self, tenant: TenantId) -> Option<String> {
        let facts = self.decisions(tenant).await.into_iter().flat_map(|decision| decision.facts);
        let mut said = facts.filter_map(|fact| match fact {
            ControlFact::AccessChanged { access, reason, .. } => {
                let access = serde_json::to_value(access).unwrap();
                Some(format!("{}: {reason}", access.as_str().unwrap()))
            }
            _ => None,
        });
        said.next_back()
    }

    /// The plan that the last decision names.
    pub async fn plan(&self, tenant: TenantId) -> Option<String> {
        let facts = self.decisions(tenant).await.into_iter().flat_map(|decision| decision.facts);
        let plans = facts.filter_map(|fact| match fact {
            ControlFact::AccessChanged { plan, .. } => Some(plan),
            _ => None,
        });
        plans.last().flatten()
    }

    pub async fn messages_of(&self, stream: &str) -> u64 {
        self.nats.jetstream.get_stream(stream).await.unwrap().cached_info().state.last_sequence
    }

    // --- Stripe's side ------------------------------------------------------------------------------------------

    /// Opens a checkout for a tenant and pays; gives (customer, subscription).
    pub async fn subscribe(&self, tenant: TenantId) -> (String, String) {
        let session = self.checkout(tenant).await;
        let paid =
            self.sim_post(&format!("/_sim/checkout/sessions/{session}/complete"), &json!({})).await;
        (
            paid["customer"].as_str().unwrap().to_owned(),
            paid["subscription"].as_str().unwrap().to_owned(),
        )
    }

    pub async fn checkout(&self, tenant: TenantId) -> String {
        let body = json!({
            "tenant_id": tenant,
            "success_url": "https://example.com/done",
            "cancel_url": "https://example.com/back",
        });
        let (status, answer) = self.post("/billing/checkout", Some(OPERATOR), &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["session_id"].as_str().unwrap().to_owned()
    }

    pub async fn set_status(&self, subscription: &str, status: &str) {
        self.sim_post(
            &format!("/_sim/subscriptions/{subscription}/status"),
            &json!({ "status": status }),
        )
        .await;
    }

    /// Nothing is delivered any more; the events are only listed.
    pub async fn drop_deliveries(&self) {
        self.faults(json!({ "delivery": [{ "kind": "drop", "count": 1_000_000 }] })).await;
    }

    pub async fn faults(&self, faults: Value) {
        self.sim_post("/_sim/faults", &faults).await;
    }

    /// What Stripe would bill: (units, events taken).
    pub async fn stripe_total(&self) -> (u64, u64) {
        let totals = self.sim_get("/_sim/meters/totals").await;
        let total = &totals["grand_total"];
        (total["sum"].as_str().unwrap().parse().unwrap(), total["count"].as_u64().unwrap())
    }

    /// Asserts that every request and answer so far kept to Stripe's API description.
    pub async fn assert_valid(&self) {
        let health = self.sim_get("/_sim/health").await;
        for count in ["unvalidated_paths", "invalid_responses", "not_simulated"] {
            assert_eq!(health[count], 0, "{health}");
        }
        assert_eq!(health["complaints"], json!([]));
    }

    pub async fn sim_get(&self, path: &str) -> Value {
        self.send(
            Method::GET,
            &format!("{}{path}", self.sim),
            &[("authorization", &format!("Bearer {API_KEY}"))],
            "",
        )
        .await
        .1
    }

    pub async fn sim_post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.sim);
        let (status, answer) = self
            .send(Method::POST, &url, &[("content-type", "application/json")], &body.to_string())
            .await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    /// A call of Stripe's API by hand, with a form.
    pub async fn stripe_post(&self, path: &str, form: &str) -> Value {
        let key = format!("Bearer {API_KEY}");
        let headers = [
            ("authorization", key.as_str()),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let (status, answer) =
            self.send(Method::POST, &format!("{}{path}", self.sim), &headers, form).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    pub async fn stripe_delete(&self, path: &str) {
        let key = format!("Bearer {API_KEY}");
        let url = format!("{}{path}", self.sim);
        let (status, answer) =
            self.send(Method::DELETE, &url, &[("authorization", &key)], "").await;
        assert!(status.is_success(), "{path}: {answer}");
    }

    // --- billing's side -----------------------------------------------------------------------------------------

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let headers = [("authorization", format!("Bearer {OPERATOR}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.try_send(Method::GET, &format!("{}{path}", self.billing), &headers, "")
            .await
            .unwrap_or_default()
    }

    /// A request of the operator's under an idempotency key.
    pub async fn post_as(&self, key: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let bearer = format!("Bearer {OPERATOR}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", bearer.as_str()),
            ("idempotency-key", key),
        ];
        let url = format!("{}{path}", self.billing);
        let answer = self.try_send(Method::POST, &url, &headers, &body.to_string()).await;
        answer.unwrap_or_default()
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> (StatusCode, Value) {
        let bearer = format!("Bearer {}", token.unwrap_or("none"));
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        self.send(Method::POST, &format!("{}{path}", self.billing), &headers, &body.to_string())
            .await
    }

    /// The totals of `GET /billing/reports`.
    pub async fn totals(&self, tenant: TenantId) -> Value {
        self.get(&format!("/billing/reports?tenant_id={tenant}")).await.1["totals"].clone()
    }

    /// How many rows are in each state.
    pub async fn states(&self) -> Vec<(String, i64)> {
        let sql = "select state, count(*) from meter_report group by state order by state";
        sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// The customer that a tenant is linked to.
    pub async fn customer_of(&self, tenant: TenantId) -> String {
        billing::store::tenant::read(&self.pool, tenant).await.unwrap().unwrap().customer.unwrap()
    }

    /// How many rows are accepted.
    pub async fn accepted(&self) -> i64 {
        let rows = self.states().await;
        rows.into_iter().find(|(state, _)| state == "accepted").map_or(0, |(_, rows)| rows)
    }

    /// The reasons of what is quarantined, sorted.
    pub async fn quarantined(&self) -> Vec<String> {
        sqlx::query_scalar("select reason from quarantine order by reason")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    pub async fn until_all_accepted(&self, rows: i64) {
        self.until("all rows are accepted", async || {
            self.states().await == [("accepted".to_owned(), rows)]
        })
        .await;
    }

    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, Value) {
        self.try_send(method, url, headers, body)
            .await
            .unwrap_or_else(|| panic!("no answer from {url}"))
    }

    async fn try_send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<(StatusCode, Value)> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let answer =
            self.http.send(request, Duration::from_secs(20), 64 * 1024 * 1024).await.ok()?;
        let value = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        Some((answer.status(), value))
    }

    /// Waits until a condition holds.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl FnMut() -> F) {
        if !self.until_seen(TIMEOUT, holds).await {
            let log = std::fs::read_to_string(self.folder.log("billing")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            panic!("not within {TIMEOUT:?}: {what}\n{}", tail.join("\n"));
        }
    }

    /// Whether a condition comes to hold within a time.
    pub async fn until_seen<F: Future<Output = bool>>(
        &self,
        within: Duration,
        mut holds: impl FnMut() -> F,
    ) -> bool {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, wait).await.is_ok()
    }
}

pub fn now() -> Timestamp {
    billing::clock::now()
}

/// The current hour, less some.
pub fn hour(ago: i64) -> Hour {
    Hour(now().hour().0 - ago)
}
