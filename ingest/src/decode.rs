//! One message of `LOG`: a node's batch, the ledger's own facts, or something that cannot be read. Pure.
//!
//! A batch is taken whole or not at all: what one reader leaves out of it another could not tell from a loss.

use schemas::{Record, Timestamp, UsageBatch, fact::VERSION, subject};
use serde::Deserialize;

/// What a message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    Usage(UsageBatch),
    /// The ledger's facts: not ours to keep, but a part of the one order.
    Ledger,
    Unreadable(Unreadable),
}

/// Why a message goes to quarantine.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// A stable word.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
}

/// Event times are taken from the start of 2020 to the start of 2100 (UTC); a rollup's hours must fit 32 bits.
const TIMES: std::ops::Range<i64> = 1_577_836_800_000..4_102_444_800_000;

/// Reads a message.
pub fn read(subject: &str, payload: &[u8]) -> Content {
    if subject.starts_with("ledger.") {
        return Content::Ledger;
    }
    match usage(subject, payload) {
        Ok(batch) => Content::Usage(batch),
        Err(unreadable) => Content::Unreadable(unreadable),
    }
}

fn usage(subject: &str, payload: &[u8]) -> Result<UsageBatch, Unreadable> {
    let refuse = |reason, detail| Err(Unreadable { reason, detail });
    let batch: UsageBatch = match serde_json::from_slice(payload) {
        Ok(batch) => batch,
        Err(error) => return Err(not_a_batch(payload, &error)),
    };
    if batch.v != VERSION {
        return refuse("version", format!("version {} where {VERSION} is known", batch.v));
    }
    if subject != subject::usage(batch.shard, &batch.node) {
        return refuse(
            "subject",
            format!("node {} and shard {} on {subject}", batch.node, batch.shard),
        );
    }
    let len = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
    if len == 0 || batch.first_seq == 0 || batch.first_seq.checked_add(len).is_none() {
        return refuse("positions", format!("{len} records from position {}", batch.first_seq));
    }
    if let Some(at) = batch.records.iter().filter_map(time_of).find(|at| !TIMES.contains(&at.0)) {
        return refuse("time", format!("{} ms since 1970 lies outside 2020 to 2100", at.0));
    }
    Ok(batch)
}

fn time_of(record: &Record) -> Option<Timestamp> {
    match record {
        Record::Usage(event) => Some(event.at),
        Record::Refused { at, .. } => Some(*at),
        Record::LeaseClosed { .. } | Record::EpochEnded => None,
    }
}

/// Tells a newer version from what is no batch at all.
fn not_a_batch(payload: &[u8], error: &serde_json::Error) -> Unreadable {
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    match serde_json::from_slice::<Version>(payload) {
        Ok(Version { v }) if v != VERSION => Unreadable {
            reason: "version",
            detail: format!("version {v} where {VERSION} is known"),
        },
        _ => Unreadable { reason: "json", detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(v: u8, first_seq: u64, record: &str) -> String {
        format!(
            r#"{{"v":{v},"node":"n1","epoch":7,"shard":3,"first_seq":{first_seq},"records":[{record}]}}"#
        )
    }

    const ENDED: &str = r#"{"type":"epoch_ended"}"#;

    #[test]
    fn only_a_whole_batch_on_its_own_subject_is_usage() {
        #[track_caller]
        fn check(subject: &str, payload: &str, reason: &str) {
            match read(subject, payload.as_bytes()) {
                Content::Unreadable(found) => assert_eq!(found.reason, reason, "{}", found.detail),
                other => panic!("{payload} was read as {other:?}"),
            }
        }
        let refused = |at: i64| {
            let ids = r#""tenant":"tnt_00000000000000000000000000000001","project":"prj_00000000000000000000000000000001","key":"key_00000000000000000000000000000001""#;
            format!(
                r#"{{"type":"refused","at":{at},{ids},"tool":"t","reason":"rate_limited","calls":2}}"#
            )
        };
        check("usage.3.n1", "", "json");
        check("usage.3.n1", "{\"v\":1}", "json");
        check("usage.3.n1", "{\"v\":2,\"records\":\"new shape\"}", "version");
        check("usage.3.n1", &batch(2, 1, ENDED), "version");
        check("usage.4.n1", &batch(1, 1, ENDED), "subject");
        check("usage.3.n2", &batch(1, 1, ENDED), "subject");
        check("usage.3.n1", &batch(1, 0, ENDED), "positions");
        check("usage.3.n1", &batch(1, 1, ""), "positions");
        check("usage.3.n1", &batch(1, u64::MAX, ENDED), "positions");
        check("usage.3.n1", &batch(1, 1, r#"{"type":"of_tomorrow"}"#), "json");
        check("usage.3.n1", &batch(1, 1, &refused(TIMES.start - 1)), "time");
        check("usage.3.n1", &batch(1, 1, &refused(TIMES.end)), "time");
        let good = batch(1, 1, &refused(TIMES.end - 1));
        assert!(matches!(read("usage.3.n1", good.as_bytes()), Content::Usage(_)));
        assert!(matches!(read("usage.3.n1", batch(1, 9, ENDED).as_bytes()), Content::Usage(_)));
    }

    #[test]
    fn what_the_ledger_writes_is_its_own() {
        assert_eq!(read("ledger.3", b"anything"), Content::Ledger);
    }
}
