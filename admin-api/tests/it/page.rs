//! The page: who sees it, what it shows, how it follows the log, and that nothing foreign runs in it.

use std::time::Duration;

use http::{Method, StatusCode, header};
use serde_json::json;

use crate::world::{Admin, Answer, World};

async fn log_in(admin: &Admin) -> String {
    let link = admin.post("/admin/login-links", json!({})).await.ok(StatusCode::CREATED);
    let path = link["url"].as_str().unwrap().strip_prefix(&admin.base).unwrap().to_owned();
    let looked = admin.send(Method::HEAD, &path, &[], "").await;
    assert_eq!(looked.status, StatusCode::NO_CONTENT, "looking at a link must not use it");
    let entered = admin.send(Method::GET, &path, &[], "").await;
    assert_eq!(entered.status, StatusCode::OK);
    assert!(entered.text.contains("0; url=/"), "the browser is not sent on");
    let cookie = entered.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    let again = admin.send(Method::GET, &path, &[], "").await;
    assert_eq!(again.status, StatusCode::GONE, "a link worked twice");
    cookie.split(';').next().unwrap().to_owned()
}

async fn see(admin: &Admin, path: &str, cookie: &str) -> Answer {
    admin.send(Method::GET, path, &[("cookie", cookie)], "").await
}

#[tokio::test]
async fn a_browser_gets_in_by_a_link_and_out_again() {
    let world = World::start().await;
    let admin = world.admin().await;
    let outside = see(&admin, "/", "").await;
    assert_eq!(outside.status, StatusCode::UNAUTHORIZED);
    assert!(outside.text.contains("/admin/login-links") && !outside.text.contains("Billable"));
    assert_eq!(see(&admin, "/live?seen=0", "").await.status, StatusCode::UNAUTHORIZED);
    let cookie = log_in(&admin).await;
    let inside = see(&admin, "/", &cookie).await;
    assert_eq!(inside.status, StatusCode::OK);
    assert!(inside.text.contains("No tenant yet"), "an empty directory must say what to do");
    let left = admin.send(Method::POST, "/logout", &[("cookie", &cookie)], "").await;
    assert_eq!(left.status, StatusCode::SEE_OTHER);
    assert_eq!(see(&admin, "/", &cookie).await.status, StatusCode::UNAUTHORIZED);
    admin.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_usage_and_follows_it() {
    let mut world = World::start().await;
    let admin = world.admin().await;
    let (tenant, project, key, _) = admin.tenant_project_key().await;
    let cookie = log_in(&admin).await;
    let page = format!("/?tenant={tenant}&range=24h");
    let empty = see(&admin, &page, &cookie).await;
    assert!(
        empty.text.contains("No calls in the last 24 hours")
            && empty.text.contains("Nothing has been written yet")
    );

    let hour = chrono::Utc::now().timestamp() / 3600;
    let ids = (tenant.as_str(), project.as_str(), key.as_str());
    let evil = "<script>alert(1)</script>";
    world.add_cell(ids, "search", hour, (1234, 5, 6)).await;
    world.add_cell(ids, evil, hour - 2, (7, 0, 0)).await;
    let follower = async {
        let answer = see(&admin, &format!("/live?tenant={tenant}&range=24h&seen=0"), &cookie).await;
        (answer, tokio::time::Instant::now())
    };
    let writer = async {
        tokio::time::sleep(Duration::from_millis(400)).await; // So that the page waits already.
        world.progress(9, chrono::Utc::now().timestamp_millis()).await;
        tokio::time::Instant::now()
    };
    let ((followed, told), written) = tokio::join!(follower, writer);
    assert_eq!(followed.status, StatusCode::OK);
    assert!(told - written < Duration::from_millis(900), "news took {:?}", told - written);
    let whole = see(&admin, &page, &cookie).await;
    for shown in [&followed.text, &whole.text] {
        for wanted in [
            "data-seen=\"9\"",
            "1,241",
            "<svg class=\"plot wide\"",
            "search",
            "By tool",
            "The chart as a table",
        ] {
            assert!(shown.contains(wanted), "{wanted} is missing in {shown}");
        }
        assert!(
            !shown.contains(evil) && shown.contains("&#60;script&#62;"),
            "a tool's name was taken for markup"
        );
    }
    assert!(whole.text.contains("aria-current=\"page\">24 hours") && whole.text.contains("Acme"));
    for range in ["7d", "30d", "nonsense"] {
        let other = see(&admin, &format!("/?tenant={tenant}&range={range}"), &cookie).await;
        assert!(other.status == StatusCode::OK && other.text.contains("1,241"), "{range}");
    }
    world.stop_clickhouse().await;
    let away = see(&admin, &page, &cookie).await;
    assert_eq!(away.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(away.text.contains("Usage cannot be read now"));
    admin.stop().await;
}

#[tokio::test]
async fn nothing_foreign_and_nothing_inline_runs_in_the_page() {
    let world = World::start().await;
    let admin = world.admin().await;
    let cookie = log_in(&admin).await;
    admin.tenant_project_key().await;
    let page = see(&admin, "/", &cookie).await;
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(page.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    for banned in ["<style", " style=", "onclick", "javascript:", "src=\"http", "href=\"http"] {
        assert!(!page.text.contains(banned), "{banned}");
    }
    let addresses: Vec<&str> =
        page.text.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert_eq!(addresses.len(), 4, "icon twice, style, script: {addresses:?}");
    for address in addresses {
        let asset = see(&admin, address, "").await;
        assert_eq!(asset.status, StatusCode::OK, "{address}");
        assert!(asset.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    }
    assert_eq!(
        see(&admin, "/assets/000000000000-page.css", "").await.status,
        StatusCode::NOT_FOUND
    );
    admin.stop().await;
}
