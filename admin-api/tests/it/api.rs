//! Commands become facts, and whoever writes reads what they wrote.

use std::time::Duration;

use admin_api::{
    control::{Control, Done},
    directory::command::Command,
};
use http::{Method, StatusCode};
use runtime::health::Health;
use schemas::{BillingMode, ControlFact, DecisionId, KeyDigest, TenantId, Timestamp, secret};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::world::World;

#[tokio::test]
async fn a_key_is_made_limited_and_revoked_and_each_step_is_a_fact() {
    let world = World::start().await;
    let admin = world.admin().await;
    let body = json!({"name": " Zürich AG ", "time_zone": "Europe/Zurich", "billing": "stripe"});
    let tenant = admin.post("/admin/tenants", body).await.ok(StatusCode::CREATED);
    assert_eq!(
        (&tenant["name"], &tenant["time_zone"], &tenant["billing"]),
        (&json!("Zürich AG"), &json!("Europe/Zurich"), &json!("stripe"))
    );
    let body = json!({"tenant_id": tenant["id"], "name": "Search"});
    let project = admin.post("/admin/projects", body).await.ok(StatusCode::CREATED);
    let body = json!({
        "project_id": project["id"], "name": "prod", "scopes": ["context:read"], "tools": ["search", "fetch"],
        "expires_at": "2099-01-31T00:00:00+01:00", "quota": {"limit": 5}
    });
    let key = admin.post("/admin/api-keys", body).await.ok(StatusCode::CREATED);
    let (id, shown) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    assert!(secret::is_well_formed(shown));
    assert_eq!(key["hint"], json!(secret::hint(shown)));
    assert_eq!((&key["status"], &key["tenant_id"]), (&json!("pending"), &tenant["id"]));
    assert_eq!(key["expires_at"], json!("2099-01-30T23:00:00.000Z"));

    let read = admin.get(&format!("/admin/api-keys/{id}")).await;
    assert!(!read.text.contains(shown), "a secret was shown twice");
    let read = read.ok(StatusCode::OK);
    let quota = |limit: u64, kind: &str| json!({"scope": {"key": id}, "meter": "tool_calls", "limit": limit, "kind": kind, "period": "month"});
    assert_eq!(read["quotas"], json!([quota(5, "hard")]));
    let body = json!({"scope": {"key": id}, "limit": 7, "kind": "soft"});
    assert_eq!(admin.post("/admin/quotas", body).await.ok(StatusCode::OK), quota(7, "soft"));
    for _ in 0..2 {
        let revoked =
            admin.post(&format!("/admin/api-keys/{id}/revoke"), json!({})).await.ok(StatusCode::OK);
        assert_eq!(revoked["status"], json!("revoked"));
        assert!(revoked["revoked_at"].is_string());
        assert_eq!(revoked["quotas"], json!([quota(7, "soft")]));
    }

    let of_key = world.decisions(&format!("control.key.{id}")).await;
    let facts: Vec<&[ControlFact]> =
        of_key.iter().map(|decision| decision.facts.as_slice()).collect();
    let [
        [ControlFact::KeyCreated { digest, .. }, ControlFact::QuotaSet { .. }],
        [ControlFact::KeyRevoked { .. }],
    ] = facts[..]
    else {
        panic!("{facts:?}")
    };
    assert_eq!(*digest, KeyDigest::of(shown));
    assert!(
        of_key
            .iter()
            .all(|decision| decision.by == "operator" && json!(decision.tenant) == tenant["id"])
    );
    assert_eq!(world.decisions(&format!("control.quota.{id}")).await.len(), 1);
    admin.stop().await;
}

#[tokio::test]
async fn a_key_gets_a_rate_and_a_new_secret_that_is_shown_once() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (_, _, id, first) = admin.tenant_project_key().await;
    let at = |what: &str| format!("/admin/api-keys/{id}{what}");
    let rate = json!({"per_minute": 60, "burst": 5});
    let set = admin.send_json(Method::PUT, &at("/rate"), rate).await.ok(StatusCode::OK);
    assert_eq!(set["rate"], json!({"per_minute": 60, "burst": 5}));
    for wrong in [json!({"per_minute": 0}), json!({"per_minute": 1, "concurrent": 0})] {
        let answer = admin.send_json(Method::PUT, &at("/rate"), wrong).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
    }
    let none = admin.send_json(Method::DELETE, &at("/rate"), json!({})).await.ok(StatusCode::OK);
    assert_eq!(none["rate"], json!(null));

    let body = json!({"overlap_s": 60});
    let rotated = admin.post_once(&at("/rotate"), "rotate-1", body.clone()).await;
    let rotated = rotated.ok(StatusCode::OK);
    let second = rotated["secret"].as_str().unwrap();
    assert!(secret::is_well_formed(second) && second != first);
    assert_eq!(rotated["hint"], json!(secret::hint(second)));
    assert!(rotated["former_secret_until"].is_string());
    let again = admin.post_once(&at("/rotate"), "rotate-1", body).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "a secret is shown once: {}", again.text);
    let long = admin.post(&at("/rotate"), json!({"overlap_s": 2_592_001})).await;
    assert_eq!(long.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(!admin.get(&at("")).await.text.contains(second));
    let facts = world.decisions(&format!("control.key.{id}")).await;
    let Some(ControlFact::KeyRotated { digest, .. }) = facts.last().map(|last| &last.facts[0])
    else {
        panic!("{facts:?}")
    };
    assert_eq!(*digest, KeyDigest::of(second), "and rotated once");

    admin.post(&at("/revoke"), json!({})).await.ok(StatusCode::OK);
    let late = admin.post(&at("/rotate"), json!({})).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.text);
    admin.stop().await;
}

#[tokio::test]
async fn lists_are_paged_in_the_order_of_making_and_survive_a_restart() {
    let world = World::start().await;
    let admin = world.admin().await;
    let mut made = Vec::new();
    for n in 0..7 {
        let tenant = admin
            .post("/admin/tenants", json!({"name": format!("t{n}")}))
            .await
            .ok(StatusCode::CREATED);
        made.push(tenant["id"].clone());
    }
    let first = &made[0];
    for n in 0..3 {
        let body = json!({"tenant_id": first, "name": format!("p{n}")});
        admin.post("/admin/projects", body).await.ok(StatusCode::CREATED);
    }
    admin.stop().await;

    let again = world.admin().await;
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = again.get(&format!("/admin/tenants?limit=3{after}")).await.ok(StatusCode::OK);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        listed.extend(items.iter().map(|item| item["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(listed, made);
    let first = first.as_str().unwrap();
    let projects =
        again.get(&format!("/admin/projects?tenant_id={first}")).await.ok(StatusCode::OK);
    let names: Vec<&Value> =
        projects["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["p0", "p1", "p2"]);
    assert_eq!(projects["next"], Value::Null);
    let keys = again.get(&format!("/admin/api-keys?tenant_id={first}")).await.ok(StatusCode::OK);
    assert_eq!(keys["items"], json!([]));
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_decide_at_once_agree() {
    let world = World::start().await;
    let (one, two) = tokio::join!(world.admin(), world.admin());
    let (_, _, key, _) = one.tenant_project_key().await;
    let revoke = format!("/admin/api-keys/{key}/revoke");
    // The second process may not have heard of the key yet: then it says so, and is asked again.
    while two.get(&format!("/admin/api-keys/{key}")).await.status == StatusCode::NOT_FOUND {}
    let set = |admin, limit: u64| {
        let body = json!({"scope": {"key": key}, "limit": limit});
        crate::world::Admin::post(admin, "/admin/quotas", body)
    };
    let answers = tokio::join!(
        set(&one, 1),
        set(&two, 2),
        set(&one, 3),
        set(&two, 4),
        set(&one, 5),
        set(&two, 6)
    );
    for (answer, limit) in [&answers.0, &answers.1, &answers.2, &answers.3, &answers.4, &answers.5]
        .into_iter()
        .zip(1..)
    {
        assert_eq!(answer.ok(StatusCode::OK)["limit"], json!(limit));
    }
    let decided = world.decisions(&format!("control.quota.{key}")).await;
    assert_eq!(decided.len(), 6);
    let [ControlFact::QuotaSet { quota }] = decided[5].facts.as_slice() else {
        panic!("{decided:?}")
    };
    for admin in [&one, &two] {
        let path = format!("/admin/api-keys/{key}");
        while admin.get(&path).await.ok(StatusCode::OK)["quotas"][0]["limit"] != json!(quota.limit)
        {
        }
    }
    let revoked = tokio::join!(
        one.post(&revoke, json!({})),
        two.post(&revoke, json!({})),
        one.post(&revoke, json!({}))
    );
    for answer in [&revoked.0, &revoked.1, &revoked.2] {
        assert_eq!(answer.ok(StatusCode::OK)["status"], json!("revoked"));
    }
    assert_eq!(
        world.decisions(&format!("control.key.{key}")).await.len(),
        2,
        "it was revoked twice"
    );
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_answers_only_once_it_can_be_read() {
    let world = World::start().await;
    let (control, follower) = Control::open(world.log.clone(), Health::default()).await.unwrap();
    let tenant = TenantId(uuid::Uuid::from_u128(7));
    let (name, time_zone) = ("Acme".to_owned(), "UTC".to_owned());
    let command = Command::CreateTenant { tenant, name, time_zone, billing: BillingMode::None };
    let id = DecisionId(uuid::Uuid::from_u128(8));
    let writer = control.clone();
    let written = tokio::spawn(async move { writer.execute(id, &command, Timestamp(1)).await });
    while world.decisions("control.>").await.is_empty() {}
    // It is stored, but nothing applies it here yet.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!written.is_finished() && control.directory().tenant(tenant).is_none());
    let stop = CancellationToken::new();
    let following = tokio::spawn(follower.run(stop.clone()));
    assert!(matches!(written.await.unwrap(), Ok(Done::Decided(_))));
    assert!(control.directory().tenant(tenant).is_some());
    stop.cancel();
    following.await.unwrap().unwrap();
}
