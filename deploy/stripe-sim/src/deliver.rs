//! Sends owed webhooks: at least once, in no order, with back-off until the receiver answers 2xx.
//!
//! Each delivery is a task; how many are on the wire at once is bounded. Waits are real time, since a frozen clock must not stop
//! them; stamps are the simulator's. A redirect is a failure, as at Stripe. When the simulator ends, open deliveries end with it.

use crate::app::App;
use crate::clock::http_date;
use crate::config;
use crate::faults::DeliveryFault;
use crate::sign;
use crate::store::deliveries::{Attempt, State};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, USER_AGENT};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// The longest wait between two attempts.
const BACKOFF_LIMIT_MS: u64 = 5_000;
/// How old a stale stamp is, in seconds: twice what receivers bear.
const STALE_S: i64 = 600;
/// How long a reordered delivery waits at most when the rule does not say.
const REORDER_MS: u64 = 2_000;

/// Takes deliveries to send.
pub struct Courier {
    due: mpsc::UnboundedSender<String>,
}

impl Courier {
    /// A courier and the end that [`run`] reads.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (due, queue) = mpsc::unbounded_channel();
        (Self { due }, queue)
    }

    /// Owes these deliveries. After the runner has ended, nobody sends them: the simulator is going down.
    pub fn send(&self, deliveries: Vec<String>) {
        for id in deliveries {
            if self.due.send(id).is_err() {
                tracing::debug!("a webhook came due while the simulator was ending");
            }
        }
    }
}

/// What all deliveries share.
struct Carrier {
    app: Arc<App>,
    client: Client<HttpConnector, Full<Bytes>>,
    on_the_wire: Semaphore,
    /// Counts deliveries that ended; reordered ones wait for it to move.
    ended: watch::Sender<u64>,
}

/// Sends deliveries until the queue closes.
pub async fn run(app: Arc<App>, mut queue: mpsc::UnboundedReceiver<String>) {
    let on_the_wire = Semaphore::new(usize::from(app.config.webhook_concurrency));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let carrier = Arc::new(Carrier { app, client, on_the_wire, ended: watch::Sender::new(0) });
    let mut tasks = JoinSet::new(); // Dropped with this future: no delivery outlives the simulator.
    loop {
        tokio::select! {
            due = queue.recv() => match due {
                Some(id) => drop(tasks.spawn(deliver(Arc::clone(&carrier), id))),
                None => return,
            },
            Some(result) = tasks.join_next() => {
                if let Err(error) = result {
                    tracing::error!(error = &error as &dyn std::error::Error, "a delivery task failed");
                }
            }
        }
    }
}

async fn deliver(carrier: Arc<Carrier>, id: String) {
    let fault = carrier.begin(&id);
    match fault {
        Some((DeliveryFault::Drop, _)) => {
            carrier.end(&id, State::Dropped);
            return;
        }
        Some((DeliveryFault::Delay, ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some((DeliveryFault::Reorder, ms)) => {
            carrier.wait_for_another(if ms == 0 { REORDER_MS } else { ms }).await;
        }
        _ => {}
    }
    let mut backoff_ms = carrier.app.config.webhook_backoff_ms;
    for number in 1..=carrier.app.config.webhook_attempts {
        let now = match fault {
            Some((fault @ (DeliveryFault::WrongSignature | DeliveryFault::StaleStamp), _)) => {
                (number == 1).then_some(fault)
            }
            Some((fault @ (DeliveryFault::UnknownType | DeliveryFault::MissingFields), _)) => {
                Some(fault)
            }
            _ => None,
        };
        let Some(taken) = carrier.attempt(&id, now).await else { break };
        if taken {
            if matches!(fault, Some((DeliveryFault::Duplicate, _))) {
                carrier.attempt(&id, Some(DeliveryFault::Duplicate)).await;
            }
            carrier.end(&id, State::Delivered);
            return;
        }
        if !carrier.reaches(&id) {
            break; // It would be the same each time.
        }
        tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
        backoff_ms = (backoff_ms * 2).min(BACKOFF_LIMIT_MS);
    }
    carrier.end(&id, State::Failed);
}

/// One message, ready to go.
struct Message {
    url: String,
    /// Two while one is being rolled.
    secrets: Vec<String>,
    event: Value,
}

impl Carrier {
    /// Meets the ordered fault of a new delivery.
    fn begin(&self, id: &str) -> Option<(DeliveryFault, u64)> {
        let mut world = self.app.world();
        let event_type = world.deliveries.get(id)?.event_type.clone();
        let fault = world.faults.meet_delivery(&event_type);
        if let Some(delivery) = world.deliveries.get_mut(id) {
            delivery.fault = fault.map(|(fault, _)| fault.as_str());
        }
        fault
    }

    fn end(&self, id: &str, state: State) {
        if let Some(delivery) = self.app.world().deliveries.get_mut(id) {
            delivery.state = state;
        }
        self.ended.send_modify(|count| *count += 1);
    }

    async fn wait_for_another(&self, at_most_ms: u64) {
        let mut ended = self.ended.subscribe();
        // Neither outcome is an error: another delivery ended, or none did in time.
        drop(tokio::time::timeout(Duration::from_millis(at_most_ms), ended.changed()).await);
    }

    /// False for an endpoint that is not on this machine.
    fn reaches(&self, id: &str) -> bool {
        self.message(id).is_some_and(|message| config::webhook_url(&message.url).is_ok())
    }

    /// The message as of now, or `None` once the endpoint is gone or disabled.
    fn message(&self, id: &str) -> Option<Message> {
        let world = self.app.world();
        let delivery = world.deliveries.get(id)?;
        let store = &world.store;
        let endpoint =
            store.endpoints.get(&delivery.endpoint).or(store.destinations.get(&delivery.endpoint));
        let endpoint = endpoint.filter(|row| row["status"] == "enabled")?;
        let secrets =
            store.endpoint_secrets.get(&delivery.endpoint)?.valid_at(self.app.clock.now());
        let event = store.events.get(&delivery.event).or(store.notifications.get(&delivery.event));
        let mut event = event?.clone();
        if !endpoint["api_version"].is_null() {
            event["api_version"] = endpoint["api_version"].clone();
        }
        let url = endpoint["url"].as_str()?.to_owned();
        Some(Message { url, secrets, event })
    }

    /// Sends once and records how it went. True: the receiver took it.
    async fn attempt(&self, id: &str, fault: Option<DeliveryFault>) -> Option<bool> {
        let mut message = self.message(id)?;
        let mut signed_at = self.app.clock.wire_now();
        match fault {
            Some(DeliveryFault::WrongSignature) => {
                message.secrets = vec!["whsec_not_the_secret".to_owned()];
            }
            Some(DeliveryFault::StaleStamp) => signed_at -= STALE_S,
            Some(DeliveryFault::UnknownType) => {
                message.event["type"] = "stripe_sim.unknown_type".into();
            }
            Some(DeliveryFault::MissingFields) => {
                drop_nulls(&mut message.event);
            }
            _ => {}
        }
        let body = pretty(&message.event);
        let fault = fault.map(DeliveryFault::as_str);
        let request = http::Request::post(&message.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header(USER_AGENT, "Stripe/1.0 (stripe-sim)")
            .header(DATE, http_date(self.app.clock.wire_now()))
            .header("Stripe-Signature", sign::header(&message.secrets, signed_at, &body))
            .body(Full::new(body))
            .expect("a checked URL and ASCII headers make a request");
        let outcome = match config::webhook_url(&message.url) {
            Ok(_) => self.post(request).await,
            Err(why) => Err(format!("not sent: {why}")),
        };
        let taken = matches!(outcome, Ok(200..=299));
        let attempt = match outcome {
            Ok(status) => Attempt { signed_at, status: Some(status), error: None, fault },
            Err(error) => Attempt { signed_at, status: None, error: Some(error), fault },
        };
        if let Some(delivery) = self.app.world().deliveries.get_mut(id) {
            delivery.attempts.push(attempt);
        }
        Some(taken)
    }

    async fn post(&self, request: http::Request<Full<Bytes>>) -> Result<u16, String> {
        let _permit = self.on_the_wire.acquire().await.map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| chain(&error))?;
            let status = response.status().as_u16();
            // The body is read so that the connection can be used again; what it says is nobody's matter.
            response.into_body().collect().await.map_err(|error| chain(&error))?;
            Ok(status)
        };
        let limit_ms = self.app.config.webhook_timeout_ms;
        let timed = tokio::time::timeout(Duration::from_millis(limit_ms), exchange).await;
        timed.unwrap_or_else(|_| Err(format!("no answer within {limit_ms} ms")))
    }
}

/// Leaves out what is null, at any depth.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(rows) => rows.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// JSON as Stripe sends it, indented: a receiver that verifies a re-encoded body finds out.
pub fn pretty(value: &Value) -> Bytes {
    let mut body = serde_json::to_vec_pretty(value).expect("a JSON value is always encodable");
    body.push(b'\n');
    Bytes::from(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_nulls_are_left_out() {
        let mut value = json!({ "a": null, "b": [{ "c": null, "d": 0 }], "e": "" });
        drop_nulls(&mut value);
        assert_eq!(value, json!({ "b": [{ "d": 0 }], "e": "" }));
    }

    #[test]
    fn bodies_are_indented() {
        assert_eq!(pretty(&json!({ "a": 1 })), Bytes::from_static(b"{\n  \"a\": 1\n}\n"));
    }
}
