//! The ledger's questions, put to the whole: it ties out with ClickHouse, and what was changed by hand is found.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use plant::{Plant, PlantSettings, make_calls, wait_for_ties};
use schemas::Timestamp;
use serde_json::Value;

use crate::world::{TIMEOUT, eventually, subscribed};

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_ties_out_with_clickhouse_and_a_changed_row_is_found() {
    let (plant, demo) =
        subscribed(PlantSettings { nodes: 2, ..PlantSettings::default() }, 30).await;
    let (limited, roomy) = tokio::join!(
        make_calls(&plant, 0, &demo.limited.secret, 40, |_| {}),
        make_calls(&plant, 1, &demo.roomy.secret, 20, |_| {}),
    );
    assert_eq!((limited.unwrap().succeeded, roomy.unwrap().succeeded), (30, 20));
    let ties = wait_for_ties(&plant, &demo.tenant, (50, 10), TIMEOUT).await;
    ties.unwrap_or_else(|error| panic!("{}", error.report()));

    let tied = || async {
        let (code, told) = question(&plant, &["audit"]).await;
        let sum = last_line(&told);
        code == 0 && (&sum["differences"], &sum["clickhouse_behind"]) == (&0.into(), &0.into())
    };
    eventually("the ledger ties out with ClickHouse", tied).await;
    let (code, told) = question(&plant, &["rebuild"]).await;
    assert_eq!((code, &last_line(&told)["equal"]), (0, &true.into()), "{told}");
    let why = ["explain", "--key", &demo.limited.id, "--time", &now()];
    let (code, told) = question(&plant, &why).await;
    assert_eq!(code, 0, "{told}");
    assert!(told.starts_with("REFUSED: all 30 tool_calls"), "{told}");

    let key = &demo.limited.id;
    let change = format!(
        "ALTER TABLE tollbook.usage_events UPDATE tool_calls = tool_calls + 1 WHERE tool_calls = 1 \
         AND concat('key_', replaceAll(toString(key_id), '-', '')) = '{key}' SETTINGS mutations_sync = 1"
    );
    plant.clickhouse.query(&change).await.unwrap_or_else(|error| panic!("{}", error.report()));
    let (code, told) = question(&plant, &["audit"]).await;
    let sum = last_line(&told);
    assert_eq!((code, &sum["ok"]), (1, &false.into()), "{told}");
    assert!(sum["differences"].as_u64() >= Some(1) && told.contains(&demo.tenant), "{told}");
    plant.stop().await.unwrap();
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_millis()).unwrap()).to_string()
}

/// Asks the ledger's binary: its exit code and what it printed.
async fn question(plant: &Plant, args: &[&str]) -> (i32, String) {
    let asked = tokio::process::Command::new(ledger())
        .args(args)
        .env("LEDGER_NATS_URL", plant.nats.url())
        .env("LEDGER_POSTGRES_URL", &plant.addresses.database)
        .env("LEDGER_CLICKHOUSE_URL", &plant.addresses.clickhouse)
        .output();
    let output = asked.await.unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let code = output.status.code().unwrap();
    (code, if code == 2 { told.concat() } else { told[0].clone() })
}

/// Where the services' binaries are, as the stack finds them.
fn ledger() -> PathBuf {
    let beside = || std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    std::env::var_os("TOLLBOOK_BIN_DIR").map_or_else(beside, PathBuf::from).join("ledger")
}

fn last_line(text: &str) -> Value {
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}
