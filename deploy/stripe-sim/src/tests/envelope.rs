//! Headers, keys, versions, routes and the form of refusals.

use super::*;

#[tokio::test]
async fn every_answer_carries_stripes_headers() {
    let sim = Sim::start().await;
    let reply = sim.post_keyed("/v1/customers", "email=a@b.c", "k1").await.unwrap();
    assert!(reply.header("request-id").unwrap().starts_with("req_"));
    assert_eq!(reply.header("stripe-version"), Some("2026-10-28.endive"));
    assert_eq!(reply.header("idempotency-key"), Some("k1"));
    assert_eq!(reply.header("original-request"), reply.header("request-id"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(
        reply.header("date"),
        Some("Fri, 20 Nov 2026 12:00:00 GMT"),
        "the date is the simulator's"
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_key_is_needed_as_bearer_or_basic() {
    let sim = Sim::start().await;
    let none = sim.send(Method::GET, "/v1/customers", &[], String::new()).await.unwrap();
    assert_eq!(none.refusal(), (401, "invalid_request_error", None, None));
    let wrong = [("authorization", "Bearer sk_test_somebody_else")];
    let wrong = sim.send(Method::GET, "/v1/customers", &wrong, String::new()).await.unwrap();
    assert_eq!(wrong.status, 401);
    assert!(!wrong.message().contains("sk_test_somebody"), "{}", wrong.message());
    let basic = [("authorization", "Basic c2tfdGVzdF9zdHJpcGVfc2ltOg==")];
    assert_eq!(
        sim.send(Method::GET, "/v1/customers", &basic, String::new()).await.unwrap().status,
        200
    );
    sim.assert_sound().await;
}

#[tokio::test]
async fn only_versions_with_the_same_objects_are_spoken() {
    let sim = Sim::start().await;
    let with = |version: &'static str| {
        let sim = &sim;
        async move {
            let headers = [("authorization", &*bearer()), ("stripe-version", version)];
            sim.send(Method::GET, "/v1/customers", &headers, String::new()).await.unwrap()
        }
    };
    let older = with("2026-09-30.endive").await;
    assert_eq!((older.status, older.header("stripe-version")), (200, Some("2026-09-30.endive")));
    assert_eq!(with("2024-06-20").await.status, 400);
}

#[tokio::test]
async fn an_unknown_path_is_404_and_counted() {
    let sim = Sim::start().await;
    let reply = sim.post("/v1/customer", "").await;
    assert_eq!(reply.refusal(), (404, "invalid_request_error", None, None));
    assert!(reply.message().starts_with("Unrecognized request URL (POST: /v1/customer)."));
    assert_eq!(sim.look("/health").await["unvalidated_paths"], 1);
}

#[tokio::test]
async fn what_stripe_knows_and_the_simulator_does_not_is_501_and_counted() {
    let sim = Sim::start().await;
    let path = sim.post("/v1/payment_intents", "amount=100&currency=usd").await;
    assert_eq!((path.status, path.header("stripe-should-retry")), (501, Some("false")));
    let parameter = sim.post("/v1/customers", "email=a@b.c&source=tok_1").await;
    assert_eq!(parameter.status, 501);
    assert!(parameter.message().contains("`source`"), "{}", parameter.message());
    assert_eq!(sim.get("/v1/customers").await.ok()["data"], json!([]), "a refusal changes nothing");
    assert_eq!(sim.look("/health").await["not_simulated"], 2);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let sim = Sim::start().await;
    let reply = sim.post("/v1/customers", &format!("name={}", "x".repeat(1 << 20))).await;
    assert_eq!(reply.status, 413);
    sim.assert_sound().await;
}

#[tokio::test]
async fn the_journal_shows_all_requests_and_no_secret() {
    let sim = Sim::start().await;
    sim.post_keyed("/v1/customers", "metadata[a]=b&expand[]=tax", "k1").await.unwrap();
    sim.get("/v1/customers?limit=3").await.ok();
    let journal = sim.look("/journal").await;
    assert_eq!(journal["recorded"], 2);
    let first = &journal["requests"][0];
    assert_eq!(
        (&first["method"], &first["path"], &first["idempotency_key"]),
        (&json!("POST"), &json!("/v1/customers"), &json!("k1"))
    );
    assert_eq!(first["params"], json!({ "metadata": { "a": "b" }, "expand": { "0": "tax" } }));
    assert_eq!(journal["requests"][1]["params"], json!({ "limit": "3" }));
    assert!(!journal.to_string().contains(DEFAULT_API_KEY));
    assert_eq!(sim.look("/journal?after=1").await["requests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_same_script_gives_the_same_bytes() {
    async fn script() -> Vec<Bytes> {
        let sim = Sim::with(|config| config.seed = 42).await;
        sim.look("/health").await; // Looks move no ids.
        let customer = sim.post_keyed("/v1/customers", "email=a@b.c", "k").await.unwrap();
        let meter = sim.meter().await;
        let event = format!(
            "event_name=calls&payload[stripe_customer_id]={}&payload[value]=5",
            id(&customer.body)
        );
        let event = sim.post("/v1/billing/meter_events", &event).await;
        let price = sim.metered_price(&meter).await;
        let subscription = format!("customer={}&items[0][price]={price}", id(&customer.body));
        let subscription = sim.post("/v1/subscriptions", &subscription).await;
        let events = sim.get("/v1/events?limit=100").await;
        [customer, event, subscription, events].map(|reply| reply.raw).to_vec()
    }
    assert_eq!(script().await, script().await);
}

#[tokio::test]
async fn what_stripe_has_and_the_simulator_has_not_is_501_and_counted() {
    let sim = Sim::start().await;
    for path in ["/v1/payment_intents", "/v1/subscription_schedules/sub_sched_1", "/v1/account"] {
        assert_eq!(sim.get(path).await.refusal(), (501, "api_error", None, None), "{path}");
    }
    for path in ["/v1/customers/", "/v1/customer", "/v3/customers", "/v1/invoiceitems/ii_1/x/"] {
        assert_eq!(sim.get(path).await.status, 404, "{path}");
    }
    assert_eq!(sim.delete("/v1/prices/price_1").await.status, 404, "nobody can delete a price");
    let health = sim.look("/health").await;
    assert_eq!((&health["not_simulated"], &health["unvalidated_paths"]), (&json!(3), &json!(5)));
}

#[tokio::test]
async fn an_empty_filter_is_refused_and_a_text_is_no_hash() {
    let sim = Sim::start().await;
    let empty = sim.get("/v1/customers?email=").await;
    let expect = (400, "invalid_request_error", Some("parameter_invalid_empty"), Some("email"));
    assert_eq!(empty.refusal(), expect);
    let text = sim.post("/v1/customers", "address=Rome").await;
    assert_eq!(text.message(), "Invalid object");
    sim.assert_sound().await;
}

#[tokio::test]
async fn a_connected_account_is_501() {
    let sim = Sim::start().await;
    let headers = [("authorization", &*bearer()), ("stripe-account", "acct_1")];
    let reply = sim.send(Method::GET, "/v1/customers", &headers, String::new()).await.unwrap();
    assert_eq!(reply.status, 501);
    assert_eq!(sim.look("/health").await["not_simulated"], 1);
}
