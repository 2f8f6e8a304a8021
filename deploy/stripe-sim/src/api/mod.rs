//! One request to the Stripe side, from raw bytes to the answer, through the same gates in the same order as at Stripe.
//!
//! Gates: ordered faults, key, rate, version, route, parameters, idempotency, the meter event's slot; then the effect, at one instant,
//! with its check against the API description. Work goes on when the client hangs up, as it does at Stripe: that is what makes a
//! lost answer dangerous.

mod claims;
mod given;
pub mod reply;

use crate::app::App;
use crate::error::{ApiError, Dialect};
use crate::expand::expand;
use crate::faults::ApiFault;
use crate::ids;
use crate::journal::Entry;
use crate::params::Params;
use crate::resource::{self, API_VERSION, API_VERSIONS, Call, Handler, Origin, meter_stream};
use crate::schema::{Operation, spec};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use claims::Claims;
use given::Given;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use reply::Reply;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The largest body that is read, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// A request after its bytes are in.
struct Incoming {
    parts: http::request::Parts,
    body: Bytes,
    request_id: String,
}

impl Incoming {
    fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// The key of a request that can have one.
    fn idempotency_key(&self) -> Option<&str> {
        self.header("idempotency-key").filter(|_| self.parts.method == http::Method::POST)
    }
}

/// Serves every path outside `/_sim/`.
pub async fn serve(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request_id = app.world().ids.mint(ids::REQUEST);
    let version = parts
        .headers
        .get("stripe-version")
        .and_then(|value| value.to_str().ok())
        .unwrap_or(API_VERSION)
        .to_owned();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let dialect = Dialect::of(parts.uri.path());
            return Reply::error(&ApiError::too_large(BODY_LIMIT), dialect).into_response(
                &app,
                &request_id,
                &version,
                None,
            );
        }
        Err(_) => return reply::hang_up(), // The client broke off in the middle of its body.
    };
    let incoming = Incoming { parts, body, request_id };
    // A task of its own: a client that gives up waiting does not stop what it has begun.
    match tokio::spawn(process(app, incoming, version)).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => reply::hang_up(), // The runtime is ending.
        },
    }
}

async fn process(app: Arc<App>, incoming: Incoming, version: String) -> Response {
    let cleared = app.cleared.subscribe();
    let fault = app.world().faults.meet_request(incoming.parts.method.as_str(), incoming.path());
    let dialect = Dialect::of(incoming.path());
    let query = incoming.parts.uri.query().unwrap_or_default();
    let given = Given::read(dialect, query, &incoming.body);
    let params = given.as_ref().map_or(json!({}), Given::to_json);
    let reply = match fault {
        Some((ApiFault::LostBefore | ApiFault::Reset, _)) => {
            note(&app, &incoming, params, &Reply::nothing(), fault);
            let resets = matches!(fault, Some((ApiFault::Reset, _)));
            return if resets { reply::reset() } else { reply::hang_up() };
        }
        Some((ApiFault::LockTimeout, _)) => Reply::error(&ApiError::lock_timeout(), dialect),
        Some((ApiFault::Unavailable503, _)) => Reply::error(&ApiError::unavailable(), dialect),
        _ => answer(&app, &incoming, given, fault, cleared)
            .await
            .unwrap_or_else(|error| Reply::error(&error, dialect)),
    };
    check_error(&app, &reply, dialect);
    note(&app, &incoming, params, &reply, fault);
    match fault {
        Some((ApiFault::LostAfter, _)) => reply::hang_up(),
        _ => reply.into_response(&app, &incoming.request_id, &version, incoming.idempotency_key()),
    }
}

/// Passes the gates and does the work.
async fn answer(
    app: &Arc<App>,
    incoming: &Incoming,
    given: Result<Given, ApiError>,
    fault: Option<(ApiFault, u64)>,
    cleared: watch::Receiver<u64>,
) -> Result<Reply, ApiError> {
    authenticate(app, incoming)?;
    app.world().limiter.take(
        incoming.parts.method.as_str(),
        incoming.path(),
        app.clock.now_ms(),
    )?;
    check_version(incoming)?;
    if incoming.header("stripe-account").is_some() {
        return Err(refuse_as_not_simulated(app, "requests for a connected account"));
    }
    let (operation, id, handler) = route(app, incoming)?;
    let given = given?;
    let mut claims = match Claims::of_key(
        app,
        incoming.idempotency_key(),
        incoming.path(),
        &given.fingerprint(),
    )? {
        claims::Key::Replay(stored) => return Ok(Reply::replay(stored)),
        claims::Key::Ours(claims) => claims,
    };
    let Value::Object(parameters) = given.typed(operation)? else {
        unreachable!("parameters are an object by their schema")
    };
    claims.hold_slot(operation, &parameters)?;
    let origin = Origin {
        request_id: Some(incoming.request_id.clone()),
        idempotency_key: incoming.idempotency_key().map(str::to_owned),
    };
    match fault {
        Some((ApiFault::Stored500, _)) => {
            let error = ApiError::internal("An unexpected error occurred (ordered fault).");
            let reply = Reply::error(&error, Dialect::of(incoming.path()));
            claims.settle(&mut app.world().idempotency, &reply, &incoming.request_id);
            return Ok(reply);
        }
        Some((ApiFault::Slow, delay_ms)) => hold(cleared, delay_ms).await,
        _ => {}
    }
    Ok(app.act(origin, |call| {
        let (reply, is_stored) = effect(call, operation, handler, id, parameters);
        if is_stored {
            claims.settle(&mut call.world.idempotency, &reply, &incoming.request_id);
        }
        reply
    }))
}

/// Keeps a slow request waiting, until all orders are cleared at the latest.
async fn hold(mut cleared: watch::Receiver<u64>, delay_ms: u64) {
    // Neither outcome is an error: the time is over, or the orders were cleared.
    drop(tokio::time::timeout(Duration::from_millis(delay_ms), cleared.changed()).await);
}

/// Does the work of the endpoint and checks what it answers and tells. True: an idempotency key keeps the answer.
fn effect(
    call: &mut Call<'_>,
    operation: &Operation,
    handler: Handler,
    id: &str,
    mut parameters: Map<String, Value>,
) -> (Reply, bool) {
    let dialect = Dialect::of(&operation.template);
    let expansions = match parameters.remove("expand") {
        Some(Value::Array(paths)) => {
            paths.into_iter().filter_map(|path| path.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    };
    let answer = handler(call, id, Params::new(parameters)).and_then(|mut answer| {
        expand(call.world, &mut answer, &expansions)?;
        Ok(answer)
    });
    if let Err(error) = &answer
        && error.status == 501
    {
        call.world.tally.not_simulated += 1;
        call.world.tally.complain(error.message.clone());
    }
    let checked = answer
        .as_ref()
        .map_or(Ok(()), |answer| spec().check_answer(operation, answer))
        .and_then(|()| call.check_events());
    if let Err(complaint) = checked {
        call.world.tally.invalid_responses += 1;
        call.world.tally.complain(complaint.clone());
        let error =
            ApiError::internal(format!("stripe-sim broke the API description: {complaint}"));
        return (Reply::error(&error, dialect), true);
    }
    match answer {
        Ok(answer) => (Reply::ok(&answer), true),
        Err(error) => (Reply::error(&error, dialect), error.stored),
    }
}

fn authenticate(app: &App, incoming: &Incoming) -> Result<(), ApiError> {
    let given = incoming.header("authorization").and_then(reply::key_of);
    match given {
        Some(key) if key == app.config.api_key => Ok(()),
        Some(key) if incoming.path() == meter_stream::TEMPLATE => {
            let expires_at = app.world().store.stream_sessions.get(&key).copied();
            match expires_at {
                Some(at) if app.clock.now() < at => Ok(()),
                Some(_) => Err(ApiError::session_expired()),
                None => Err(ApiError::unauthorized("Invalid authentication token provided.")),
            }
        }
        Some(key) => Err(ApiError::unauthorized(format!(
            "Invalid API Key provided: {}",
            reply::redacted(&key)
        ))),
        None => Err(ApiError::unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth \
             (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        )),
    }
}

fn check_version(incoming: &Incoming) -> Result<(), ApiError> {
    match incoming.header("stripe-version") {
        Some(version) if !API_VERSIONS.contains(&version) => {
            let message = format!(
                "Invalid Stripe API version: {version}. stripe-sim speaks {}.",
                API_VERSIONS.join(" and ")
            );
            Err(ApiError::invalid("", message))
        }
        _ => Ok(()),
    }
}

fn route<'a>(
    app: &App,
    incoming: &'a Incoming,
) -> Result<(&'static Operation, &'a str, Handler), ApiError> {
    let (method, path) = (incoming.parts.method.as_str(), incoming.path());
    let Some((operation, id)) = spec().route(method, path) else {
        if spec().is_at_stripe(path) {
            return Err(refuse_as_not_simulated(app, &format!("{method} {path}")));
        }
        let mut world = app.world();
        world.tally.unvalidated_paths += 1;
        world.tally.complain(format!("no such path: {method} {path}"));
        return Err(ApiError::unrecognized(method, path));
    };
    match resource::handler(method, &operation.template) {
        Some(handler) => Ok((operation, id, handler)),
        None => Err(refuse_as_not_simulated(app, &format!("{method} {}", operation.template))),
    }
}

/// Counts what Stripe can do and the simulator cannot.
fn refuse_as_not_simulated(app: &App, what: &str) -> ApiError {
    let mut world = app.world();
    world.tally.not_simulated += 1;
    world.tally.complain(format!("not simulated: {what}"));
    ApiError::not_simulated(what)
}

/// Error envelopes are answers too.
fn check_error(app: &App, reply: &Reply, dialect: Dialect) {
    let complaint = match &reply.error {
        Some(envelope) => spec().check_component(dialect.component(), envelope).err(),
        None => None,
    };
    if let Some(complaint) = complaint {
        let mut world = app.world();
        world.tally.invalid_responses += 1;
        world.tally.complain(complaint);
    }
}

fn note(
    app: &App,
    incoming: &Incoming,
    params: Value,
    reply: &Reply,
    fault: Option<(ApiFault, u64)>,
) {
    let entry = Entry {
        seq: 0, // Given by the journal.
        at: app.clock.now(),
        method: incoming.parts.method.to_string(),
        path: incoming.path().to_owned(),
        params,
        idempotency_key: incoming.header("idempotency-key").map(str::to_owned),
        stripe_version: incoming.header("stripe-version").map(str::to_owned),
        request_id: incoming.request_id.clone(),
        status: reply.status,
        replayed: reply.replayed.is_some(),
        fault: fault.map(|(fault, _)| fault.as_str()),
    };
    app.world().journal.record(entry);
}
