//! From sealed hours to Stripe's books.

use http::StatusCode;
use std::time::Duration;

use schemas::{BillingMode, ControlFact, Hour, LedgerFact, Timestamp, subject};
use serde_json::json;
use stack::Part;

use crate::world::{World, hour, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_units_reach_stripe_once_and_replays_change_nothing() {
    let world = World::new().await;
    let mut billing = world.start().await;
    let [early, last, this] = [hour(3), hour(1), hour(0)];
    let tenant = world.tenant(BillingMode::Stripe).await;
    let free = world.tenant(BillingMode::None).await;
    // Sealed before anybody has subscribed: it waits for its customer.
    world.seal(&[(tenant, early, 1, 4), (free, early, 1, 100)]).await;
    world
        .until("the early lines wait", async || {
            world.totals(tenant).await["pending"] == 4
                && world.totals(free).await["not_reportable"] == 100
        })
        .await;
    assert_eq!(world.stripe_total().await, (0, 0));

    let (customer, subscription) = world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.seal(&[(tenant, last, 1, 5), (tenant, this, 1, 2), (tenant, this, 2, 9)]).await;
    world.until("all is accepted", async || world.totals(tenant).await["accepted"] == 20).await;
    assert_eq!(world.stripe_total().await, (20, 4));
    let [decision] = world.decisions(tenant).await.try_into().expect("one decision, not more");
    let linked = ControlFact::CustomerLinked { tenant, provider: "stripe".into(), customer };
    assert_eq!((decision.by.as_str(), &decision.facts[0]), ("billing", &linked));
    let named = |fact: &ControlFact| matches!(fact, ControlFact::AccessChanged { subscription: Some(id), .. } if *id == subscription);
    assert!(decision.facts.iter().any(named));

    // Each event is dated in its own hour: at its start, or where the subscription began within it.
    let began = world.sim_get(&format!("/v1/subscriptions/{subscription}")).await["created"]
        .as_i64()
        .unwrap();
    let dated = |hour: Hour| {
        if Timestamp(began * 1000).hour() == hour { began } else { hour.start().0 / 1000 }
    };
    let events = world.sim_get("/_sim/meter_events").await["meter_events"].clone();
    let mut stamps: Vec<i64> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["timestamp"].as_i64().unwrap())
        .collect();
    stamps.sort_unstable();
    assert_eq!(stamps, [early, last, this, this].map(dated));

    // The whole log again, from the beginning.
    billing.kill().await.unwrap();
    sqlx::query("update checkpoint set seq = 0").execute(&world.pool).await.unwrap();
    billing.start_again().await.unwrap();
    let seq = world.seal(&[(tenant, this, 3, 1)]).await;
    world.until("the replay is done", async || world.totals(tenant).await["accepted"] == 21).await;
    let answer = world.get(&format!("/billing/reports?tenant_id={tenant}")).await.1;
    assert_eq!(answer["as_of"]["stream_seq"], seq);
    assert_eq!(world.stripe_total().await, (21, 5));
    world.until_worked().await;
    assert_eq!(world.decisions(tenant).await.len(), 1);
    assert_eq!(world.quarantined().await, Vec::<String>::new());
    world.assert_valid().await;
}

/// The ledger says which decisions it had taken in when it sealed; whoever is billed must be known by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_wait_for_the_decisions_that_stood_before_them() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    let ahead = world.messages_of(subject::CONTROL).await + 1;
    let decision = world.decision(tenant, vec![]);
    let taken = LedgerFact::ControlTaken { control_seq: ahead, decision };
    world.seal_with(vec![taken], &[(tenant, hour(1), 1, 5)]).await;
    let control = world
        .until_seen(Duration::from_secs(2), async || world.totals(tenant).await["pending"] == 5)
        .await;
    assert!(!control, "a line was taken before the decision it depends on");
    world.tenant(BillingMode::Stripe).await; // Any message: it is the one that the ledger had taken.
    world.until("the line is taken", async || world.totals(tenant).await["pending"] == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_comes_again_with_another_amount_stops_the_fold_and_nothing_else() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    let [last, this] = [hour(1), hour(0)];
    world.seal(&[(tenant, last, 1, 5)]).await;
    world.until_all_accepted(1).await;
    world.seal(&[(tenant, last, 1, 6), (tenant, this, 1, 1)]).await;
    world
        .until("it says so", async || {
            world.get("/ready").await.1["waits_for"]["collect"].is_string()
        })
        .await;
    assert_eq!(world.totals(tenant).await["accepted"], 5, "nothing of that message was taken");
    assert_eq!(world.stripe_total().await, (5, 1));
    // Webhooks are worked on all the same.
    let other = world.tenant(BillingMode::Stripe).await;
    world.subscribe(other).await;
    world.until("access", async || world.access(other).await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.publish("ledger.0".to_owned(), b"{not json".to_vec()).await;
    world.publish("control.tenant.x".to_owned(), b"{}".to_vec()).await;
    world.seal(&[(tenant, hour(1), 1, 0)]).await;
    world.seal(&[(tenant, hour(1), 1, 3)]).await;
    world.until_all_accepted(1).await;
    assert_eq!(world.quarantined().await, ["unreadable"; 3]);
    assert_eq!(world.stripe_total().await, (3, 1));
}

/// Rows whose end is unknown and whose day is over are settled by Stripe's own sums.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_of_a_day_ago_is_settled_by_stripes_books() {
    let world = World::new().await;
    let mut billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.seal(&[(tenant, hour(30), 1, 5), (tenant, hour(29), 1, 7)]).await;
    world.until_all_accepted(2).await;
    billing.kill().await.unwrap();

    // The one that arrived and one that did not, both left in doubt a day ago.
    let (old, due) = (now().plus_ms(-24 * 3_600_000).0, now().0);
    let doubt = "update meter_report set state = 'ambiguous', first_sent_at_ms = $1, last_sent_at_ms = $1, due_at_ms = $2";
    sqlx::query(doubt).bind(old).bind(due).execute(&world.pool).await.unwrap();
    let sealed = hour(28);
    let insert = "insert into meter_report (tenant_id, meter, hour, segment, revision, quantity, log_seq, event_s, customer, identifier,
                    state, first_sent_at_ms, last_sent_at_ms, attempts, due_at_ms)
                  select tenant_id, meter, $1, 0, 9, 11, 1, $1 * 3600, customer, 'tb1:never-arrived', 'ambiguous', $2, $2, 1, $3
                  from meter_report limit 1";
    sqlx::query(insert).bind(sealed.0).bind(old).bind(due).execute(&world.pool).await.unwrap();

    let before = world.sim_get("/_sim/journal?path=/v1/billing/meter_events").await["requests"]
        .as_array()
        .unwrap()
        .len();
    billing.start_again().await.unwrap();
    world.until_all_accepted(3).await;
    assert_eq!(world.stripe_total().await, (23, 3));
    let after = world.sim_get("/_sim/journal?path=/v1/billing/meter_events").await["requests"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(after - before, 1, "only the one that had not arrived was sent again");
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_operator_asks_and_gets_clear_answers() {
    let world = World::new().await;
    let _billing = world.start().await;
    let free = world.tenant(BillingMode::None).await;
    let wanted =
        |tenant: &str| json!({ "tenant_id": tenant, "success_url": "https://example.com" });
    let unknown = "tnt_00000000000000000000000000000009";
    let (status, problem) = world.post("/billing/checkout", Some("wrong"), &wanted(unknown)).await;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("/problems/unauthorized"))
    );
    let (status, problem) =
        world.post("/billing/checkout", Some(crate::world::OPERATOR), &wanted(unknown)).await;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::NOT_FOUND, Some("/problems/no-tenant"))
    );
    let (status, _) = world
        .post("/billing/checkout", Some(crate::world::OPERATOR), &wanted(&free.to_string()))
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    for body in [
        json!({}),
        json!({ "tenant_id": "x", "success_url": "https://e" }),
        json!({ "tenant_id": unknown, "success_url": "javascript:x" }),
    ] {
        assert_eq!(
            world.post("/billing/checkout", Some(crate::world::OPERATOR), &body).await.0,
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    assert_eq!(world.get("/billing/reports?tenant_id=x").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/billing/reports").await.0, StatusCode::BAD_REQUEST);
    let url = format!("{}/billing/reports?tenant_id={unknown}", world.billing);
    assert_eq!(world.send(http::Method::GET, &url, &[], "").await.0, StatusCode::UNAUTHORIZED);
}
