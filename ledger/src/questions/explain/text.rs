//! An explanation as text for a person: the verdict first, then what it stands on.

use std::fmt::Write;

use schemas::{KeyStatus, QuotaKind};

use super::{Explanation, LeaseThen, LimitingQuota, verdict::Verdict};
use crate::questions::table::table;

pub(super) fn text(found: &Explanation) -> String {
    let Explanation { as_of, key, because, quotas, leases, verdict } = found;
    let mut text = String::new();
    let allowed = if verdict.allows() { "ALLOWED" } else { "REFUSED" };
    let mut line = |words: String| writeln!(text, "{words}").expect("a String takes all");
    line(format!("{allowed}: {}", words(verdict)));
    let (moment, shard, seq) = (as_of.moment, as_of.shard, as_of.seq);
    line(format!("as of {moment}, LOG {seq} of shard {shard}"));
    line(String::new());
    line(format!("{} of {} / {}", key.key, key.project, key.tenant));
    let status = match key.status {
        KeyStatus::Pending => "pending",
        KeyStatus::Active => "active",
        KeyStatus::Suspended => "suspended",
        KeyStatus::Revoked => "revoked",
    };
    let reason = if key.reason.is_empty() { String::new() } else { format!(": {}", key.reason) };
    line(format!("  status   {status}{reason}"));
    for cause in because {
        line(format!("  because  {cause}"));
    }
    let expires = key.expires_at.map_or("never".to_owned(), |end| end.to_string());
    line(format!("  expires  {expires}"));
    let listed = |list: &[String]| if list.is_empty() { "none".into() } else { list.join(", ") };
    line(format!("  tools    {}", key.tools.as_deref().map_or("all".into(), listed)));
    if let Some(rate) = key.rate {
        let at_once = rate.concurrent.map_or(String::new(), |max| format!(", {max} at once"));
        line(format!("  rate     {} a minute, burst {}{at_once}", rate.per_minute, rate.burst));
    }
    line(String::new());
    text.push_str(&quotas_text(quotas));
    text.push('\n');
    text.push_str(&leases_text(leases));
    text
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::AllowedUnderLease { lease, node, elsewhere } => {
            let elsewhere = match &**elsewhere {
                Verdict::Refused { .. } => {
                    format!("any other node is refused: {}", words(elsewhere))
                }
                allowed => format!("any other node {}", words(allowed)),
            };
            format!("at {node} under {lease}, without a question; {elsewhere}")
        }
        Verdict::WouldGetLease { units, until } if units.is_empty() => {
            format!("would get a lease without a limit until {until}")
        }
        Verdict::WouldGetLease { units, until } => {
            let units: Vec<String> =
                units.iter().map(|(meter, units)| format!("{units} {meter}")).collect();
            format!("would get a lease of up to {} until {until}", units.join(" and "))
        }
        Verdict::Refused { detail, .. } => detail.clone(),
    }
}

fn quotas_text(quotas: &[LimitingQuota]) -> String {
    if quotas.is_empty() {
        return "no quota limits it\n".to_owned();
    }
    let mut text = "quotas\n".to_owned();
    let rows: Vec<Vec<String>> = quotas
        .iter()
        .map(|LimitingQuota { quota, .. }| {
            let kind = match quota.rule.kind {
                QuotaKind::Hard => "hard",
                QuotaKind::Soft => "soft: warns, never refuses",
            };
            vec![
                quota.rule.scope.to_string(),
                quota.rule.meter.to_string(),
                kind.to_owned(),
                quota.rule.limit.0.to_string(),
                quota.consumed.to_string(),
                quota.outstanding.to_string(),
                quota.left.to_string(),
                format!("{} to {}", quota.within.from, quota.within.to),
            ]
        })
        .collect();
    let names = ["scope", "meter", "kind", "limit", "consumed", "in leases", "left", "period"];
    text.push_str(&table(&names, &rows));
    for cause in quotas.iter().filter_map(|quota| quota.because.as_ref()) {
        writeln!(text, "  because  {cause}").expect("a String takes all");
    }
    text
}

fn leases_text(leases: &[LeaseThen]) -> String {
    if leases.is_empty() {
        return "no lease is open\n".to_owned();
    }
    let rows: Vec<Vec<String>> = leases.iter().map(lease_row).collect();
    let names = ["lease", "node", "epoch", "granted at LOG", "units", "spent", "until", ""];
    format!("open leases\n{}", table(&names, &rows))
}

fn lease_row(open: &LeaseThen) -> Vec<String> {
    let each = |part: fn(&(u64, u64)) -> u64| {
        let parts: Vec<String> =
            open.units.iter().map(|(meter, units)| format!("{} {meter}", part(units))).collect();
        if parts.is_empty() { "any".to_owned() } else { parts.join(", ") }
    };
    let state = match (open.forfeited, open.spendable) {
        (true, _) => "written off",
        (false, true) => "",
        (false, false) => "no longer spent",
    };
    vec![
        open.lease.to_string(),
        open.node.to_string(),
        open.epoch.0.to_string(),
        open.granted_seq.to_string(),
        each(|(units, _)| *units),
        each(|(_, spent)| *spent),
        open.until.to_string(),
        state.to_owned(),
    ]
}
