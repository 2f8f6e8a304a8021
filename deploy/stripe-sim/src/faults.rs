//! Faults on order: what goes wrong with the next matching requests or deliveries.
//!
//! A rule acts `count` times and is gone; the first matching rule acts alone. Nothing here is random: a script that orders the
//! same faults sees the same failures.

use serde::{Deserialize, Serialize};

/// An order for the API side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiRule {
    pub kind: ApiFault,
    /// Only this HTTP method.
    #[serde(default)]
    pub method: Option<String>,
    /// Only paths that start with this.
    #[serde(default)]
    pub path: Option<String>,
    /// How many requests it meets; absent: one.
    #[serde(default = "one")]
    pub count: u32,
    /// How many matching requests pass first.
    #[serde(default)]
    pub skip: u32,
    /// `slow` only: real milliseconds between the request and its effect, unless the orders are cleared before.
    #[serde(default)]
    pub delay_ms: u64,
}

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFault {
    /// The connection breaks before anything happens.
    LostBefore,
    /// Everything happens, then the connection breaks instead of the answer.
    LostAfter,
    /// 500 without effect; an idempotency key keeps it for 24 h.
    #[serde(rename = "stored_500")]
    Stored500,
    /// 503 without effect; not kept.
    #[serde(rename = "unavailable_503")]
    Unavailable503,
    /// The connection is reset before anything happens.
    Reset,
    /// 429 because something else holds the object: without effect, not kept, and without a reason header.
    LockTimeout,
    /// The effect and the answer come late; what the request holds (its key, its customer and meter) stays held meanwhile.
    Slow,
}

impl ApiFault {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LostBefore => "lost_before",
            Self::LostAfter => "lost_after",
            Self::Stored500 => "stored_500",
            Self::Unavailable503 => "unavailable_503",
            Self::Reset => "reset",
            Self::LockTimeout => "lock_timeout",
            Self::Slow => "slow",
        }
    }
}

/// An order for the delivery side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryRule {
    pub kind: DeliveryFault,
    /// Only events whose type starts with this.
    #[serde(default)]
    pub event_type: Option<String>,
    /// How many deliveries it meets; absent: one.
    #[serde(default = "one")]
    pub count: u32,
    /// How many matching deliveries pass first.
    #[serde(default)]
    pub skip: u32,
    /// `delay`: how long it waits. `reorder`: how long it waits at most. Real milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
}

/// What a delivery meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryFault {
    /// After it was taken, the same event comes once more.
    Duplicate,
    /// It waits until another delivery has ended, or for `delay_ms` (2 s when 0).
    Reorder,
    /// It waits for `delay_ms`.
    Delay,
    /// It is never sent; only `GET /v1/events` knows of it.
    Drop,
    /// The first attempt is signed with another secret.
    WrongSignature,
    /// The first attempt carries a good signature of ten minutes ago.
    StaleStamp,
    /// It comes under a type that nobody knows; `GET /v1/events` shows the real one.
    UnknownType,
    /// It lacks every attribute that is null.
    MissingFields,
    /// The change is told by two events of their own. Met when the change happens, so `skip` and `count` count changes.
    Twin,
}

impl DeliveryFault {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::WrongSignature => "wrong_signature",
            Self::StaleStamp => "stale_stamp",
            Self::UnknownType => "unknown_type",
            Self::MissingFields => "missing_fields",
            Self::Twin => "twin",
        }
    }
}

impl DeliveryRule {
    fn wants(&self, event_type: &str) -> bool {
        self.event_type.as_ref().is_none_or(|prefix| event_type.starts_with(prefix.as_str()))
    }
}

fn one() -> u32 {
    1
}

/// The orders that are still open. Also the body of `POST /_sim/faults`, which adds to them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    pub api: Vec<ApiRule>,
    pub delivery: Vec<DeliveryRule>,
}

impl Faults {
    pub fn add(&mut self, more: Self) {
        self.api.extend(more.api);
        self.delivery.extend(more.delivery);
    }

    /// The fault that a request meets, with its delay in milliseconds.
    pub fn meet_request(&mut self, method: &str, path: &str) -> Option<(ApiFault, u64)> {
        let fits = |rule: &ApiRule| {
            rule.method.as_ref().is_none_or(|own| own.eq_ignore_ascii_case(method))
                && rule.path.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()))
        };
        meet(&mut self.api, fits, |rule| (&mut rule.skip, &mut rule.count))
            .map(|rule| (rule.kind, rule.delay_ms))
    }

    /// The fault that a delivery meets, with its delay in milliseconds.
    pub fn meet_delivery(&mut self, event_type: &str) -> Option<(DeliveryFault, u64)> {
        let fits = |rule: &DeliveryRule| rule.kind != DeliveryFault::Twin && rule.wants(event_type);
        meet(&mut self.delivery, fits, |rule| (&mut rule.skip, &mut rule.count))
            .map(|rule| (rule.kind, rule.delay_ms))
    }

    /// True: the change that is told just now gets a second event.
    pub fn meet_event(&mut self, event_type: &str) -> bool {
        let fits = |rule: &DeliveryRule| rule.kind == DeliveryFault::Twin && rule.wants(event_type);
        meet(&mut self.delivery, fits, |rule| (&mut rule.skip, &mut rule.count)).is_some()
    }
}

/// Lets the first fitting rule act or pass, and drops it once it is used up.
fn meet<R: Clone>(
    rules: &mut Vec<R>,
    fits: impl Fn(&R) -> bool,
    counters: impl Fn(&mut R) -> (&mut u32, &mut u32),
) -> Option<R> {
    let at = rules.iter().position(fits)?;
    let (skip, count) = counters(&mut rules[at]);
    if *skip > 0 {
        *skip -= 1;
        return None;
    }
    *count = count.saturating_sub(1);
    let used_up = *count == 0;
    let rule = rules[at].clone();
    if used_up {
        rules.remove(at);
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Faults {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_rule_skips_acts_and_is_gone() {
        let mut faults = faults(
            r#"{"api":[{"kind":"unavailable_503","path":"/v1/billing","skip":1,"count":2}]}"#,
        );
        assert_eq!(faults.meet_request("POST", "/v1/customers"), None);
        assert_eq!(faults.meet_request("POST", "/v1/billing/meters"), None);
        assert_eq!(
            faults.meet_request("POST", "/v1/billing/meters"),
            Some((ApiFault::Unavailable503, 0))
        );
        assert_eq!(
            faults.meet_request("POST", "/v1/billing/meters"),
            Some((ApiFault::Unavailable503, 0))
        );
        assert_eq!(faults.meet_request("POST", "/v1/billing/meters"), None);
        assert!(faults.api.is_empty());
    }

    #[test]
    fn a_delivery_rule_can_name_event_types() {
        let mut faults = faults(r#"{"delivery":[{"kind":"drop","event_type":"invoice."}]}"#);
        assert_eq!(faults.meet_delivery("customer.created"), None);
        assert_eq!(faults.meet_delivery("invoice.paid"), Some((DeliveryFault::Drop, 0)));
        assert_eq!(faults.meet_delivery("invoice.paid"), None);
    }

    #[test]
    fn twins_are_met_by_changes_and_all_else_by_deliveries() {
        let mut faults = faults(r#"{"delivery":[{"kind":"twin"},{"kind":"drop"}]}"#);
        assert_eq!(faults.meet_delivery("a"), Some((DeliveryFault::Drop, 0)));
        assert_eq!(faults.meet_delivery("a"), None);
        assert!(faults.meet_event("a"));
        assert!(!faults.meet_event("a"));
    }

    #[test]
    fn an_unknown_fault_is_refused() {
        assert!(serde_json::from_str::<Faults>(r#"{"api":[{"kind":"meteor"}]}"#).is_err());
        assert!(serde_json::from_str::<Faults>(r#"{"apis":[]}"#).is_err());
    }
}
