//! What an audit found, as text for a person; the last line is JSON for a program.

use std::{collections::BTreeMap, fmt::Write};

use schemas::{Hour, Timestamp};
use serde_json::json;

use super::{Findings, Gap, scan::Behind, tie_out::Tied};
use crate::questions::{
    Answer,
    table::{age, table},
};

/// How many rows of a kind are named; the rest is counted.
const MAX_NAMED: usize = 50;

pub(super) fn report(found: &Findings) -> Answer {
    let good = is_good(found);
    let sections = [
        gaps(found),
        held(found),
        quarantined(found),
        closed(found),
        lag("ledger", "not yet folded", found.unfolded, found.now),
        tied(found),
        conflicts(found),
    ];
    let mut text = sections.concat();
    let sum = json!({
        "gaps": found.gaps.len(),
        "held_units": found.held.values().map(|held| held.units).sum::<u64>(),
        "quarantined": found.quarantined.len(),
        "closed_hours": found.closed.len(),
        "differences": found.tied.as_ref().map(|tied| tied.differences.len()),
        "conflicts": found.conflicts.len(),
        "ledger_behind": found.unfolded.messages,
        "clickhouse_behind": found.tied.as_ref().map(|_| found.unread.messages),
        "ok": good,
    });
    writeln!(text, "{sum}").expect("a String takes all");
    Answer { text, good }
}

/// Young gaps and lags are the life of the system; all else here should not be.
fn is_good(found: &Findings) -> bool {
    let since = found.now.plus_ms(-found.grace_ms);
    let is_old = |at: Timestamp| at <= since;
    let old_gap = |gap: &Gap| gap.shown.is_none_or(|(_, at)| is_old(at));
    let lags = [found.unfolded, found.unread];
    !found.gaps.iter().any(old_gap)
        && !lags.iter().any(|lag| lag.oldest.is_some_and(is_old))
        && found.quarantined.is_empty()
        && found.conflicts.is_empty()
        && found.tied.as_ref().is_none_or(|tied| tied.differences.is_empty())
}

/// A headline and its rows, cut where there are too many.
fn section(headline: &str, names: &[&str], mut rows: Vec<Vec<String>>) -> String {
    let more = rows.len().saturating_sub(MAX_NAMED);
    rows.truncate(MAX_NAMED);
    let mut text = format!("{headline}\n{}", table(names, &rows));
    if more > 0 {
        writeln!(text, "  and {more} more").expect("a String takes all");
    }
    text
}

fn gaps(found: &Findings) -> String {
    let positions: u64 = found.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
    let headline = match found.gaps.len() {
        0 => "gaps: none".to_owned(),
        gaps => format!("gaps: {gaps}, {positions} positions are missing"),
    };
    let row = |gap: &Gap| {
        let (seq, since) = match gap.shown {
            Some((seq, at)) => (seq.to_string(), age(found.now.ms_since(at))),
            None => ("expired".to_owned(), "older than the log".to_owned()),
        };
        vec![
            gap.node.to_string(),
            gap.epoch.0.to_string(),
            gap.shard.to_string(),
            format!("{}..{}", gap.first, gap.last),
            since,
            seq,
        ]
    };
    let names = ["node", "epoch", "shard", "missing", "age", "shown by LOG"];
    section(&headline, &names, found.gaps.iter().map(row).collect())
}

fn held(found: &Findings) -> String {
    let units: u64 = found.held.values().map(|held| held.units).sum();
    let expired: u64 = found.held.values().map(|held| held.expired).sum();
    let headline =
        format!("units held by nodes: {units}, {expired} of them by leases that have ended");
    let rows = found.held.iter().map(|((node, tenant, meter), held)| {
        vec![
            node.to_string(),
            tenant.to_string(),
            meter.to_string(),
            held.units.to_string(),
            held.leases.to_string(),
            held.expired.to_string(),
        ]
    });
    let names = ["node", "tenant", "meter", "units", "leases", "ended"];
    section(&headline, &names, rows.collect())
}

fn quarantined(found: &Findings) -> String {
    let mut by_reason: BTreeMap<&str, (u64, i64, i64)> = BTreeMap::new();
    for kept in &found.quarantined {
        let (count, oldest_ms, seq) = by_reason.entry(&kept.reason).or_default();
        *count += 1;
        if kept.age_ms >= *oldest_ms {
            (*oldest_ms, *seq) = (kept.age_ms, kept.seq);
        }
    }
    let headline = match found.quarantined.len() {
        0 => "quarantine: empty".to_owned(),
        kept => format!("quarantine: {kept}"),
    };
    let rows = by_reason.into_iter().map(|(reason, (count, oldest_ms, seq))| {
        vec![count.to_string(), age(oldest_ms), seq.to_string(), reason.to_owned()]
    });
    section(&headline, &["count", "oldest", "its sequence", "reason"], rows.collect())
}

fn closed(found: &Findings) -> String {
    let headline = format!("closed hours: {}", found.closed.len());
    let rows = found.closed.iter().rev().map(|(hour, closed)| {
        let shards: Vec<String> = closed.shards.iter().map(ToString::to_string).collect();
        let behind: Vec<&str> = closed.behind.iter().map(String::as_str).collect();
        let behind = if behind.is_empty() { "no usage".to_owned() } else { behind.join(" ") };
        vec![Hour(*hour).start().to_string(), shards.join(" "), behind, closed.last_seq.to_string()]
    });
    section(&headline, &["hour", "shards", "nodes behind", "by LOG"], rows.collect())
}

fn lag(who: &str, what: &str, lag: Behind, now: Timestamp) -> String {
    match lag.oldest {
        None => format!("{who}: has all messages\n"),
        Some(oldest) => {
            let since = age(now.ms_since(oldest));
            format!("{who}: {} messages {what}, the oldest stored {since} ago\n", lag.messages)
        }
    }
}

fn tied(found: &Findings) -> String {
    let Some(Tied { compared, left_out, differences }) = &found.tied else {
        return "ledger = ClickHouse: not asked (no ClickHouse was named)\n".to_owned();
    };
    let mut text = lag("ClickHouse", "behind the ledger", found.unread, found.now);
    let headline = format!(
        "ledger = ClickHouse: {compared} cells (tenant, hour, meter) compared, {left_out} left out for lag, {} differ",
        differences.len()
    );
    let rows = differences.iter().map(|cell| {
        vec![
            cell.tenant.clone(),
            cell.hour.start().to_string(),
            cell.meter.clone(),
            cell.ledger.to_string(),
            cell.clickhouse.to_string(),
        ]
    });
    let names = ["tenant", "hour", "meter", "ledger", "clickhouse"];
    text.push_str(&section(&headline, &names, rows.collect()));
    text
}

fn conflicts(found: &Findings) -> String {
    let headline = format!(
        "conflicts: {} ({} records were sent again as they were)",
        found.conflicts.len(),
        found.resent
    );
    let rows = found.conflicts.iter().map(|conflict| {
        vec![
            conflict.node.to_string(),
            conflict.epoch.0.to_string(),
            conflict.shard.to_string(),
            conflict.position.to_string(),
            conflict.first_seq.to_string(),
            conflict.seq.to_string(),
        ]
    });
    let names = ["node", "epoch", "shard", "position", "counted from LOG", "differs at LOG"];
    section(&headline, &names, rows.collect())
}
