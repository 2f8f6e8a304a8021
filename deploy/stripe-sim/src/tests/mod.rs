//! Tests over real HTTP on a free port. Each test has a simulator of its own, with the clock frozen at [`NOW`].

mod alerts;
mod cards;
mod changes;
mod checkout;
mod clients;
mod coupons;
mod credits;
mod entitlements;
mod envelope;
mod faults;
mod idempotency;
mod invoices;
mod late;
mod lives;
mod meters;
mod previews;
mod resources;
mod subscriptions;
mod test_clocks;
mod thresholds;
mod v2;
mod webhooks;

use crate::config::{Config, DEFAULT_API_KEY};
use crate::server::Server;
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;

/// 2026-11-20T12:00:00Z.
pub const NOW: i64 = 1_795_176_000;

pub struct Sim {
    server: Server,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub raw: Bytes,
}

impl Reply {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// `(status, type, code, param)` of an error.
    pub fn refusal(&self) -> (u16, &str, Option<&str>, Option<&str>) {
        let error = &self.body["error"];
        (
            self.status,
            error["type"].as_str().unwrap(),
            error["code"].as_str(),
            error["param"].as_str(),
        )
    }

    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Sim {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            freeze_at: Some(NOW),
            webhook_backoff_ms: 1,
            ..Config::default()
        };
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        Self { server, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Reply, String> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server.address()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .client
            .request(request.body(Full::from(body)).unwrap())
            .await
            .map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let raw = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let body = serde_json::from_slice(&raw).unwrap_or(Value::Null);
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body, raw })
    }

    pub async fn post(&self, path: &str, form: &str) -> Reply {
        self.send(Method::POST, path, &[("authorization", &bearer())], form.to_owned())
            .await
            .unwrap()
    }

    pub async fn post_keyed(&self, path: &str, form: &str, key: &str) -> Result<Reply, String> {
        let headers = [("authorization", &*bearer()), ("idempotency-key", key)];
        self.send(Method::POST, path, &headers, form.to_owned()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[("authorization", &bearer())], String::new()).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[("authorization", &bearer())], String::new())
            .await
            .unwrap()
    }

    pub async fn control(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send(Method::POST, &format!("/_sim{path}"), &headers, body.to_string()).await.unwrap()
    }

    pub async fn look(&self, path: &str) -> Value {
        self.send(Method::GET, &format!("/_sim{path}"), &[], String::new()).await.unwrap().ok()
    }

    pub async fn advance(&self, seconds: i64) {
        self.control("/clock", &json!({ "advance": seconds })).await.ok();
    }

    pub async fn settings(&self, change: Value) {
        self.control("/settings", &change).await.ok();
    }

    pub async fn card(&self, customer: &str, outcome: &str, times: Option<u32>) {
        let mut body = json!({ "outcome": outcome });
        if let Some(times) = times {
            body["times"] = json!(times);
        }
        self.control(&format!("/customers/{customer}/card"), &body).await.ok();
    }

    /// Reports usage of the meter `calls`.
    pub async fn used(&self, customer: &str, value: &str, at: i64) {
        let form = format!(
            "event_name=calls&payload[stripe_customer_id]={customer}&payload[value]={value}&timestamp={at}"
        );
        self.post("/v1/billing/meter_events", &form).await.ok();
    }

    /// The types of the latest events, oldest first.
    pub async fn latest_events(&self, count: usize) -> Vec<String> {
        let events = self.get(&format!("/v1/events?limit={count}")).await.ok();
        let types = events["data"].as_array().unwrap().iter().rev();
        types.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    pub async fn status_of(&self, subscription: &str) -> String {
        let row = self.get(&format!("/v1/subscriptions/{subscription}")).await.ok();
        row["status"].as_str().unwrap().to_owned()
    }

    /// The invoices of a subscription, newest first.
    pub async fn invoices_of(&self, subscription: &str) -> Vec<Value> {
        let path = format!("/v1/invoices?subscription={subscription}&limit=100");
        self.get(&path).await.ok()["data"].as_array().unwrap().clone()
    }

    /// Holds the next POST to `path` before its effect, until [`Sim::release`].
    pub async fn hold(&self, path: &str) {
        let rule = json!({ "kind": "slow", "method": "POST", "path": path, "delay_ms": 3_600_000 });
        self.control("/faults", &json!({ "api": [rule] })).await.ok();
    }

    /// Waits until the held request has come.
    pub async fn held(&self) {
        self.until("/faults", |faults| faults["api"] == json!([])).await;
    }

    pub async fn release(&self) {
        self.send(Method::DELETE, "/_sim/faults", &[], String::new()).await.unwrap().ok();
    }

    /// The self-check found nothing: every request was known and every answer fits the API description.
    pub async fn assert_sound(&self) {
        let health = self.look("/health").await;
        let counts = ["unvalidated_paths", "invalid_responses", "not_simulated"]
            .map(|name| health[name].as_u64().unwrap());
        assert_eq!(counts, [0, 0, 0], "{health}");
    }

    pub async fn customer(&self) -> String {
        id(&self.post("/v1/customers", "email=buyer@example.test").await.ok())
    }

    pub async fn meter(&self) -> String {
        let form = "display_name=Calls&event_name=calls&default_aggregation[formula]=sum";
        id(&self.post("/v1/billing/meters", form).await.ok())
    }

    pub async fn product(&self) -> String {
        id(&self.post("/v1/products", "name=Tool+calls").await.ok())
    }

    /// A monthly price of one cent a call.
    pub async fn metered_price(&self, meter: &str) -> String {
        let form = format!(
            "currency=usd&unit_amount=1&product_data[name]=Calls&recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}"
        );
        id(&self.post("/v1/prices", &form).await.ok())
    }

    /// A monthly price of ten dollars.
    pub async fn licensed_price(&self) -> String {
        let form =
            "currency=usd&unit_amount=1000&product_data[name]=Seat&recurring[interval]=month";
        id(&self.post("/v1/prices", form).await.ok())
    }

    /// Waits until a look at the simulator satisfies `done`, at most ten seconds.
    pub async fn until(&self, path: &str, done: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2_000 {
            let seen = self.look(path).await;
            if done(&seen) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{path} never came to what was awaited: {}", self.look(path).await);
    }
}

pub fn bearer() -> String {
    format!("Bearer {DEFAULT_API_KEY}")
}

#[track_caller]
pub fn id(document: &Value) -> String {
    document["id"].as_str().unwrap().to_owned()
}

/// Ids of a list's rows.
pub fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(id).collect()
}
