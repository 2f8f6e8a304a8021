//! What is refused, and how it is said.

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::world::{TOKEN, World, bearer};

#[tokio::test]
async fn nobody_gets_in_without_the_operators_token() {
    let world = World::start().await;
    let admin = world.admin().await;
    let link = admin.post("/admin/login-links", json!({})).await.ok(StatusCode::CREATED);
    let path = link["url"].as_str().unwrap().strip_prefix(&admin.base).unwrap().to_owned();
    let entered = admin.send(Method::GET, &path, &[], "").await;
    let cookie =
        entered.headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (wrong, basic) = (format!("Bearer {TOKEN}x"), format!("Basic {TOKEN}"));
    let tries: [&[(&str, &str)]; 6] = [
        &[],
        &[("authorization", "Bearer ")],
        &[("authorization", &wrong)],
        &[("authorization", &basic)],
        &[("authorization", TOKEN)],
        &[("cookie", &cookie)],
    ];
    for headers in tries {
        for (method, path) in [
            (Method::GET, "/admin/tenants"),
            (Method::POST, "/admin/tenants"),
            (Method::POST, "/admin/login-links"),
            (Method::GET, "/admin/usage"),
            (Method::GET, "/admin/nothing-here"),
            (Method::DELETE, "/admin/tenants"),
        ] {
            let answer = admin.send(method.clone(), path, headers, "{}").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} with {headers:?}");
            assert_eq!(answer.problem().0, "unauthorized");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        }
    }
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(admin.send(Method::GET, path, &[], "").await.status, StatusCode::OK, "{path}");
    }
    admin.stop().await;
}

#[tokio::test]
async fn a_refusal_says_which_field_and_why() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (tenant, project, key, _) = admin.tenant_project_key().await;
    let nil = |prefix: &str| format!("{prefix}_{}", "0".repeat(32));
    let before = world.decisions("control.>").await.len();
    let project_body = |name: &str| json!({"tenant_id": tenant, "name": name});
    let key_body = |extra: Value| {
        let mut body = json!({"project_id": project, "name": "k"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let cases: Vec<(&str, Value, u16, &str, &str)> = vec![
        ("/admin/tenants", json!({}), 400, "invalid-body", ""),
        ("/admin/tenants", json!({"name": 1}), 400, "invalid-body", ""),
        ("/admin/tenants", json!({"name": "a", "plan": "x"}), 400, "invalid-body", ""),
        ("/admin/tenants", json!({"name": "a", "billing": "cash"}), 400, "invalid-body", ""),
        ("/admin/tenants", json!({"name": "  "}), 422, "invalid-field", "name"),
        ("/admin/tenants", json!({"name": "x".repeat(101)}), 422, "invalid-field", "name"),
        (
            "/admin/tenants",
            json!({"name": "a", "time_zone": "Mars/X"}),
            422,
            "invalid-field",
            "time_zone",
        ),
        (
            "/admin/projects",
            json!({"tenant_id": "x", "name": "a"}),
            422,
            "invalid-field",
            "tenant_id",
        ),
        ("/admin/projects", json!({"tenant_id": nil("tnt"), "name": "a"}), 404, "no-tenant", ""),
        ("/admin/projects", project_body("a\nb"), 422, "invalid-field", "name"),
        ("/admin/api-keys", json!({"project_id": nil("prj"), "name": "a"}), 404, "no-project", ""),
        (
            "/admin/api-keys",
            json!({"project_id": tenant, "name": "a"}),
            422,
            "invalid-field",
            "project_id",
        ),
        ("/admin/api-keys", key_body(json!({"tools": []})), 422, "invalid-field", "tools"),
        ("/admin/api-keys", key_body(json!({"scopes": ["A b"]})), 422, "invalid-field", "scopes"),
        (
            "/admin/api-keys",
            key_body(json!({"expires_at": "soon"})),
            422,
            "invalid-field",
            "expires_at",
        ),
        (
            "/admin/api-keys",
            key_body(json!({"expires_at": "2020-01-01T00:00:00Z"})),
            422,
            "invalid-field",
            "expires_at",
        ),
        ("/admin/api-keys", key_body(json!({"quota": {"limit": -1}})), 400, "invalid-body", ""),
        ("/admin/api-keys", key_body(json!({"quota": {"limit": 1.5}})), 400, "invalid-body", ""),
        (
            "/admin/api-keys",
            key_body(json!({"quota": {"limit": 1, "of": 2}})),
            400,
            "invalid-body",
            "",
        ),
        (
            "/admin/api-keys",
            key_body(json!({"quota": {"limit": 9_007_199_254_740_992u64}})),
            422,
            "invalid-field",
            "quota.limit",
        ),
        (
            "/admin/api-keys",
            key_body(json!({"quota": {"limit": 1, "meter": "A"}})),
            422,
            "invalid-field",
            "quota.meter",
        ),
        ("/admin/quotas", json!({"scope": {"key": nil("key")}, "limit": 1}), 404, "no-key", ""),
        (
            "/admin/quotas",
            json!({"scope": {"key": key, "tenant": tenant}, "limit": 1}),
            400,
            "invalid-body",
            "",
        ),
        (
            "/admin/quotas",
            json!({"scope": {"key": tenant}, "limit": 1}),
            422,
            "invalid-field",
            "scope.key",
        ),
        (
            "/admin/quotas",
            json!({"scope": {"key": key}, "limit": 1, "kind": "firm"}),
            400,
            "invalid-body",
            "",
        ),
        ("/admin/quotas", json!({"scope": {"key": key}}), 400, "invalid-body", ""),
        (
            "/admin/quotas",
            json!({"scope": {"key": key}, "limit": 1, "period": {"anchored": {"from": 1, "months": 0}}}),
            422,
            "invalid-field",
            "period",
        ),
        ("/admin/nothing", json!({}), 404, "not-found", ""),
        ("/admin/api-keys/x/revoke", json!({}), 404, "not-found", ""),
    ];
    for (path, body, status, slug, field) in cases {
        let answer = admin.post(path, body.clone()).await;
        let (found, problem) = answer.problem();
        assert_eq!(
            (answer.status.as_u16(), found.as_str()),
            (status, slug),
            "{path} {body}: {}",
            answer.text
        );
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{path} {body}");
        assert_eq!(problem["reason"].is_string(), !field.is_empty());
    }
    let revoke = format!("/admin/api-keys/{}/revoke", nil("key"));
    assert_eq!(admin.post(&revoke, json!({})).await.problem().0, "no-key");
    assert_eq!(world.decisions("control.>").await.len(), before, "something refused was stored");
    admin.stop().await;
}

#[tokio::test]
async fn requests_that_are_no_json_of_ours_are_refused() {
    let world = World::start().await;
    let admin = world.admin().await;
    let bearer = bearer();
    let send = |method: Method, path: &'static str, kind: &'static str, body: String| {
        let (admin, bearer) = (&admin, &bearer);
        async move {
            admin
                .send(method, path, &[("authorization", bearer), ("content-type", kind)], &body)
                .await
        }
    };
    let form = "application/x-www-form-urlencoded";
    let json_kind = "application/json; charset=utf-8";
    let cases = [
        (Method::POST, "/admin/tenants", form, "name=a".to_owned(), 415, "unsupported-media-type"),
        (
            Method::POST,
            "/admin/tenants",
            "text/plain",
            "{\"name\":\"a\"}".to_owned(),
            415,
            "unsupported-media-type",
        ),
        (Method::POST, "/admin/tenants", json_kind, "{\"name\":".to_owned(), 400, "invalid-body"),
        (
            Method::POST,
            "/admin/tenants",
            json_kind,
            format!("{{\"name\":\"{}\"}}", "x".repeat(600_000)),
            413,
            "too-large",
        ),
        (Method::DELETE, "/admin/tenants", json_kind, String::new(), 405, "method-not-allowed"),
        (Method::GET, "/admin/tenants?limit=0", json_kind, String::new(), 422, "invalid-field"),
        (Method::GET, "/admin/tenants?after=x", json_kind, String::new(), 422, "invalid-field"),
        (Method::GET, "/admin/tenants?colour=red", json_kind, String::new(), 422, "invalid-field"),
        (Method::GET, "/admin/projects", json_kind, String::new(), 422, "invalid-field"),
        (Method::GET, "/admin/tenants/x", json_kind, String::new(), 404, "not-found"),
    ];
    for (method, path, kind, body, status, slug) in cases {
        let answer = send(method, path, kind, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.problem().0.as_str()),
            (status, slug),
            "{path}: {}",
            answer.text
        );
    }
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", "ä"),
    ];
    let answer = admin.send(Method::POST, "/admin/tenants", &headers, "{\"name\":\"a\"}").await;
    assert_eq!(answer.problem().1["field"], json!("Idempotency-Key"));
    assert_eq!(world.decisions("control.>").await.len(), 0);
    admin.stop().await;
}
