//! Usage as the API tells it: from ClickHouse, with the ledger's count beside it and as of when.

use http::StatusCode;
use schemas::{Shard, TenantId};
use serde_json::{Value, json};

use crate::world::World;

/// 2026-11-20T20:00Z.
const HOUR: i64 = 498_668;

#[tokio::test]
async fn usage_is_told_by_cell_with_totals_the_ledgers_count_and_as_of_when() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let (tenant, project, key, _) = admin.tenant_project_key().await;
    let (other, ..) = admin.tenant_project_key().await;
    let ids = (tenant.as_str(), project.as_str(), key.as_str());
    let odd = "it's \\ tab\t zürich";
    world.add_cell(ids, "search", HOUR, (3, 1, 0)).await;
    world.add_cell(ids, "search", HOUR, (2, 0, 4)).await; // Another part of the same cell.
    world.add_cell(ids, odd, HOUR, (7, 0, 0)).await;
    world.add_cell(ids, "search", HOUR + 1, (10, 0, 0)).await;
    world.add_cell(ids, "search", HOUR - 1, (100, 0, 0)).await; // Before.
    world
        .add_cell((other.as_str(), project.as_str(), key.as_str()), "search", HOUR, (1000, 0, 0))
        .await;
    world.progress(0, 1_795_204_812_345).await;
    world.sql("insert into ledger.checkpoint values (0, 42, 0), (1, 42, 0), (2, 42, 0), (3, 42, 0), (4, 42, 0), (5, 42, 0), (6, 42, 0), (7, 42, 0), (8, 42, 0), (9, 42, 0), (10, 42, 0), (11, 42, 0), (12, 42, 0), (13, 42, 0), (14, 42, 0), (15, 42, 0)").await;
    let id: TenantId = tenant.parse().unwrap();
    world.count_in_ledger(&tenant, HOUR, 22).await;
    world.count_in_ledger(&tenant, HOUR + 2, 500).await; // After.
    world.log.jetstream.publish("ledger.1", "x".into()).await.unwrap().await.unwrap();

    let path = format!(
        "/admin/usage?tenant_id={tenant}&since=2026-11-20T20:30:00Z&until=2026-11-20T21:00:00.001Z"
    );
    let found = admin.get(&path).await.ok(StatusCode::OK);
    let row = |hour: &str, tool: &str, calls: u64, free: u64, refused: u64| json!({"hour": hour, "project_id": project, "key_id": key, "tool": tool, "calls": calls, "free": free, "refused": refused});
    let first = "2026-11-20T20:00:00.000Z";
    let rows = [
        row(first, odd, 7, 0, 0),
        row(first, "search", 5, 1, 4),
        row("2026-11-20T21:00:00.000Z", "search", 10, 0, 0),
    ];
    assert_eq!(found["rows"], json!(rows), "{found:#}");
    assert_eq!(found["totals"], json!({"calls": 22, "free": 1, "refused": 4}));
    assert_eq!(
        (&found["since"], &found["until"]),
        (&json!(first), &json!("2026-11-20T22:00:00.000Z"))
    );
    assert_eq!(
        found["as_of"],
        json!({"stream_seq": 0, "event_time": "2026-11-20T20:00:12.345Z", "lag_messages": 1})
    );
    assert_eq!(
        found["ledger"],
        json!({"calls": 22, "as_of_seq": 42}),
        "shard {}",
        Shard::of(id, 16)
    );

    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("{path}&limit=1{after}")).await.ok(StatusCode::OK);
        assert_eq!(
            page["totals"]["calls"],
            json!(22),
            "totals are those of the span, not of the page"
        );
        paged.extend(page["rows"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!(
            "&after={}",
            percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
        );
    }
    assert_eq!(paged, rows);

    world.stop_postgres().await;
    let without = admin.get(&path).await.ok(StatusCode::OK);
    assert_eq!((&without["ledger"], &without["totals"]["calls"]), (&Value::Null, &json!(22)));
    admin.stop().await;
}

#[tokio::test]
async fn spans_that_make_no_sense_are_refused_and_a_store_that_is_away_is_said() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let (tenant, ..) = admin.tenant_project_key().await;
    let nil = format!("tnt_{}", "0".repeat(32));
    #[rustfmt::skip]
    let cases = [
        (format!("tenant_id={tenant}"), 422, "query"),
        (format!("tenant_id={tenant}&since=yesterday"), 422, "since"),
        (format!("tenant_id={tenant}&since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z"), 422, "since"),
        (format!("tenant_id={tenant}&since=2020-01-01T00:00:00Z"), 422, "since"),
        (format!("tenant_id={tenant}&since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z&limit=0"), 422, "limit"),
        (format!("tenant_id={tenant}&since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z&after=1.2"), 422, "after"),
        ("tenant_id=acme&since=2026-01-01T00:00:00Z".to_owned(), 422, "tenant_id"),
        (format!("tenant_id={nil}&since=2026-01-01T00:00:00Z"), 404, ""),
    ];
    for (query, status, field) in cases {
        let answer = admin.get(&format!("/admin/usage?{query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}: {}", answer.text);
        assert_eq!(
            answer.problem().1["field"].as_str().unwrap_or_default(),
            field,
            "{query}: {}",
            answer.text
        );
    }
    let fine = format!(
        "/admin/usage?tenant_id={tenant}&since=2026-11-20T00:00:00Z&until=2026-11-21T00:00:00Z"
    );
    let empty = admin.get(&fine).await.ok(StatusCode::OK);
    assert_eq!((&empty["rows"], &empty["as_of"]["event_time"]), (&json!([]), &Value::Null));
    world.stop_clickhouse().await;
    let away = admin.get(&fine).await;
    assert_eq!(
        (away.status, away.problem().0.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "usage-unavailable")
    );
    let still = admin.post("/admin/tenants", json!({"name": "made meanwhile"})).await;
    assert_eq!(still.status, StatusCode::CREATED, "commands need no ClickHouse");
    admin.stop().await;
}
