//! Kill -9 at the points where money could be lost or doubled.

use http::StatusCode;
use schemas::BillingMode;
use serde_json::json;
use stack::{Part, ports};

use crate::{
    proxy::{Hold, Proxy},
    world::{METER_EVENTS, World, hour},
};

/// Kills billing while a meter event is held, starts it again and checks that it counted once.
async fn killed_while(hold: Hold) {
    let world = World::new().await;
    let proxy = Proxy::start(&world.sim, "POST /v1/billing/meter_events ", hold).await;
    let url = proxy.url();
    let mut billing = world.start_with(&[("BILLING_STRIPE_URL", &url)]).await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.seal(&[(tenant, hour(1), 1, 5), (tenant, hour(0), 2, 7)]).await;

    let mut held = proxy.held.clone();
    held.wait_for(|held| *held > 0).await.unwrap();
    let effects = if hold == Hold::Answers { (5, 1) } else { (0, 0) };
    assert_eq!(world.stripe_total().await, effects, "held at the wrong place");
    let sent: i64 = sqlx::query_scalar("select count(*) from meter_report where state = 'sent'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(sent, 1, "written ahead, and one at a time");
    billing.kill().await.unwrap();
    proxy.cut_and_release().await;

    billing.start_again().await.unwrap();
    world.until_all_accepted(2).await;
    assert_eq!(world.stripe_total().await, (12, 2));
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_write_ahead_and_send_loses_nothing() {
    killed_while(Hold::Requests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_effect_and_mark_counts_nothing_twice() {
    killed_while(Hold::Answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_stripes_side_breaks_each_unit_counts_once() {
    let world = World::new().await;
    let _billing = world.start().await;
    // A lane for each fault, so that each is met by the first send of a row.
    let faults = ["lost_after", "lost_after", "lost_before", "unavailable_503", "stored_500"];
    let mut lines = Vec::new();
    for units in (1u64..).take(faults.len()) {
        let tenant = world.tenant(BillingMode::Stripe).await;
        world.subscribe(tenant).await;
        lines.extend([(tenant, hour(1), 1, units), (tenant, hour(0), 1, 10 * units)]);
    }
    let order = |kind| json!({ "kind": kind, "method": "POST", "path": METER_EVENTS });
    world.faults(json!({ "api": faults.map(order) })).await;
    world.seal(&lines).await;
    world.until_all_accepted(10).await;
    assert_eq!(world.stripe_total().await, (165, 10));
    assert_eq!(world.totals(lines[0].0).await["accepted"], 11);
    let faults = world.sim_get("/_sim/faults").await;
    assert_eq!(faults["api"], json!([]), "every fault was met");
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_it_ends_exact() {
    let world = World::new().await;
    let mut billing = world.start().await;
    let mut expected = (0, 0);
    let mut tenants = Vec::new();
    for _ in 0..3 {
        let tenant = world.tenant(BillingMode::Stripe).await;
        world.subscribe(tenant).await;
        tenants.push(tenant);
    }
    for round in 1..=6 {
        for (place, tenant) in tenants.iter().enumerate() {
            let units = round * 10 + u64::try_from(place).unwrap();
            let lines: Vec<_> = (0..12).map(|ago| (*tenant, hour(ago), round, units)).collect();
            world.seal(&lines).await;
            expected = (expected.0 + 12 * units, expected.1 + 12);
        }
        // Some have arrived, others are anywhere on their way.
        let enough = i64::try_from(expected.1).unwrap() - 25;
        world
            .until("a part is accepted", async || {
                let states = world.states().await;
                states.iter().any(|(state, rows)| state == "accepted" && *rows >= enough)
            })
            .await;
        billing.kill().await.unwrap();
        billing.start_again().await.unwrap();
    }
    world.until_all_accepted(i64::try_from(expected.1).unwrap()).await;
    assert_eq!(world.stripe_total().await, expected);
    for tenant in tenants {
        assert_eq!(world.access(tenant).await.as_deref(), Some("active: subscription active"));
    }
    world.assert_valid().await;
}

/// Two processes stand ready; whichever works is killed, the other goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over_and_nothing_counts_twice() {
    let world = World::new().await;
    let mut first = world.start().await;
    let other = ports::free().unwrap();
    let mut second = world.try_start_at("billing-2", other, &[]).await.unwrap();
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    let mut units = 0;
    for round in 1..=4 {
        let lines: Vec<_> = (0..20).map(|ago| (tenant, hour(ago), round, round)).collect();
        world.seal(&lines).await;
        units += 20 * round;
        // The first has the lock at the beginning; killed, it comes back and stands by, and so on.
        let worker = if round % 2 == 1 { &mut first } else { &mut second };
        let done = i64::try_from(20 * round - 15).unwrap();
        world.until("some are accepted", async || world.accepted().await >= done).await;
        worker.kill().await.unwrap();
        world.until("the other goes on", async || world.accepted().await >= done + 10).await;
        worker.start_again().await.unwrap();
    }
    world.until_all_accepted(80).await;
    assert_eq!(world.stripe_total().await, (units, 80));
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_and_the_database_may_die_under_it() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    world.seal(&(0..20).map(|ago| (tenant, hour(ago), 1, 3)).collect::<Vec<_>>()).await;
    world.until("some are accepted", async || world.accepted().await >= 3).await;
    let event = json!({ "id": "evt_1", "object": "event", "type": "a.type", "livemode": false });

    let mut parts = world.parts.lock().await;
    parts.1.kill().await.unwrap();
    // The door needs only the log.
    assert_eq!(world.deliver(&event).await, StatusCode::OK);
    parts.1.start_again().await.unwrap();
    parts.0.kill().await.unwrap();
    assert_eq!(
        world.deliver(&event).await,
        StatusCode::SERVICE_UNAVAILABLE,
        "Stripe must come again"
    );
    parts.0.start_again().await.unwrap();
    world
        .until("the door is open again", async || world.deliver(&event).await == StatusCode::OK)
        .await;
    world.seal(&[(tenant, hour(1), 2, 1)]).await;
    world.until_all_accepted(21).await;
    assert_eq!(world.stripe_total().await, (61, 21));
    world.until_worked().await;
    world.assert_valid().await;
}
