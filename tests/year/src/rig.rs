//! The parts: NATS, PostgreSQL, the simulated Stripe, and billing as a library; and waiting until all is quiet.

use std::{
    fmt::Write as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::jetstream::stream::Config as Stream;
use billing::config::Config;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use runtime::nats::Nats;
use schemas::{
    BillingMode, ControlFact, Decision, DecisionId, TenantId, Timestamp, fact::VERSION, subject,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use stack::{Folder, Postgres, ports};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why the play broke off.
pub type Broke = Box<dyn std::error::Error + Send + Sync>;

const API_KEY: &str = "sk_test_of_the_year";
const SECRET: &str = "whsec_of_the_year";
const OPERATOR: &str = "operator-of-the-year";
const TIMEOUT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

/// The running parts.
pub struct Rig {
    pub nats: Nats,
    pub pool: PgPool,
    pub now: Timestamp,
    http: runtime::http::Client,
    sim: String,
    billing: String,
    /// Deliveries that are known to be done with.
    delivered: AtomicUsize,
    stop: CancellationToken,
    worker: JoinHandle<Result<(), String>>,
    _parts: (stripe_sim::Server, stack::Nats, Postgres, Folder),
}

impl Rig {
    /// Starts everything at a moment.
    pub async fn start(plans: &Path, sell: &str, at: Timestamp) -> Result<Self, Broke> {
        billing::clock::stand_at(at);
        let folder = Folder::temporary()?;
        let nats_part = stack::Nats::start(&folder).await?;
        let postgres = Postgres::start(&folder).await?;
        let database = postgres.create_database("year").await?;
        let nats = runtime::nats::connect(&nats_part.url(), "year").await?;
        for spec in subject::STREAMS {
            let subjects = spec.subjects.iter().map(ToString::to_string).collect();
            let config = Stream { name: spec.name.to_owned(), subjects, ..Stream::default() };
            nats.jetstream.create_stream(config).await?;
        }
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let sim = stripe_sim::Server::start(stripe_sim::Config {
            listen: "127.0.0.1:0".parse()?,
            api_key: API_KEY.to_owned(),
            webhook_url: Some(format!("http://{listen}/stripe/webhook")),
            webhook_secret: Some(SECRET.to_owned()),
            freeze_at: Some(at.0 / 1000),
            ..stripe_sim::Config::default()
        })
        .await?;
        let sim_url = format!("http://{}", sim.address());
        let file = folder.part("billing")?.join("billing.toml");
        std::fs::write(
            &file,
            settings(&nats_part.url(), &database, &sim_url, &listen, plans, sell),
        )?;
        let config: Config = billing::config::load(Some(&file))?;
        let pool = billing::store::connect(&database).await?;
        let stop = CancellationToken::new();
        let worker = work(config, stop.clone());
        let rig = Self {
            nats,
            pool,
            now: at,
            http: runtime::http::Client::default(),
            sim: sim_url,
            billing: format!("http://{listen}"),
            delivered: AtomicUsize::new(0),
            stop,
            worker,
            _parts: (sim, nats_part, postgres, folder),
        };
        rig.until("billing is ready", async || Ok(rig.get_billing("/ready").await.is_ok())).await?;
        Ok(rig)
    }

    /// Moves the time of both sides forward; what falls due on the way happens in order.
    pub async fn advance(&mut self, to: Timestamp) -> Result<(), Broke> {
        billing::clock::stand_at(to);
        self.now = to;
        self.sim_post("/_sim/clock", &json!({ "freeze": to.0 / 1000 })).await?;
        Ok(())
    }

    /// Waits until nothing is on its way: deliveries, folds, reports, statements and corrections.
    pub async fn settle(&self, log_seq: u64) -> Result<(), Broke> {
        self.until("all deliveries are made", async || self.all_delivered().await).await?;
        self.until("all streams are folded", async || self.all_folded(log_seq).await).await?;
        self.until("nothing is due", async || self.nothing_due().await).await
    }

    async fn all_delivered(&self) -> Result<bool, Broke> {
        let after = self.delivered.load(Ordering::SeqCst);
        let answer = self.sim_get(&format!("/_sim/deliveries?after={after}")).await?;
        let rows = answer["deliveries"].as_array().cloned().unwrap_or_default();
        let open = rows.iter().position(|row| row["state"] == "pending").unwrap_or(rows.len());
        if let Some(lost) = rows[..open].iter().find(|row| row["state"] != "delivered") {
            return Err(format!("a webhook was not delivered: {lost}").into());
        }
        self.delivered.store(after + open, Ordering::SeqCst);
        Ok(open == rows.len())
    }

    async fn all_folded(&self, log_seq: u64) -> Result<bool, Broke> {
        for (projection, stream) in [("stripe", subject::STRIPE), ("control", subject::CONTROL)] {
            let mut stream = self.nats.jetstream.get_stream(stream).await?;
            let last = stream.info().await?.state.last_sequence;
            if self.folded(projection).await? < last {
                return Ok(false);
            }
        }
        Ok(self.folded("log").await? >= log_seq)
    }

    async fn folded(&self, projection: &str) -> Result<u64, Broke> {
        let sql = "select seq from checkpoint where projection = $1";
        let seq: i64 = sqlx::query_scalar(sql).bind(projection).fetch_one(&self.pool).await?;
        Ok(u64::try_from(seq)?)
    }

    async fn nothing_due(&self) -> Result<bool, Broke> {
        let sql = "select
            (select count(*) from meter_report where state in ('pending', 'sent', 'ambiguous') and customer is not null)
            + (select count(*) from subscribed where next_end_ms <= $1 and (current_from_ms >= next_end_ms or ended_at_ms <= next_end_ms))
            + (select count(*) from statement where state <> 'closed' and due_at_ms <= $1)
            + (select count(*) from bill where not published or collection in ('pending', 'sent'))
            + (select count(*) from dunning where look_again_at_ms <= $1)
            + (select count(*) from meter_report r join statement s on s.tenant_id = r.tenant_id
                   and r.event_s * 1000 >= s.from_ms and r.event_s * 1000 < s.to_ms and s.state = 'closed'
               where r.billed_revision is null and r.state in ('accepted', 'carried'))";
        let due: i64 = sqlx::query_scalar(sql).bind(self.now.0).fetch_one(&self.pool).await?;
        Ok(due == 0)
    }

    async fn until(
        &self,
        what: &str,
        holds: impl AsyncFn() -> Result<bool, Broke>,
    ) -> Result<(), Broke> {
        let wait = async {
            while !holds().await? {
                if self.worker.is_finished() {
                    return Err("billing ended".into());
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok::<(), Broke>(())
        };
        match tokio::time::timeout(TIMEOUT, wait).await {
            Ok(done) => done,
            Err(_) => Err(format!("at {} not within {TIMEOUT:?}: {what}", self.now).into()),
        }
    }

    /// Decides something as an operator.
    pub async fn create_tenant(
        &self,
        tenant: TenantId,
        name: &str,
        zone: &str,
    ) -> Result<(), Broke> {
        let (name, time_zone, billing) = (name.to_owned(), zone.to_owned(), BillingMode::Stripe);
        let fact = ControlFact::TenantCreated { tenant, name, time_zone, billing };
        let subject = subject::control(&fact);
        let decision = Decision {
            v: VERSION,
            decision: DecisionId(tenant.0),
            at: self.now,
            by: "operator".to_owned(),
            tenant,
            shard: None,
            facts: vec![fact],
        };
        let payload = serde_json::to_vec(&decision)?;
        self.nats.jetstream.publish(subject, payload.into()).await?.await?;
        Ok(())
    }

    /// Opens a checkout of billing's and lets the buyer pay. Gives customer and subscription.
    pub async fn subscribe(
        &self,
        tenant: TenantId,
        plan: Option<&str>,
    ) -> Result<(String, String), Broke> {
        let mut body = json!({ "tenant_id": tenant, "success_url": "https://example.com/done" });
        if let Some(plan) = plan {
            body["plan"] = json!(plan);
        }
        let url = format!("{}/billing/checkout", self.billing);
        let opened =
            self.send(Method::POST, &url, OPERATOR, "application/json", &body.to_string()).await?;
        let session = text(&opened["session_id"])?;
        let paid = self
            .sim_post(&format!("/_sim/checkout/sessions/{session}/complete"), &json!({}))
            .await?;
        Ok((text(&paid["customer"])?, text(&paid["subscription"])?))
    }

    pub async fn get_billing(&self, path: &str) -> Result<Value, Broke> {
        self.send(Method::GET, &format!("{}{path}", self.billing), OPERATOR, "", "").await
    }

    pub async fn sim_get(&self, path: &str) -> Result<Value, Broke> {
        self.send(Method::GET, &format!("{}{path}", self.sim), API_KEY, "", "").await
    }

    pub async fn sim_post(&self, path: &str, body: &Value) -> Result<Value, Broke> {
        let url = format!("{}{path}", self.sim);
        self.send(Method::POST, &url, API_KEY, "application/json", &body.to_string()).await
    }

    /// A call of Stripe's API with a form: what an operator does in Stripe's Dashboard.
    pub async fn stripe(
        &self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<Value, Broke> {
        let mut form = String::new();
        for (name, value) in fields {
            let amp = if form.is_empty() { "" } else { "&" };
            write!(form, "{amp}{name}={value}")?;
        }
        let url = format!("{}{path}", self.sim);
        self.send(method, &url, API_KEY, "application/x-www-form-urlencoded", &form).await
    }

    /// Every object of a list of Stripe's, all pages.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Broke> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().map(|last| text(&last["id"])).transpose()?;
            let after = after.map_or_else(String::new, |id| format!("&starting_after={id}"));
            let page = self.sim_get(&format!("{path}limit=100{after}")).await?;
            all.extend(page["data"].as_array().cloned().unwrap_or_default());
            if page["has_more"] != true {
                return Ok(all);
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        key: &str,
        kind: &str,
        body: &str,
    ) -> Result<Value, Broke> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {key}"));
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let answer = self.http.send(request, Duration::from_secs(60), 256 << 20).await?;
        let status = answer.status();
        if !status.is_success() {
            let said = String::from_utf8_lossy(answer.body()).into_owned();
            return Err(format!("{url} answered {status}: {said}").into());
        }
        Ok(serde_json::from_slice(answer.body()).unwrap_or(Value::Null))
    }

    /// Stops billing and waits for its end.
    pub async fn stop(self) -> Result<(), Broke> {
        self.stop.cancel();
        Ok(self.worker.await??)
    }
}

/// Billing, on a thread and runtime of its own, as a process has them.
fn work(config: Config, stop: CancellationToken) -> JoinHandle<Result<(), String>> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime
            .block_on(billing::serve::serve(config, stop))
            .map_err(|error| billing::fold::chain(&error))
    })
}

fn settings(
    nats: &str,
    database: &str,
    sim: &str,
    listen: &str,
    plans: &Path,
    sell: &str,
) -> String {
    format!(
        "nats_url = \"{nats}\"\npostgres_url = \"{database}\"\nlisten = \"{listen}\"\nstripe_url = \"{sim}\"\n\
         stripe_api_key = \"{API_KEY}\"\nstripe_webhook_secrets = \"{SECRET}\"\noperator_token = \"{OPERATOR}\"\n\
         setup = true\nplans_dir = \"{}\"\nsell_plans = \"{sell}\"\nreports_per_s = 1000\nreports_in_flight = 16\n\
         statements_every_ms = 100\ncorrect_after_ms = 0\ngrace_days = 10\nnotice_days = \"0,3,7\"\n",
        plans.display()
    )
}

/// A text that must be there.
pub fn text(value: &Value) -> Result<String, Broke> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("not a text: {value}").into())
}
