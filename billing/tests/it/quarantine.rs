//! What could not be worked on is listed, and replayed when it has been mended.

use schemas::{BillingMode, ControlFact, TenantId, subject};

use uuid::Uuid;

use crate::world::World;

async fn ask(world: &World, args: &[&str]) -> (bool, String, String) {
    world.command(&[&["quarantine"], args].concat(), &[]).await
}

fn created(tenant: TenantId) -> ControlFact {
    let (name, time_zone, billing) = ("Late".to_owned(), "UTC".to_owned(), BillingMode::Stripe);
    ControlFact::TenantCreated { tenant, name, time_zone, billing }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_an_unknown_tenant_is_replayed_when_the_tenant_is_there() {
    let world = World::new().await;
    let _billing = world.start().await;
    let (good, list, _) = ask(&world, &["list"]).await;
    assert!(good && list == "nothing is in quarantine\n", "{list}");
    let tenant = TenantId(Uuid::now_v7());
    let customer = world.stripe_post("/v1/customers", &format!("metadata[tenant]={tenant}")).await;
    let price = world.sim_get("/v1/prices").await["data"][0]["id"].as_str().unwrap().to_owned();
    let form = format!(
        "customer={}&items[0][price]={price}&billing_cycle_anchor_config[day_of_month]=1&billing_cycle_anchor_config[hour]=0\
         &billing_cycle_anchor_config[minute]=0&billing_cycle_anchor_config[second]=0",
        customer["id"].as_str().unwrap()
    );
    world.stripe_post("/v1/subscriptions", &form).await;
    world.until("it is set aside", async || !world.quarantined().await.is_empty()).await;
    world.until_worked().await;
    let seqs: Vec<i64> = sqlx::query_scalar("select seq from quarantine order by seq")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    let place = format!("STRIPE/{}", seqs[0]);
    let (_, list, _) = ask(&world, &["list"]).await;
    assert!(list.contains(&place) && list.contains("unknown_tenant"), "{list}");
    let (_, shown, _) = ask(&world, &["show", &place]).await;
    assert!(shown.contains(&format!("claims {tenant}")) && shown.contains("payload  {"), "{shown}");

    // Nothing is mended: it is set aside again, and that shows.
    let (good, _, said) = ask(&world, &["replay", &place]).await;
    assert!(!good && said.contains("it was set aside again: unknown_tenant"), "{said}");
    let tries: i32 = sqlx::query_scalar("select tries from quarantine order by seq limit 1")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!((tries, world.access(tenant).await), (1, None));

    world.decide(tenant, created(tenant)).await;
    let (good, shown, said) = ask(&world, &["replay", &place]).await;
    assert!(good && shown.contains("became   replayed"), "{shown}{said}");
    assert_eq!(world.access(tenant).await.as_deref(), Some("active: subscription active"));
    // What is decided is decided, and only `--all` lists it.
    let (good, _, said) = ask(&world, &["replay", &place]).await;
    assert!(!good && said.contains("it was replayed before"), "{said}");
    for other in &seqs[1..] {
        assert!(ask(&world, &["replay", &format!("STRIPE/{other}")]).await.0);
    }
    assert_eq!(ask(&world, &["list"]).await.1, "nothing is in quarantine\n");
    assert!(ask(&world, &["list", "--all"]).await.1.contains("replayed"));
    assert_eq!(
        world.decisions(tenant).await.len(),
        1,
        "one decision, however often it is looked at"
    );
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_decision_that_is_replayed_overwrites_nothing_newer() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = TenantId(Uuid::now_v7());
    let subject = billing::control::subscription_subject(tenant);
    let access = |access: schemas::Access, reason: &str| ControlFact::AccessChanged {
        tenant,
        access,
        reason: reason.to_owned(),
        subscription: None,
        plan: None,
    };
    let linked = || ControlFact::CustomerLinked {
        tenant,
        provider: "stripe".to_owned(),
        customer: "cus_x".to_owned(),
    };
    // A link of a tenant that is not there yet; then the tenant and a newer decision of it.
    let old = world.decision(tenant, vec![linked(), access(schemas::Access::Active, "old")]);
    let seq = world.publish(subject.clone(), serde_json::to_vec(&old).unwrap()).await;
    world.until("it is set aside", async || world.quarantined().await == ["link_refused"]).await;
    world.decide(tenant, created(tenant)).await;
    world.decide(tenant, access(schemas::Access::Suspended, "new")).await;
    let place = format!("CONTROL/{seq}");
    let (good, _, said) = ask(&world, &["replay", &place]).await;
    assert!(good, "{said}");
    let known = billing::store::tenant::read(&world.pool, tenant).await.unwrap().unwrap();
    assert_eq!(known.customer.as_deref(), Some("cus_x"), "what was set aside is done");
    assert_eq!(known.standing.unwrap().reason, "new", "what came later holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_the_ledger_is_replayed_without_moving_the_checkpoint() {
    let world = World::new().await;
    let _billing = world.start().await;
    let tenant = world.tenant(BillingMode::Stripe).await;
    world.subscribe(tenant).await;
    world.until("access", async || world.access(tenant).await.is_some()).await;
    // As an older build leaves it that could not read the message.
    let seq = world.seal(&[(tenant, crate::world::hour(1), 1, 5)]).await;
    world.until_all_accepted(1).await;
    world.sql("insert into quarantine (stream, seq, reason, detail, at_ms) select 'LOG', log_seq, 'unreadable', 'x', 0 from meter_report").await;
    world.sql("delete from meter_report").await;
    let later = world.seal(&[(tenant, crate::world::hour(0), 1, 7)]).await;
    world.until_all_accepted(1).await;
    let (good, _, said) = ask(&world, &["replay", &format!("LOG/{seq}")]).await;
    assert!(good, "{said}");
    world.until("both are there", async || world.totals(tenant).await["accepted"] == 12).await;
    let checkpoint = billing::store::checkpoint::Projection::Log;
    let (at, _) = billing::store::checkpoint::read(&world.pool, checkpoint).await.unwrap();
    assert_eq!(at, later);
    assert_eq!(world.stripe_total().await, (12, 2), "Stripe knew the first already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_discarded_says_why_and_stays_so() {
    let world = World::new().await;
    let _billing = world.start().await;
    let seq = world.publish(subject::ledger(schemas::Shard(0)), b"not json".to_vec()).await;
    world.until("it is set aside", async || world.quarantined().await == ["unreadable"]).await;
    let place = format!("LOG/{seq}");
    assert!(!ask(&world, &["discard", &place]).await.0, "why is asked for");
    assert!(!ask(&world, &["discard", &place, "--why", " "]).await.0);
    let (good, shown, _) = ask(&world, &["discard", &place, "--why", "a test of ours"]).await;
    assert!(good && shown.contains("became   discarded a test of ours"), "{shown}");
    assert_eq!(ask(&world, &["list"]).await.1, "nothing is in quarantine\n");
    let (good, _, said) = ask(&world, &["replay", &place]).await;
    assert!(!good && said.contains("it was discarded before"), "{said}");
    for nowhere in ["LOG/99", "OTHER/1"] {
        assert!(!ask(&world, &["show", nowhere]).await.0, "{nowhere}");
    }
}
