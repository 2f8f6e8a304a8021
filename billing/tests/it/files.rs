//! Usage that goes to a folder: the whole process without any Stripe.

use std::path::Path;

use http::StatusCode;
use schemas::{BillingMode, TenantId};
use serde_json::Value;
use stack::Part;

use crate::world::{World, hour};

/// Every report in a folder, as (customer, units), in order.
fn reports(folder: &Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "json") {
            let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let customer = report["customer"].as_str().unwrap().to_owned();
            all.push((customer, report["quantity"].as_u64().unwrap()));
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sealed_unit_is_in_the_folder_once_whatever_is_killed() {
    let world = World::new().await;
    let folder = world.folder("reports");
    let settings = [
        ("BILLING_PROVIDER", "file"),
        ("BILLING_REPORTS_DIR", folder.to_str().unwrap()),
        // Nothing is asked of Stripe.
        ("BILLING_STRIPE_URL", "http://127.0.0.1:1"),
        ("BILLING_STRIPE_API_KEY", ""),
        ("BILLING_STRIPE_WEBHOOK_SECRETS", ""),
    ];
    let mut billing = world.start_with(&settings).await;
    let mut tenants: Vec<TenantId> = Vec::new();
    for mode in [BillingMode::Stripe, BillingMode::None] {
        tenants.push(world.tenant(mode).await);
    }
    let mut expected = Vec::new();
    for round in 1..=3u64 {
        for tenant in &tenants {
            let lines: Vec<_> = (0..10).map(|ago| (*tenant, hour(ago), round, round)).collect();
            world.seal(&lines).await;
            expected.extend((0..10).map(|_| (tenant.to_string(), round)));
        }
        let some = expected.len() - 10;
        world.until("some are there", async || reports(&folder).len() >= some).await;
        billing.kill().await.unwrap();
        billing.start_again().await.unwrap();
    }
    world.until_all_accepted(60).await;
    expected.sort();
    assert_eq!(reports(&folder), expected);
    // The whole log again, from the beginning: nothing is new.
    billing.kill().await.unwrap();
    world.sql("update checkpoint set seq = 0").await;
    billing.start_again().await.unwrap();
    world.seal(&[(tenants[0], hour(0), 9, 5)]).await;
    world.until_all_accepted(61).await;
    assert_eq!(reports(&folder).len(), 61);
    assert_eq!(world.totals(tenants[0]).await["accepted"], 65);
    assert_eq!(world.totals(tenants[1]).await["accepted"], 60);
    assert_eq!(
        world.get("/billing/statements").await.0,
        StatusCode::NOT_FOUND,
        "nothing is sold here"
    );
    assert_eq!(world.quarantined().await, Vec::<String>::new());
    assert_eq!(world.sim_get("/_sim/meters/totals").await["grand_total"]["count"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_folder_it_does_not_start() {
    let world = World::new().await;
    let refused = world.try_start(&[("BILLING_PROVIDER", "file")]).await.err().unwrap();
    assert!(format!("{refused:?}").contains("REPORTS_DIR"), "{refused:?}");
}
