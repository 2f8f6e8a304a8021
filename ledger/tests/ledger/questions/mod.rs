//! Questions that people ask, put to the real binary beside a ledger that serves.

mod audit;
mod explain;
mod resolve;
mod state;

use std::time::Duration;

use schemas::{
    ControlFact, KeyDigest, KeyId, LeaseId, MeterName, Outcome, PeriodRule, Quantity, QuotaKind,
    QuotaRule, Record, Scope, Timestamp, UsageBatch, UsageEvent, subject,
};
use serde_json::Value;
use stack::Part;

use crate::world::{TestNode, World, eventually, id, kill};

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
        server: None,
        trace: None,
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
    let timeout = Duration::from_secs(20);
    runtime::nats::wait_for_stream(jetstream, subject::LOG, timeout).await.unwrap();
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
