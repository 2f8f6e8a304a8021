//! What a served call is told of its quotas: what is left, and which of them near their limit.
//!
//! Told, never decided by: it is as true as this node's newest lease. Absent on purpose: where it is put (the shell
//! knows headers and streams).

use std::{fmt::Write as _, sync::Arc};

use schemas::{MeterName, Notice, QuotaKind, Scope, TOOL_CALLS, Timestamp};
use serde_json::{Value, json};

use crate::lease_book::Hint;

/// The member of a result's `_meta` that holds it.
pub const META: &str = "dev.tollbook/quota";

/// What one call is told.
#[derive(Clone, Debug, Default)]
pub struct QuotaNote {
    /// What is left of the tightest quota of `tool_calls`.
    pub hint: Option<Hint>,
    /// The same of other limited meters.
    pub others: Vec<(MeterName, Hint)>,
    /// The quotas used to 80 % or more, hard and soft.
    pub notices: Option<Arc<[Notice]>>,
}

impl QuotaNote {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hint.is_none() && self.others.is_empty() && self.notices.is_none()
    }

    /// The warnings as a list of structured fields (RFC 9651): the meter, then `scope`, `kind`, `percent`, the limit
    /// `q`, and `t`, the seconds until its period ends. `None` = no quota nears its limit.
    #[must_use]
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let notices = self.notices.as_deref()?;
        let mut text = String::new();
        for notice in notices {
            let comma = if text.is_empty() { "" } else { ", " };
            let seconds = notice.period.to.ms_since(now).max(0).unsigned_abs().div_ceil(1_000);
            let (meter, limit, percent) = (notice.meter.as_str(), notice.limit.0, notice.percent);
            let (scope, kind) = (scope(notice.scope), kind(notice.kind));
            write!(
                text,
                "{comma}\"{meter}\";scope={scope};kind={kind};percent={percent};q={limit};t={seconds}"
            )
            .expect("a text takes all that is written to it");
        }
        Some(text)
    }

    /// The member of `_meta`, name and value.
    #[must_use]
    pub fn member(&self) -> String {
        let mut told = json!({});
        if let Some(hint) = self.hint {
            told["meter"] = TOOL_CALLS.into();
            told["limit"] = hint.limit.into();
            put_left(&mut told, &hint);
        }
        if !self.others.is_empty() {
            told["meters"] = self.others.iter().map(other).collect();
        }
        if let Some(notices) = &self.notices {
            told["warnings"] = notices.iter().map(warning).collect();
        }
        format!(r#""{META}":{told}"#)
    }
}

fn other((meter, hint): &(MeterName, Hint)) -> Value {
    let mut told = json!({ "meter": meter.as_str(), "limit": hint.limit });
    put_left(&mut told, hint);
    told
}

fn put_left(told: &mut Value, hint: &Hint) {
    told["remaining"] = hint.remaining.into();
    if hint.at_least {
        told["atLeast"] = true.into();
    }
    told["resetAt"] = hint.period.to.to_string().into();
}

fn warning(notice: &Notice) -> Value {
    json!({
        "meter": notice.meter.as_str(),
        "scope": scope(notice.scope),
        "kind": kind(notice.kind),
        "limit": notice.limit.0,
        "used": notice.consumed.0,
        "percent": notice.percent,
        "resetAt": notice.period.to.to_string(),
    })
}

/// Whose quota it is, in one word.
#[must_use]
pub fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Tenant(_) => "tenant",
        Scope::Project(_) => "project",
        Scope::Key(_) => "key",
    }
}

fn kind(kind: QuotaKind) -> &'static str {
    match kind {
        QuotaKind::Hard => "hard",
        QuotaKind::Soft => "soft",
    }
}

#[cfg(test)]
mod tests {
    use schemas::{KeyId, Period, Quantity};
    use uuid::Uuid;

    use super::*;

    fn note() -> QuotaNote {
        let period = Period { from: Timestamp(0), to: Timestamp(86_400_000) };
        let notice = Notice {
            scope: Scope::Key(KeyId(Uuid::nil())),
            meter: "tokens".parse().unwrap(),
            kind: QuotaKind::Soft,
            limit: Quantity(1_000),
            consumed: Quantity(1_040),
            period,
            percent: 104,
        };
        let other = Notice { kind: QuotaKind::Hard, percent: 80, ..notice.clone() };
        let hint = Hint { remaining: 7, at_least: false, limit: 50, period };
        let tokens = Hint { remaining: 900, at_least: true, limit: 1_000, period };
        let others = vec![("tokens".parse().unwrap(), tokens)];
        QuotaNote { hint: Some(hint), others, notices: Some([notice, other].into()) }
    }

    #[test]
    fn warnings_are_a_list_of_structured_fields() {
        let text = note().warning(Timestamp(86_340_500)).unwrap();
        let first = r#""tokens";scope=key;kind=soft;percent=104;q=1000;t=60"#;
        let second = r#""tokens";scope=key;kind=hard;percent=80;q=1000;t=60"#;
        assert_eq!(text, format!("{first}, {second}"));
        assert_eq!(QuotaNote::default().warning(Timestamp(0)), None);
    }

    #[test]
    fn the_member_says_what_is_left_and_what_nears_its_limit() {
        let told: Value = serde_json::from_str(&format!("{{{}}}", note().member())).unwrap();
        let told = &told[META];
        assert_eq!((&told["remaining"], &told["limit"]), (&json!(7), &json!(50)));
        assert_eq!(
            (&told["resetAt"], &told["atLeast"]),
            (&json!(Timestamp(86_400_000).to_string()), &Value::Null)
        );
        let soft = &told["warnings"][0];
        assert_eq!((&soft["kind"], &soft["percent"]), (&json!("soft"), &json!(104)));
        assert_eq!((&soft["used"], &soft["meter"]), (&json!(1_040), &json!("tokens")));
        let tokens = &told["meters"][0];
        assert_eq!((&tokens["meter"], &tokens["remaining"]), (&json!("tokens"), &json!(900)));
        assert_eq!(tokens["atLeast"], true, "more may be left");
        assert!(QuotaNote::default().is_empty());
    }
}
