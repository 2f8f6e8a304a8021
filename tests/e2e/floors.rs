//! The direction of dependencies: a package depends only on floors below its own, never sideways.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// The floor of each package, from the ground up. Floors 2 and 3 have their own order, below.
fn floor(package: &str) -> Option<u8> {
    Some(match package {
        "schemas" => 0,
        "ledger-core" | "billing-core" | "mcp-node-core" => 1,
        "runtime" | "stack" | "stripe-sim" | "mcp-fixture" | "mcp-node-fuzz" => 2,
        "mcp-node" | "ingest" | "ledger" | "billing" | "admin-api" => 3,
        "plant" => 4,
        "tests" | "sim" | "bench" | "year" | "differential" => 5,
        _ => return None,
    })
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages() -> BTreeMap<String, Vec<Value>> {
    let found = metadata();
    let packages = found["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let name = package["name"].as_str().unwrap().to_owned();
            (name, package["dependencies"].as_array().unwrap().clone())
        })
        .collect()
}

#[test]
fn dependencies_point_down() {
    let packages = packages();
    for (package, dependencies) in &packages {
        let from =
            floor(package).unwrap_or_else(|| panic!("{package} has no floor: give it one here"));
        for dependency in dependencies {
            let name = dependency["name"].as_str().unwrap();
            if !packages.contains_key(name) {
                continue;
            }
            let to = floor(name).unwrap();
            assert!(to < from, "{package} (floor {from}) depends on {name} (floor {to})");
        }
    }
}

#[test]
fn services_know_no_rules_but_their_own() {
    let own = [
        ("ledger", &["ledger-core"][..]),
        ("billing", &["billing-core"]),
        ("mcp-node", &["mcp-node-core"]),
        ("admin-api", &["billing-core"]),
        ("ingest", &[]),
        ("runtime", &[]),
        ("stack", &[]),
        ("stripe-sim", &[]),
    ];
    let packages = packages();
    for (package, may) in own {
        for dependency in &packages[package] {
            let name = dependency["name"].as_str().unwrap();
            assert!(
                floor(name) != Some(1) || may.contains(&name),
                "{package} knows the rules of {name}"
            );
        }
    }
}

#[test]
fn the_ground_takes_no_clock_and_no_chance() {
    let banned: BTreeMap<&str, &[&str]> =
        [("chrono", &["clock", "now"][..]), ("uuid", &["v4", "v7"])].into();
    let outside = [
        "tokio",
        "sqlx",
        "async-nats",
        "axum",
        "hyper",
        "clickhouse",
        "tracing",
        "metrics",
        "getrandom",
    ];
    for (package, dependencies) in packages() {
        if floor(&package).is_none_or(|floor| floor > 1) {
            continue;
        }
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"].is_null()) {
            let name = dependency["name"].as_str().unwrap();
            assert!(!outside.contains(&name), "{package} is pure and depends on {name}");
            let features: Vec<&str> =
                dependency["features"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
            for feature in banned.get(name).copied().unwrap_or_default() {
                assert!(!features.contains(feature), "{package} takes {name} with {feature}");
            }
        }
    }
}
