//! Client addresses: who may call, how fast they may connect, how often a secret may be refused, and whose word counts
//! for where a request came from.

use http::Method;
use mcp_node::http::AddressSettings;
use serde_json::json;

use crate::{
    connections::{Raw, old},
    process::{Process, known},
    rig::{Caller, Rig, SECRET, World, reason, until, with_server},
    server::Server,
};

/// A rig that knows the key, and the address of a second door with these settings.
async fn with(settings: AddressSettings) -> (Rig, String) {
    let (rig, _server) = with_server().await;
    rig.ledger().key(SECRET, None).await;
    until("the key is known", || rig.node.meter().authenticate(SECRET).is_ok()).await;
    let url = rig.open_for(settings).await;
    (rig, url)
}

fn behind_a_proxy() -> AddressSettings {
    let trusted_proxies = "127.0.0.0/8".parse().unwrap();
    AddressSettings { trusted_proxies, ..AddressSettings::default() }
}

async fn asked(caller: &Caller) -> (u16, String) {
    let response = caller.call(1, "success", json!({})).await;
    let why = if response.status() == 200 { String::new() } else { reason(response.body()) };
    (response.status().as_u16(), why)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_listed_may_not_call() {
    let not_allowed = (403, "address_not_allowed".to_owned());
    let allowed = "192.0.2.0/24, 2001:db8::/32".parse().unwrap();
    let (rig, url) = with(AddressSettings { allowed, ..behind_a_proxy() }).await;
    let caller = Caller::new(&url, SECRET);
    assert_eq!(asked(&caller).await, not_allowed, "its own address");
    for (said, expected) in [
        ("192.0.2.9", 200),
        ("2001:db8::9", 200),
        ("::ffff:192.0.2.9", 200),
        ("198.51.100.1", 403),
        ("192.0.2.9, 198.51.100.1", 403),
        ("198.51.100.1, 192.0.2.9", 200),
        ("192.0.2.9, 127.0.0.1", 200),
        ("nonsense", 403),
    ] {
        let (status, _) = asked(&caller.clone().with("x-forwarded-for", said)).await;
        assert_eq!(status, expected, "{said}");
    }
    let spoofed = caller.clone().with("forwarded", "for=192.0.2.9");
    assert_eq!(asked(&spoofed).await, not_allowed, "no proxy of ours writes that header");
    let elsewhere = Caller::new(&format!("{url}/nothing"), SECRET);
    assert_eq!(elsewhere.send(Method::GET, "").await.status(), 403, "not even what is served");

    // Whoever is no proxy is not believed.
    let allowed = "192.0.2.0/24".parse().unwrap();
    let url = rig.open_for(AddressSettings { allowed, ..AddressSettings::default() }).await;
    let caller = Caller::new(&url, SECRET).with("x-forwarded-for", "192.0.2.9");
    assert_eq!(asked(&caller).await, not_allowed);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_nobody_knows_are_bounded_by_address_and_shut_nobody_out() {
    let settings = AddressSettings { unauthorized_per_minute: 3, ..behind_a_proxy() };
    let (rig, url) = with(settings).await;
    let from = |address: &str, secret| Caller::new(&url, secret).with("x-forwarded-for", address);
    for _ in 0..3 {
        assert_eq!(asked(&from("192.0.2.1", "tb_guess")).await, (401, "unauthorized".into()));
    }
    let limited = from("192.0.2.1", "tb_guess").call(1, "success", json!({})).await;
    assert_eq!(limited.status(), 429);
    assert_eq!(reason(limited.body()), "too_many_unauthorized");
    let wait: u64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(limited.headers()["connection"], "close");
    assert_eq!(asked(&from("192.0.2.1", SECRET)).await.0, 200, "a valid key is served");
    let without = from("192.0.2.1", "-").without("x-api-key");
    assert_eq!(asked(&without).await.0, 401, "who shows nothing is told where to get a token");
    assert_eq!(asked(&from("192.0.2.2", "tb_guess")).await.0, 401, "another address");
    // One network of IPv6 is one client.
    for host in 1..=3 {
        assert_eq!(asked(&from(&format!("2001:db8::{host}"), "tb_guess")).await.0, 401);
    }
    assert_eq!(asked(&from("2001:db8::4", "tb_guess")).await.0, 429);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_are_bounded_by_address() {
    let settings = AddressSettings { connections_per_minute: 2, ..AddressSettings::default() };
    let (rig, url) = with(settings).await;
    let address = url["http://".len()..url.len() - "/mcp".len()].parse().unwrap();
    let (mut first, mut second) = (Raw::connect(address).await, Raw::connect(address).await);
    for _ in 0..3 {
        for client in [&mut first, &mut second] {
            client.send(&old("success")).await;
            let head = client.answer().await;
            assert!(head.starts_with("http/1.1 200"), "on one connection any number: {head}");
        }
    }
    let mut third = Raw::connect(address).await;
    third.send(&old("success")).await;
    let answer = third.rest().await;
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(answer.contains("\r\nretry-after: ") && answer.contains("too_many_new_connections"));
    first.send(&old("success")).await;
    assert!(first.answer().await.starts_with("http/1.1 200"), "those that there are stay");

    // Those of a trusted proxy are many clients'.
    let settings = AddressSettings { connections_per_minute: 1, ..behind_a_proxy() };
    let url = rig.open_for(settings).await;
    for _ in 0..3 {
        assert_eq!(asked(&Caller::new(&url, SECRET)).await.0, 200);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_reads_these_settings_and_shows_what_went_through() {
    let (world, server) = (World::start().await, Server::start().await);
    world.ledger.key(SECRET, None).await;
    let url = server.url();
    let args = ["--trusted-proxies", "127.0.0.1", "--forwarded-header", "Forwarded"];
    let more = ["--allowed-addresses", "192.0.2.0/24,127.0.0.1", "--upstream", &url];
    let process = Process::start(&world, &[&args[..], &more].concat()).await;
    let caller = process.caller(SECRET);
    known(&caller).await;
    assert_eq!(asked(&caller.clone().with("forwarded", "for=192.0.2.7")).await.0, 200);
    assert_eq!(asked(&caller.clone().with("forwarded", "for=198.51.100.7")).await.0, 403);
    let scrape = Caller::new(&process.url.replace("/mcp", "/metrics"), "-");
    let scrape = scrape.without("x-api-key").with("connection", "close");
    let read = async || {
        let text = scrape.send(Method::GET, "").await.into_body();
        String::from_utf8(text.to_vec()).unwrap()
    };
    let text = read().await;
    for name in
        ["mcp_request_duration_seconds", "mcp_request_size_bytes", "mcp_response_size_bytes"]
    {
        assert!(text.contains(&format!("# TYPE {name} histogram")), "{text}");
        let count = value(&text, &format!("{name}_count"));
        assert!(count >= 3.0, "{name}: {count}");
        assert_eq!(value(&text, &format!("{name}_bucket{{le=\"+Inf\"}}")), count);
    }
    let before = value(&text, "mcp_request_size_bytes_sum");
    let body = "x".repeat(5_000);
    let refused = caller.post(body).await;
    assert_eq!(refused.status(), 400);
    let after = read().await;
    assert_eq!(value(&after, "mcp_request_size_bytes_sum"), before + 5_000.0);
    assert!(
        value(&after, "mcp_response_size_bytes_sum") > value(&text, "mcp_response_size_bytes_sum")
    );
    // The reader's own connections end, each a little later than its answer.
    for last in (0..500).rev() {
        let ended = value(&read().await, "mcp_connection_duration_seconds_count");
        if ended >= 1.0 {
            break;
        }
        assert!(last > 0, "no connection has ended");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(process.stop().await, Some(0));

    for wrong in
        [["--trusted-proxies", "x"], ["--forwarded-header", "via"], ["--idle-timeout", "1"]]
    {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mcp-node"));
        let out = command.args(["--upstream", &url]).args(wrong).output().await.unwrap();
        assert_eq!(out.status.code(), Some(1), "{wrong:?}");
    }
}

/// The value of a line of `/metrics`.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}
