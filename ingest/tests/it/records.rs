//! What the rows hold, one record of each kind; and what a restart, a resend and a poison message leave behind.

use std::{collections::BTreeMap, sync::LazyLock};

use schemas::{
    Epoch, KeyId, LeaseId, MeterName, Outcome, ProjectId, Quantity, Record, RefusalReason,
    Resolution, Shard, TenantId, Timestamp, UsageBatch, UsageEvent,
};
use uuid::Uuid;

use crate::world::World;

fn batch(first_seq: u64, records: Vec<Record>) -> UsageBatch {
    UsageBatch {
        v: 1,
        node: "n1".parse().unwrap(),
        epoch: Epoch(7),
        shard: Shard(3),
        first_seq,
        records,
    }
}

/// Its call is admitted a second after `hour` of 1970.
fn event(hour: i64, tool: &str) -> UsageEvent {
    UsageEvent {
        at: Timestamp(hour * 3_600_000 + 1_000),
        tenant: TenantId(Uuid::from_u128(1)),
        project: ProjectId(Uuid::from_u128(2)),
        key: KeyId(Uuid::from_u128(3)),
        lease: Some(LeaseId(Uuid::from_u128(4))),
        method: "tools/call".into(),
        tool: tool.into(),
        outcome: Outcome::Success,
        quantities: BTreeMap::from([
            (MeterName::tool_calls(), Quantity(1)),
            ("tokens".parse().unwrap(), Quantity(512)),
        ]),
        duration_us: 123_456,
        bytes_in: 10,
        bytes_out: 20,
        server: None,
        trace: None,
    }
}

/// The hour before this one, since 1970.
static HOUR: LazyLock<i64> = LazyLock::new(|| crate::model::now_ms() / 3_600_000 - 1);

#[tokio::test]
async fn every_kind_of_record_is_one_row_with_all_it_said() {
    let world = World::start().await;
    let usage = event(*HOUR, "zürich \t tool");
    let (tenant, project, key) = (usage.tenant, usage.project, usage.key);
    let refused = Record::Refused {
        at: usage.at,
        tenant,
        project,
        key,
        tool: "search".into(),
        reason: RefusalReason::UpstreamUnavailable,
        calls: Quantity(5),
    };
    let spent = BTreeMap::from([(MeterName::tool_calls(), Quantity(9))]);
    let closed = Record::LeaseClosed { lease: LeaseId(Uuid::from_u128(4)), tenant, spent };
    let free = UsageEvent {
        quantities: BTreeMap::new(),
        lease: None,
        outcome: Outcome::Timeout,
        server: Some("time".into()),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap()),
        ..event(*HOUR, "x")
    };
    let records =
        vec![Record::Usage(usage), refused, closed, Record::Usage(free), Record::EpochEnded];
    let ingest = world.ingest();
    let seq = world.publish_batch(&batch(1, records)).await;
    let last = world.publish_ledger().await;
    world.until_rolled(last).await;

    let rows = "SELECT stream_seq, seq, node, epoch, shard, record, toUnixTimestamp64Milli(at), \
                tenant_id = toUUID('00000000-0000-0000-0000-000000000001'), toString(key_id), toString(lease_id), \
                method, tool, outcome, refusal, calls, tool_calls, quantities, duration_us, bytes_in, bytes_out, \
                server, trace_id, span_id FROM meter.usage_events WHERE record IN ('usage', 'refused') ORDER BY seq";
    let (at, id) = (*HOUR * 3_600_000 + 1_000, |n: u8| format!("00000000-0000-0000-0000-{n:012}"));
    let wanted = [
        format!(
            "{seq}\t1\tn1\t7\t3\tusage\t{at}\t1\t{}\t{}\ttools/call\tzürich \\t tool\tsuccess\tnone\t1\t1\t{{'tokens':512}}\t123456\t10\t20\t\t\t",
            id(3),
            id(4)
        ),
        format!(
            "{seq}\t2\tn1\t7\t3\trefused\t{at}\t1\t{}\t{}\t\tsearch\tnone\tupstream_unavailable\t5\t0\t{{}}\t0\t0\t0\t\t\t",
            id(3),
            id(0)
        ),
        format!(
            "{seq}\t4\tn1\t7\t3\tusage\t{at}\t1\t{}\t{}\ttools/call\tx\ttimeout\tnone\t1\t0\t{{}}\t123456\t10\t20\ttime\t0af7651916cd43dd8448eb211c80319c\tb7ad6b7169203331",
            id(3),
            id(0)
        ),
    ];
    assert_eq!(world.ask(rows).await, wanted.join("\n"));
    let others = "SELECT stream_seq, seq, record, quantities, tool_calls, calls, at = received_at, toString(lease_id) \
                  FROM meter.usage_events WHERE record NOT IN ('usage', 'refused') ORDER BY stream_seq, seq";
    let wanted = [
        format!("{seq}\t3\tlease_closed\t{{'tool_calls':9}}\t0\t0\t1\t{}", id(4)),
        format!("{seq}\t5\tepoch_ended\t{{}}\t0\t0\t1\t{}", id(0)),
        format!("{last}\t0\tmark\t{{}}\t0\t0\t1\t{}", id(0)),
    ];
    assert_eq!(world.ask(others).await, wanted.join("\n"));
    let rolled = "SELECT tool, toUnixTimestamp(hour), sum(calls), sum(free), sum(refused), sum(bytes_out), \
                  toUInt32(ifNotFinite(quantilesTimingMerge(0.5, 0.95, 0.99)(duration)[1], 0)) FROM meter.usage_hour \
                  WHERE seq_hi > 0 AND tool != '' GROUP BY ALL ORDER BY ALL";
    let hour = *HOUR * 3600;
    let wanted = format!(
        "search\t{hour}\t0\t0\t5\t0\t0\nx\t{hour}\t0\t1\t0\t20\t123\nzürich \\t tool\t{hour}\t1\t0\t0\t20\t123"
    );
    assert_eq!(world.ask(rolled).await, wanted);
    ingest.stop().await;
}

#[tokio::test]
async fn a_record_that_is_published_again_is_counted_once_also_after_a_restart() {
    let world = World::start().await;
    let calls = |n: usize| (0..n).map(|_| Record::Usage(event(*HOUR, "t"))).collect::<Vec<_>>();
    let ingest = world.ingest();
    world.publish_batch(&batch(1, calls(5))).await;
    let last = world.publish_batch(&batch(3, calls(4))).await; // 3..=5 again, 6 new
    world.until_rolled(last).await;
    ingest.stop().await;

    world.publish_batch(&batch(1, calls(6))).await; // all again
    world.publish_batch(&batch(9, calls(2))).await; // 7 and 8 are missing
    let again = world.ingest();
    let last = world.publish_batch(&batch(9, calls(1))).await;
    world.until_rolled(last).await;
    let positions = "SELECT groupArray(seq) FROM (SELECT seq FROM meter.usage_events WHERE record = 'usage' ORDER BY seq)";
    assert_eq!(world.ask(positions).await, "[1,2,3,4,5,6,9,10]");
    again.stop().await;

    let third = world.ingest(); // Starts from a table with a gap.
    let last = world.publish_batch(&batch(6, calls(6))).await; // 7, 8 and 11 are new
    world.until_rolled(last).await;
    assert_eq!(world.ask(positions).await, "[1,2,3,4,5,6,7,8,9,10,11]");
    assert_eq!(world.ask("SELECT sum(calls) FROM meter.usage_hour").await, "11");
    third.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_whole_and_holds_nothing_up() {
    let world = World::start().await;
    let ingest = world.ingest();
    let bad = world.publish("usage.3.n1".to_owned(), b"{\"v\":1, \xff\x00 tail".to_vec()).await;
    let newer = world.publish("usage.3.n1".to_owned(), b"{\"v\":9}".to_vec()).await;
    let stray = world
        .publish(
            "usage.5.n2".to_owned(),
            serde_json::to_vec(&batch(1, vec![Record::EpochEnded])).unwrap(),
        )
        .await;
    let good = world.publish_batch(&batch(1, vec![Record::Usage(event(*HOUR, "t"))])).await;
    let last = world.publish("usage.3.n1".to_owned(), vec![]).await;
    world.until_rolled(last).await;
    let rows = "SELECT stream_seq, subject, reason, hex(payload) FROM meter.quarantine ORDER BY stream_seq";
    let stray_payload =
        "SELECT length(payload) > 50 FROM meter.quarantine WHERE reason = 'subject'";
    let found = world.ask(rows).await;
    let lines: Vec<Vec<&str>> = found.lines().map(|line| line.split('\t').collect()).collect();
    let heads: Vec<_> =
        lines.iter().map(|line| (line[0].parse().unwrap(), line[1], line[2])).collect();
    assert_eq!(
        heads,
        [
            (bad, "usage.3.n1", "json"),
            (newer, "usage.3.n1", "version"),
            (stray, "usage.5.n2", "subject"),
            (last, "usage.3.n1", "json"),
        ]
    );
    assert_eq!(lines[0][3], "7B2276223A312C20FF00207461696C");
    assert_eq!(world.ask(stray_payload).await, "1");
    let usage = "SELECT stream_seq FROM meter.usage_events WHERE record = 'usage'";
    assert_eq!(world.ask(usage).await, good.to_string());
    ingest.stop().await;
}

#[tokio::test]
async fn what_the_ledger_holds_back_counts_for_nothing_until_a_person_lets_it_out() {
    let world = World::start().await;
    let ingest = world.ingest();
    let call = |hour: i64| Record::Usage(event(hour, "t"));
    let old = *HOUR - 36 * 24;
    let seq = world.publish_batch(&batch(1, vec![call(*HOUR), call(old), call(*HOUR + 3)])).await;
    let sums = "SELECT sum(tool_calls), countIf(record = 'held') FROM meter.usage_events";
    let rolled = "SELECT sum(calls), sum(free) FROM meter.usage_hour";
    world.until_rolled(seq).await;
    assert_eq!((world.ask(sums).await, world.ask(rolled).await), ("1\t2".into(), "1\t0".into()));
    let last = world.release(Resolution::Counted(Box::new(event(*HOUR, "t")))).await;
    world.until_rolled(last).await;
    assert_eq!(world.ask(rolled).await, "2\t0");
    ingest.stop().await;

    let again = world.ingest(); // What was let out has no position and hides none.
    let lost = batch(3, vec![call(*HOUR), call(*HOUR)]);
    let last = world.release(Resolution::Replayed(Box::new(lost))).await;
    world.until_rolled(last).await;
    assert_eq!(world.ask(rolled).await, "3\t0", "position 3 was seen, position 4 was not");
    again.stop().await;
}

#[tokio::test]
async fn one_large_batch_is_one_part() {
    let world = World::start().await;
    let mut last = 0;
    for message in 0..40u64 {
        let records = (0..4_000).map(|_| Record::EpochEnded).collect();
        last = world.publish_batch(&batch(message * 4_000 + 1, records)).await;
    }
    let mut config = world.config(&world.address());
    (config.batch_rows, config.flush_ms) = (160_000, 5_000);
    let ingest = crate::world::Ingest::start(config);
    world.until_rolled(last).await;
    let parts = "SELECT max(rows) FROM system.parts WHERE database = 'meter' AND table = 'usage_events' AND level = 0";
    let largest: u64 = world.ask(parts).await.parse().unwrap();
    let total: u64 = world
        .ask("SELECT count() FROM meter.usage_events WHERE record != 'mark'")
        .await
        .parse()
        .unwrap();
    assert_eq!(total, 160_000);
    assert!(
        largest > 65_536,
        "blocks were not put together: {largest} rows in the largest part as written"
    );
    ingest.stop().await;
}
