//! `ledger rebuild` and `ledger at`: the log alone gives the state that was live.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use runtime::nats::Reader;
use schemas::{ControlFact, LeaseId, Timestamp, subject};
use serde_json::Value;

use super::{a_life, decided, last_line, now, outside};
use crate::world::{SHARDS, TestNode, World, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_equals_the_live_state_and_names_a_row_that_was_changed_by_hand() {
    let mut world = World::new().await;
    let _ledger = a_life(&mut world).await;
    let (code, told, log) = world.question(&["rebuild"]).await;
    assert_eq!(code, 0, "{told}{log}");
    let sum = last_line(&told);
    assert_eq!((&sum["shards"], &sum["equal"]), (&SHARDS.into(), &true.into()), "{told}");
    assert_eq!(sum["events"], 2 + 3 * 8 + 3, "every record of every node: {told}");
    for table in ["checkpoint", "fold_state", "key_state", "meter_use", "hour_total", "threshold"] {
        assert!(told.contains(table), "{table} is compared: {told}");
    }
    assert_eq!(schemas_like(&world, "ledger_rebuild_%").await, 0, "the scratch schema is gone");
    let other = world.database("other").await;
    let (code, told, log) = world.question(&["rebuild", "--into", &other]).await;
    assert_eq!((code, &last_line(&told)["equal"]), (0, &true.into()), "{told}{log}");
    let kept = sqlx::query_scalar::<_, i64>("select count(*) from ledger.checkpoint");
    assert!(kept.fetch_one(&sqlx::PgPool::connect(&other).await.unwrap()).await.unwrap() > 0);

    let key = world.key.to_string();
    let tampered =
        sqlx::query("update ledger.meter_use set consumed = consumed - 1 where scope = $1");
    tampered.bind(&key).execute(&world.pool).await.unwrap();
    sqlx::query("delete from ledger.hour_closed where cardinality(behind) = 2")
        .execute(&world.pool)
        .await
        .unwrap();
    let (code, told, _) = world.question(&["rebuild", "--schema", "second"]).await;
    assert_eq!((code, &last_line(&told)["equal"]), (1, &false.into()), "{told}");
    let names = |table: &str, of: &str| {
        told.lines().any(|line| line.starts_with(&format!("{table} ")) && line.contains(of))
    };
    assert!(names("meter_use", &key), "{told}");
    assert!(names("hour_closed", "[") && told.contains("(no such row)"), "{told}");
    assert!(!names("key_state", "") && !names("hour_total", ""), "only what differs: {told}");

    assert_eq!(schemas_like(&world, "second").await, 1, "what was named is kept");
    let (code, _, log) = world.question(&["rebuild", "--schema", "second"]).await;
    assert_eq!(code, 2);
    assert!(log.contains("is not empty"), "{log}");
}

async fn schemas_like(world: &World, name: &str) -> i64 {
    let query = "select count(*) from pg_namespace where nspname like $1";
    sqlx::query_scalar(query).bind(name).fetch_one(&world.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_at_a_place_is_what_was_live_there() {
    const LIVE: &str = "select c.seq, u.consumed, u.outstanding,
        (select jsonb_agg(body -> 'lease' -> 'row' order by id) from ledger.fold_state where kind = 'lease')::text
        from ledger.checkpoint c, ledger.meter_use u where c.shard = $1 and u.scope = $2
        order by u.period_from desc limit 1";
    let mut world = World::new().await;
    let _ledger = a_life(&mut world).await;
    let (seq, consumed, outstanding, leases): (i64, i64, i64, String) = sqlx::query_as(LIVE)
        .bind(i32::from(world.shard().0))
        .bind(world.key.to_string())
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(consumed > 0 && outstanding > 0);
    let mut node = TestNode::new(&world, "later");
    let lease = node.granted(world.key, LeaseId(id(99)), 8).await;
    node.publish(vec![TestNode::call(&lease)]).await;
    let revoked = ControlFact::KeyRevoked { key: world.key };
    decided(&mut world, vec![revoked]).await;

    let tenant = world.tenant.to_string();
    let then = state_at(&world, &["--seq", &seq.to_string(), "--tenant", &tenant]).await;
    let of_key = |view: &Value, part: &str, field: &str| {
        let of = view[part].as_array().unwrap().iter();
        let key = world.key.to_string();
        of.filter(|row| row[field].to_string().contains(&key)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(then["seq"], seq);
    let quotas = of_key(&then, "quotas", "scope");
    assert_eq!(quotas.len(), 1);
    assert_eq!(
        (&quotas[0]["consumed"], &quotas[0]["outstanding"]),
        (&consumed.into(), &outstanding.into())
    );
    assert_eq!(of_key(&then, "keys", "key")[0]["status"], "active");
    assert_eq!(then["leases"], serde_json::from_str::<Value>(&leases).unwrap());
    assert_eq!(then["nodes"]["n2"]["1"]["missing"], serde_json::json!([[5, 6]]));
    let closed = then["hours_closed"].as_array().unwrap();
    assert!(closed.iter().any(|hour| hour["behind"] == serde_json::json!(["early-1", "early-2"])));

    let moment = stored_at(&world, u64::try_from(seq).unwrap()).await;
    let by_time = state_at(&world, &["--time", &moment.to_string(), "--tenant", &tenant]).await;
    assert!(by_time["seq"].as_i64() >= Some(seq));
    let end = state_at(&world, &["--time", "2999-01-01T00:00:00Z", "--tenant", &tenant]).await;
    assert_eq!(of_key(&end, "keys", "key")[0]["status"], "revoked");
    let (_, all, _) = world.question(&["at", "--seq", &seq.to_string()]).await;
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    assert_eq!(all.len(), usize::from(SHARDS));
    assert_eq!(all[usize::from(world.shard().0)], then, "the same place is the same bytes");
    let (code, _, log) = world.question(&["at", "--seq", "999999999"]).await;
    assert!(code == 2 && log.contains("there is no sequence 999999999"), "{log}");
}

async fn state_at(world: &World, args: &[&str]) -> Value {
    let (code, told, log) = world.question(&[&["at"], args].concat()).await;
    assert_eq!(code, 0, "{log}");
    let mut shards: Vec<Value> = serde_json::from_str(&told).unwrap();
    assert_eq!(shards.len(), 1, "one tenant has one shard");
    shards.remove(0)
}

/// When the log stored a message.
async fn stored_at(world: &World, seq: u64) -> Timestamp {
    let mut reader = Reader::open(&world.connection, subject::LOG, &[], seq - 1).await.unwrap();
    let messages = reader.next(1, Duration::from_secs(10)).await.unwrap();
    Timestamp(messages[0].stored_at_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_beginning_is_not_folded_from_its_middle() {
    let world = World::new().await;
    let metadata = [(subject::SHARDS_METADATA.to_owned(), SHARDS.to_string())].into();
    let config = Config {
        name: subject::LOG.into(),
        subjects: vec!["usage.*.*".into(), "ledger.*".into()],
        first_sequence: Some(100),
        metadata,
        ..Config::default()
    };
    world.connection.jetstream.create_stream(config).await.unwrap();
    let call = outside(&world, now(), 1);
    TestNode::new(&world, "n1").publish(vec![call]).await;
    let (code, told, log) = world.question(&["at", "--seq", "100"]).await;
    assert_eq!((code, told.as_str()), (2, ""));
    assert!(log.contains("LOG begins at sequence 100"), "{log}");
}
