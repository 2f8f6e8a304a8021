//! The usage page in a real browser.

use std::{path::Path, process::Command};

use plant::{PlantSettings, make_calls, wait_for_ties};
use serde_json::json;

use crate::world::{TIMEOUT, subscribed};

/// Chromium, as Debian and others name it.
fn chromium() -> String {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    (*found.expect("no Chromium in PATH: apt-get install chromium")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_calls_in_a_real_browser() {
    let (plant, demo) = subscribed(PlantSettings::default(), 6).await;
    make_calls(&plant, 0, &demo.limited.secret, 10, |_| {}).await.unwrap();
    wait_for_ties(&plant, &demo.tenant, (6, 4), TIMEOUT).await.unwrap();
    let profile = plant.folder.part("chromium").unwrap();
    let mut attempts = 0;
    // A browser on a busy machine may give up on a page; whoever sits before it tries again.
    let (link, page) = loop {
        attempts += 1;
        let made = plant.admin_api().post("/admin/login-links", &json!({})).await.unwrap();
        let link = made["url"].as_str().unwrap().to_owned();
        // The link signs this browser in; its cookie is in the profile.
        let door = open(&profile, &link).await;
        let page = open(&profile, &format!("{}/", plant.addresses.admin)).await;
        if door.contains("Signed in") && page.contains("<svg") {
            break (link, page);
        }
        assert!(attempts < 8, "no chart in {page}, behind {door}");
    };
    for shown in ["Acme", "echo", "get-sum", "As of", "ties to the unit"] {
        assert!(page.contains(shown), "no `{shown}` in {page}");
    }
    // A link signs in once.
    let stranger = plant.folder.part("stranger").unwrap();
    let again = open(&stranger, &link).await;
    assert!(!again.contains("Signed in"), "{again}");
    let door = open(&stranger, &format!("{}/", plant.addresses.admin)).await;
    assert!(!door.contains("Acme"), "{door}");
}

/// The page's document after its scripts have run.
async fn open(profile: &Path, url: &str) -> String {
    let mut browser = Command::new(chromium());
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--timeout=4000", "--dump-dom", url]);
    let output = tokio::task::spawn_blocking(move || browser.output().unwrap()).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
