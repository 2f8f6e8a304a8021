//! Other rules beside the real ones: `what-if`, drafts that are rated as a shadow, and that no bill follows from them.

use schemas::TenantId;
use serde_json::{Value, json};

use crate::{
    statements::{SOON, edge},
    world::World,
};

/// A plan like the settings', but twenty times as dear.
fn draft() -> Value {
    let price = json!({ "model": "per_unit", "amount": "20", "per": 1000 });
    let charge = json!({ "charge": "tool-calls", "meter": "tool_calls", "price": price });
    json!({
        "v": 1, "plan": "payg-usd-100", "version": 1, "title": "A draft",
        "prices": { "usd": { "charges": [charge] } },
    })
}

async fn shadow(world: &World, query: &str) -> Vec<Value> {
    let answer = world.get(&format!("/billing/shadow{query}")).await.1;
    answer["shadow"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_rated_beside_every_bill_and_changes_none() {
    let world = World::new().await;
    let drafts = world.folder("drafts");
    std::fs::write(drafts.join("payg.json"), draft().to_string()).unwrap();
    let settings = [SOON[0], SOON[1], ("BILLING_SHADOW_PLANS_DIR", drafts.to_str().unwrap())];
    let _billing = world.start_with(&settings).await;
    let (tenant, subscription) = world.a_month_has_ended().await;
    let closed = world.until_statement(tenant, "ties", 0).await;
    world.until("a difference is a row", async || shadow(&world, "").await.len() == 1).await;
    let row = shadow(&world, &format!("?tenant_id={tenant}")).await.remove(0);
    // 12 calls: 24 cents by the draft, 1 cent as billed.
    let cents = ["total_minor", "was_minor", "difference_minor"].map(|name| row[name].as_i64());
    assert_eq!(cents, [Some(24), Some(1), Some(23)]);
    assert_eq!((&row["subscription"], &row["to_ms"]), (&json!(subscription), &json!(edge().0)));
    assert_eq!(row["same"], false);
    let nobody = TenantId(uuid::Uuid::nil());
    assert_eq!(shadow(&world, &format!("?tenant_id={nobody}")).await, Vec::<Value>::new());

    // The same rules from another process: one that serves and one that goes through once do not count twice.
    let folder = [("BILLING_SHADOW_PLANS_DIR", drafts.to_str().unwrap())];
    assert!(world.command(&["shadow"], &folder).await.0);
    assert_eq!(shadow(&world, "?all=true").await.len(), 1);
    // The rules that bill are a shadow of themselves, the same to the last byte.
    let (good, _, said) = world.command(&["shadow"], &[]).await;
    assert!(good, "{said}");
    let all = shadow(&world, "?all=true").await;
    assert_eq!(all.len(), 2);
    let own = all.iter().find(|one| one["rules"] != row["rules"]).unwrap();
    assert_eq!((&own["same"], &own["difference_minor"]), (&json!(true), &json!(0)));
    assert_eq!(shadow(&world, "").await.len(), 1, "what is the same is not listed");
    // Nothing real has moved.
    assert_eq!(world.statements(tenant).await, [closed]);
    assert_eq!(world.closed().await.len(), 1);
    world.assert_valid().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_if_tells_what_each_period_would_have_cost() {
    let world = World::new().await;
    let _billing = world.start_with(&SOON).await;
    let (tenant, subscription) = world.a_month_has_ended().await;
    world.until_statement(tenant, "ties", 0).await;
    let day = |ms: i64| edge().plus_ms(ms).to_utc().format("%Y-%m-%d").to_string();
    let (from, to) = (day(-40 * 86_400_000), day(0));
    let ask = async |more: &[&str], from: &str, to: &str| {
        let args = [&["what-if", "--from", from, "--to", to][..], more].concat();
        world.command(&args, &[]).await
    };
    let (good, table, said) = ask(&["--plan", "enterprise@1"], &from, &to).await;
    assert!(good, "{said}");
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    let cells: Vec<&str> = rows[1].split(',').collect();
    assert_eq!((cells[0], cells[1]), (tenant.to_string().as_str(), subscription.as_str()));
    assert_eq!((cells[4], cells[5], cells[6]), ("usd", "12", "enterprise@1"));
    let number = |place: usize| cells[place].parse::<i64>().unwrap();
    assert_eq!((number(7) - number(8), number(8)), (number(9), 1), "{table}");
    assert!(number(9) > 0, "{table}");
    // Without a plan: the same bill again, to the byte.
    let (_, table, _) = ask(&[], &from, &to).await;
    assert!(table.lines().nth(1).unwrap().ends_with(",own,1,1,0,true,"), "{table}");
    // Another span holds nothing, and an unknown plan is refused.
    assert_eq!(ask(&[], &to, &day(86_400_000)).await.1.lines().count(), 1);
    let (good, _, said) = ask(&["--plan", "gold@7"], &from, &to).await;
    assert!(!good && said.contains("plan gold@7 is not in the book"), "{said}");
    // It only looked.
    assert_eq!(world.closed().await.len(), 1);
    world.assert_valid().await;
}
