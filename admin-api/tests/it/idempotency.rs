//! One idempotency key, one decision: whoever asks again, whichever process, after restarts and lost answers.

use http::StatusCode;
use serde_json::{Value, json};
use stack::Part;

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_again_is_the_same_answer() {
    let world = World::start().await;
    let (one, two) = tokio::join!(world.admin(), world.admin());
    let body = json!({"name": "Acme", "time_zone": "Europe/Berlin"});
    let create =
        |admin| crate::world::Admin::post_once(admin, "/admin/tenants", "order 66", body.clone());
    let answers =
        tokio::join!(create(&one), create(&two), create(&one), create(&two), create(&two));
    let tenant = answers.0.ok(StatusCode::CREATED);
    for answer in [&answers.1, &answers.2, &answers.3, &answers.4] {
        assert_eq!(answer.ok(StatusCode::CREATED), tenant);
    }
    let id = tenant["id"].as_str().unwrap();
    assert_eq!(world.decisions(&format!("control.tenant.{id}")).await.len(), 1);

    let again = world.admin().await;
    assert_eq!(create(&again).await.ok(StatusCode::CREATED), tenant);
    let other = again.post_once("/admin/tenants", "order 66", json!({"name": "Acme"})).await;
    assert_eq!(
        (other.status, other.problem().0.as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused")
    );
    // The same key serves another operation once, too.
    let project = json!({"tenant_id": id, "name": "Search"});
    let made = again
        .post_once("/admin/projects", "order 66", project.clone())
        .await
        .ok(StatusCode::CREATED);
    assert_eq!(
        again.post_once("/admin/projects", "order 66", project).await.ok(StatusCode::CREATED),
        made
    );
    for admin in [one, two, again] {
        admin.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_shown_to_one_request_only() {
    let world = World::start().await;
    let (one, two) = tokio::join!(world.admin(), world.admin());
    let (tenant, project, ..) = one.tenant_project_key().await;
    while two
        .get(&format!("/admin/projects?tenant_id={tenant}"))
        .await
        .text
        .find(&project)
        .is_none()
    {}
    let body = json!({"project_id": project, "name": "once"});
    let create =
        |admin| crate::world::Admin::post_once(admin, "/admin/api-keys", "k", body.clone());
    let answers = tokio::join!(create(&one), create(&two), create(&one), create(&two));
    let answers = [answers.0, answers.1, answers.2, answers.3];
    let shown: Vec<Value> = answers
        .iter()
        .filter(|answer| answer.status == StatusCode::CREATED)
        .map(|answer| answer.ok(StatusCode::CREATED))
        .collect();
    assert_eq!(shown.len(), 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != StatusCode::CREATED) {
        assert_eq!(answer.status, StatusCode::CONFLICT);
        let (slug, problem) = answer.problem();
        assert_eq!((slug.as_str(), &problem["key_id"]), ("secret-already-shown", &shown[0]["id"]));
        assert!(!answer.text.contains(shown[0]["secret"].as_str().unwrap()));
    }
    let key = shown[0]["id"].as_str().unwrap();
    assert_eq!(world.decisions(&format!("control.key.{key}")).await.len(), 1);
    let other = one
        .post_once("/admin/api-keys", "k", json!({"project_id": project, "name": "twice"}))
        .await;
    assert_eq!(other.problem().0, "idempotency-key-reused");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_quota_that_was_set_once_is_not_set_back_by_the_same_request() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (_, _, key, _) = admin.tenant_project_key().await;
    let set = |limit: u64| json!({"scope": {"key": key}, "limit": limit});
    let first = admin.post_once("/admin/quotas", "a", set(10)).await.ok(StatusCode::OK);
    admin.post_once("/admin/quotas", "b", set(20)).await.ok(StatusCode::OK);
    assert_eq!(admin.post_once("/admin/quotas", "a", set(10)).await.ok(StatusCode::OK), first);
    let read = admin.get(&format!("/admin/api-keys/{key}")).await.ok(StatusCode::OK);
    assert_eq!(read["quotas"][0]["limit"], json!(20));
    let path = format!("/admin/api-keys/{key}/revoke");
    for _ in 0..2 {
        assert_eq!(
            admin.post_once(&path, "c", json!({})).await.ok(StatusCode::OK)["status"],
            json!("revoked")
        );
    }
    admin.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_is_found_by_asking_again() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let body = json!({"name": "Acme"});
    world.nats_server.kill().await.unwrap();
    let lost = admin.post_once("/admin/tenants", "k", body.clone()).await;
    assert_eq!(
        (lost.status, lost.problem().0.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "unknown-outcome")
    );
    world.nats_server.start_again().await.unwrap();
    let tenant = loop {
        let answer = admin.post_once("/admin/tenants", "k", body.clone()).await;
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            break answer.ok(StatusCode::CREATED);
        }
    };
    // What the first request had queued may be delivered only now: it changes nothing.
    let again = admin.post_once("/admin/tenants", "k", body).await.ok(StatusCode::CREATED);
    assert_eq!(again, tenant);
    assert_eq!(world.decisions("control.tenant.*").await.len(), 1);
    admin.stop().await;
}
