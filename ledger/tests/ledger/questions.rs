//! Questions that people ask, put to the real binary beside a ledger that serves.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use runtime::nats::Reader;
use schemas::{
    Access, ControlFact, KeyDigest, KeyId, LeaseAnswer, LeaseId, LeaseRefusal, MeterName, Outcome,
    PeriodRule, Quantity, QuotaKind, QuotaRule, Record, Scope, Shard, Timestamp, UsageBatch,
    UsageEvent, subject,
};
use serde_json::Value;
use stack::Part;

use crate::world::{SHARDS, TestNode, World, eventually, id, kill};

fn quota(scope: Scope, limit: u64, kind: QuotaKind) -> ControlFact {
    let (meter, period) = (MeterName::tool_calls(), PeriodRule::Month);
    ControlFact::QuotaSet {
        quota: QuotaRule { scope, meter, limit: Quantity(limit), kind, period },
    }
}

fn key_created(world: &World, number: u128, expires_at: Option<Timestamp>) -> (KeyId, ControlFact) {
    let key = KeyId(id(number));
    let fact = ControlFact::KeyCreated {
        tenant: world.tenant,
        project: world.project,
        key,
        name: "another".into(),
        digest: KeyDigest::of(&number.to_string()),
        hint: String::new(),
        scopes: vec![],
        tools: None,
        expires_at,
    };
    (key, fact)
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_millis()).unwrap())
}

/// A call that no lease covers.
fn outside(world: &World, at: Timestamp, units: u64) -> Record {
    Record::Usage(UsageEvent {
        at,
        tenant: world.tenant,
        project: world.project,
        key: world.key,
        lease: None,
        method: "tools/call".into(),
        tool: "echo".into(),
        outcome: Outcome::Success,
        quantities: [(MeterName::tool_calls(), Quantity(units))].into(),
        duration_us: 1,
        bytes_in: 1,
        bytes_out: 1,
    })
}

/// Decides, and gives the checkpoint behind the decision.
async fn decided(world: &mut World, facts: Vec<ControlFact>) -> u64 {
    world.decide(facts).await;
    let control = world.connection.jetstream.get_stream(subject::CONTROL).await.unwrap();
    let last = i64::try_from(control.cached_info().state.last_sequence).unwrap();
    let taken = || async {
        let seq = sqlx::query_scalar::<_, i64>("select max(control_seq) from ledger.checkpoint");
        seq.fetch_one(&world.pool).await.unwrap() >= last
    };
    eventually("the decision is taken in", taken).await;
    world.folded().await
}

fn last_line(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// Publishes records at positions of the test's choice.
async fn publish_at(world: &World, node: &mut TestNode, first_seq: u64, records: Vec<Record>) {
    let (name, epoch, shard) = (node.node.clone(), node.epoch, world.shard());
    node.send(&UsageBatch { v: 1, node: name, epoch, shard, first_seq, records }).await;
}

/// A life with all that a ledger meets: usage before and after its tenant, an hour closed by two nodes, quotas, a key
/// revoked, a ledger killed, records sent again, a gap, messages that cannot be counted.
async fn a_life(world: &mut World) -> stack::Service {
    let mut ledger = world.ledger("ledger").await;
    let jetstream = &world.connection.jetstream;
    let patience = Duration::from_secs(20);
    runtime::nats::wait_for_stream(jetstream, subject::LOG, patience).await.unwrap();
    for name in ["early-1", "early-2"] {
        let an_hour_ago = now().plus_ms(-3_600_000);
        let call = outside(world, an_hour_ago, 2);
        TestNode::new(world, name).publish(vec![call]).await;
    }
    world.tenant(Some(100)).await;
    let (other, created) = key_created(world, 7, None);
    let project = Scope::Project(world.project);
    world.decide(vec![created, quota(project, 10, QuotaKind::Soft)]).await;
    world.decide(vec![ControlFact::KeyRevoked { key: other }]).await;
    for number in 1..4u128 {
        let mut node = TestNode::new(world, &format!("n{number}"));
        let lease = node.granted(world.key, LeaseId(id(50 + number)), 8).await;
        if number == 2 {
            kill(&mut ledger).await;
            ledger.start_again().await.unwrap();
        }
        let calls: Vec<Record> = (0..4).map(|_| TestNode::call(&lease)).collect();
        node.publish(calls.clone()).await;
        publish_at(world, &mut node, 1, calls).await;
        match number {
            1 => node.publish(vec![TestNode::close(&lease, 4)]).await,
            2 => publish_at(world, &mut node, 7, vec![TestNode::call(&lease)]).await,
            _ => node.publish(vec![outside(world, now(), 10_u64.pow(13))]).await,
        }
    }
    let subject = format!("usage.{}.n9", world.shard());
    let poison = world.connection.jetstream.publish(subject, "{\"v\":1,".into());
    poison.await.unwrap().await.unwrap();
    world.folded().await;
    let closed = || async { count(world, "hour_closed where cardinality(behind) = 2").await == 1 };
    eventually("the last hour is closed", closed).await;
    assert_eq!(count(world, "quarantine").await, 2);
    let told = || async { count(world, "threshold").await == 2 };
    eventually("80 and 100 % are told", told).await;
    ledger
}

async fn count(world: &World, rows: &str) -> i64 {
    let query = sqlx::AssertSqlSafe(format!("select count(*) from ledger.{rows}"));
    sqlx::query_scalar(query).fetch_one(&world.pool).await.unwrap()
}

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
        from ledger.checkpoint c, ledger.meter_use u where c.shard = $1 and u.scope = $2";
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

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_is_what_the_ledger_would_have_said() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(10)).await;
    let fresh = world.folded().await;
    let mut node = TestNode::new(&world, "n1");
    let mut leases = Vec::new();
    loop {
        let lease = LeaseId(id(50 + leases.len() as u128));
        match node.ask(world.key, lease, 10).await {
            LeaseAnswer::Granted(lease) => leases.push(lease),
            LeaseAnswer::Refused { why: LeaseRefusal::UnitsHeld { .. }, .. } => break,
            LeaseAnswer::Refused { why, .. } => panic!("{why:?}"),
        }
    }
    let held = world.folded().await;
    for lease in &leases {
        let units = lease.shares[0].units.0;
        node.publish((0..units).map(|_| TestNode::call(lease)).collect()).await;
        node.publish(vec![TestNode::close(lease, units)]).await;
    }
    let spent = world.folded().await;
    let key = world.key;
    let raised = decided(&mut world, vec![quota(Scope::Key(key), 20, QuotaKind::Hard)]).await;
    let access = |access, reason: &str| {
        let (tenant, reason) = (world.tenant, reason.to_owned());
        vec![ControlFact::AccessChanged { tenant, access, reason, subscription: None }]
    };
    let (unpaid, paid) =
        (access(Access::Suspended, "payment overdue"), access(Access::Active, "paid"));
    let suspended = decided(&mut world, unpaid).await;
    let (brief, created) = key_created(&world, 8, Some(now().plus_ms(3_600_000)));
    decided(&mut world, [paid, vec![created]].concat()).await;
    let revoked = decided(&mut world, vec![ControlFact::KeyRevoked { key }]).await;

    let at = |seq: u64| explained(&world, key, vec!["--seq".into(), seq.to_string()]);
    let found = at(fresh).await;
    assert_eq!((&found["verdict"], &found["units"][0][1]), (&"would_get_lease".into(), &2.into()));
    assert_eq!(found["because"][0]["by"], "test");
    let found = at(held).await;
    assert_eq!(found["verdict"], "allowed_under_lease");
    assert_eq!(
        (&found["node"], &found["elsewhere"]["reason"]),
        (&"n1".into(), &"units_held".into())
    );
    assert_eq!(
        (&found["quotas"][0]["left"], &found["quotas"][0]["outstanding"]),
        (&0.into(), &10.into())
    );
    assert_eq!(found["leases"].as_array().unwrap().len(), leases.len());
    assert!(found["leases"][0]["granted_seq"].as_u64().unwrap() <= held);
    let found = at(spent).await;
    assert_eq!(
        (&found["verdict"], &found["reason"]),
        (&"refused".into(), &"quota_exhausted".into())
    );
    assert_eq!(found["until"], found["quotas"][0]["within"]["to"]);
    let found = at(raised).await;
    assert_eq!(
        (&found["verdict"], &found["quotas"][0]["left"]),
        (&"would_get_lease".into(), &10.into())
    );
    assert_eq!(found["quotas"][0]["because"]["what"], "quota set to 20");
    let found = at(suspended).await;
    assert_eq!(found["reason"], "suspended");
    assert_eq!(found["because"][1]["what"], "access changed: payment overdue");
    let found = at(revoked).await;
    assert_eq!(
        (&found["reason"], &found["because"][1]["what"]),
        (&"revoked".into(), &"key revoked".into())
    );
    assert!(found["because"][1]["log_seq"].as_u64().unwrap() <= revoked);

    let later = vec!["--time".to_owned(), now().plus_ms(7_200_000).to_string()];
    assert_eq!(explained(&world, brief, later).await["reason"], "expired");
    let (code, told, _) = ask_why(&world, key, &["--seq", &spent.to_string()]).await;
    assert!(code == 0 && told.starts_with("REFUSED: all 10 tool_calls"), "{told}");
    let (code, _, log) = ask_why(&world, KeyId(id(77)), &["--seq", "1"]).await;
    assert!(code == 2 && log.contains("there was no key_"), "{log}");
}

/// Units that only a lease holds which has ended, and is not settled, are nobody's to spend.
#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_lease_that_ended_unsettled_are_held() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(1)).await;
    let node = TestNode::new(&world, "n1");
    node.granted(world.key, LeaseId(id(50)), 1).await;
    world.folded().await;
    let later = vec!["--at".to_owned(), now().plus_ms(600_000).to_string()];
    let found = explained(&world, world.key, later).await;
    assert_eq!((&found["verdict"], &found["reason"]), (&"refused".into(), &"units_held".into()));
    assert_eq!(found["leases"][0]["spendable"], false);
}

async fn ask_why(world: &World, key: KeyId, args: &[&str]) -> (i32, String, String) {
    let key = key.to_string();
    world.question(&[&["explain", "--key", key.as_str()], args].concat()).await
}

async fn explained(world: &World, key: KeyId, mut args: Vec<String>) -> Value {
    args.extend(["--json".into(), "--tenant".into(), world.tenant.to_string()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (code, told, log) = ask_why(world, key, &args).await;
    assert_eq!(code, 0, "{log}");
    serde_json::from_str(&told).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_a_gap_and_a_conflict_and_forgives_a_resend() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(Some(100)).await;
    let mut node = TestNode::new(&world, "n1");
    let lease = node.granted(world.key, LeaseId(id(50)), 20).await;
    let call = || TestNode::call(&lease);
    publish_at(&world, &mut node, 1, vec![call(), call()]).await;
    publish_at(&world, &mut node, 2, vec![call()]).await;
    world.folded().await;
    // With no grace at all, a seal that is just being folded is a lag.
    let ok = || async { world.question(&["audit", "--grace", "0"]).await.0 == 0 };
    eventually("nothing is wrong", ok).await;
    let (_, told, _) = world.question(&["audit", "--grace", "3600"]).await;
    let sum = last_line(&told);
    assert_eq!((&sum["gaps"], &sum["conflicts"], &sum["ok"]), (&0.into(), &0.into(), &true.into()));
    assert_eq!((&sum["held_units"], &sum["differences"]), (&18.into(), &Value::Null), "{told}");
    assert!(told.contains("1 records were sent again as they were"), "{told}");

    publish_at(&world, &mut node, 4, vec![call()]).await;
    let shown = world.folded().await;
    let (code, told, _) = world.question(&["audit", "--grace", "0"]).await;
    assert_eq!((code, &last_line(&told)["gaps"]), (1, &1.into()), "{told}");
    let line = told.lines().find(|line| line.contains("3..3")).unwrap();
    assert!(line.contains("n1") && line.ends_with(&shown.to_string()), "{told}");
    let (code, told, _) = world.question(&["audit", "--grace", "3600"]).await;
    assert_eq!(
        (code, &last_line(&told)["ok"]),
        (0, &true.into()),
        "a young gap is forgiven: {told}"
    );

    let mut other = call();
    if let Record::Usage(event) = &mut other {
        event.tool = "another".into();
    }
    publish_at(&world, &mut node, 3, vec![call(), other]).await;
    world.folded().await;
    let (code, told, _) = world.question(&["audit"]).await;
    let sum = last_line(&told);
    assert_eq!((code, &sum["gaps"], &sum["conflicts"]), (1, &0.into(), &1.into()), "{told}");
    let conflicts = told.split("conflicts:").nth(1).unwrap();
    let places: Vec<&str> = conflicts.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(
        (places[0], places[3], places[4]),
        ("n1", "4", shown.to_string().as_str()),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_quarantine_is_listed_shown_and_fails_the_audit() {
    let mut world = World::new().await;
    let _ledger = world.ledger("ledger").await;
    world.tenant(None).await;
    let subject = subject::usage(Shard(world.shard().0), &"n9".parse().unwrap());
    let sent = world.connection.jetstream.publish(subject, "{\"v\":1,".into()).await.unwrap();
    let poison = sent.await.unwrap().sequence;
    let mut node = TestNode::new(&world, "n1");
    let too_much = outside(&world, now(), 10_u64.pow(13));
    node.publish(vec![outside(&world, now(), 1), too_much]).await;
    let seq = world.folded().await;
    let (code, list, _) = world.question(&["quarantine", "list"]).await;
    assert_eq!(code, 0);
    assert_eq!(list.lines().count(), 3, "{list}");
    let place = format!("{}/2", list_place(&list, "/2"));
    assert!(seq >= place.trim_end_matches("/2").parse().unwrap());
    let (code, shown, _) = world.question(&["quarantine", "show", &poison.to_string()]).await;
    assert!(code == 0 && shown.contains("payload  {\"v\":1,"), "{shown}");
    let (code, shown, _) = world.question(&["quarantine", "show", &place]).await;
    assert!(code == 0 && shown.contains("10000000000000"), "{shown}");
    let (code, _, log) = world.question(&["quarantine", "show", "1"]).await;
    assert!(code == 2 && log.contains("1/0 is not in quarantine"), "{log}");
    let (code, told, _) = world.question(&["audit"]).await;
    assert_eq!((code, &last_line(&told)["quarantined"]), (1, &2.into()), "{told}");
}

/// The sequence in front of a record's number.
fn list_place<'a>(list: &'a str, record: &str) -> &'a str {
    let mut words = list.split_whitespace();
    words.find_map(|word| word.strip_suffix(record)).unwrap()
}
