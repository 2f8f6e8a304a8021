//! Rate limits by the second: buckets of one second's worth of requests, filled by the simulator's clock.
//!
//! Off unless the account's settings name a profile. While the clock stands still nothing fills: the same script meets the same
//! refusals. Source of the numbers: docs.stripe.com/rate-limits. Absent on purpose: limits on concurrency, apart from that of meter
//! events, and the monthly allowance of reads.

use crate::error::ApiError;
use crate::settings::Rates;
use std::collections::HashMap;

/// What a bucket counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    All,
    /// Method and path, ids left out.
    Endpoint(String),
    MeterEvents,
    Stream,
}

/// Thousandths of a request that are left, as of an instant.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: i64,
    at_ms: i64,
}

/// The buckets in use.
#[derive(Debug, Default)]
pub struct Limiter {
    pub rates: Rates,
    buckets: HashMap<Scope, Bucket>,
}

impl Limiter {
    /// Takes one request out of every bucket that it falls under, or out of none.
    ///
    /// # Errors
    /// 429 with the reason, when one of them is empty.
    pub fn take(&mut self, method: &str, path: &str, now_ms: i64) -> Result<(), ApiError> {
        let limits = limits(self.rates, method, path);
        for (scope, per_second, reason) in &limits {
            if self.fill(scope, *per_second, now_ms).left < 1000 {
                return Err(ApiError::rate_limited(reason));
            }
        }
        for (scope, per_second, _) in &limits {
            self.fill(scope, *per_second, now_ms).left -= 1000;
        }
        Ok(())
    }

    fn fill(&mut self, scope: &Scope, per_second: i64, now_ms: i64) -> &mut Bucket {
        let full = per_second * 1000;
        let bucket =
            self.buckets.entry(scope.clone()).or_insert(Bucket { left: full, at_ms: now_ms });
        let passed = (now_ms - bucket.at_ms).max(0); // A clock that went back fills nothing.
        bucket.left = bucket.left.saturating_add(passed.saturating_mul(per_second)).min(full);
        bucket.at_ms = now_ms;
        bucket
    }
}

/// The buckets of a request: what, requests a second, and the reason that a refusal gives.
fn limits(rates: Rates, method: &str, path: &str) -> Vec<(Scope, i64, &'static str)> {
    let meter_event = method == "POST" && path.ends_with("/billing/meter_events");
    let stream = path == "/v2/billing/meter_event_stream";
    let endpoint = || (Scope::Endpoint(endpoint_of(method, path)), 25, "endpoint-rate");
    match rates {
        Rates::None => vec![],
        Rates::Live if meter_event => vec![(Scope::MeterEvents, 1_000, "endpoint-rate")],
        Rates::Live if stream => vec![(Scope::Stream, 10_000, "endpoint-rate")],
        Rates::Live => vec![(Scope::All, 100, "global-rate"), endpoint()],
        Rates::Sandbox => vec![(Scope::All, 25, "global-rate"), endpoint()],
    }
}

/// An id holds a digit, and so does no other part but the version: two customers are one endpoint.
fn endpoint_of(method: &str, path: &str) -> String {
    let part = |part: &str| {
        let is_version = matches!(part, "v1" | "v2");
        let is_id = !is_version && part.bytes().any(|byte| byte.is_ascii_digit());
        if is_id { "{id}".to_owned() } else { part.to_owned() }
    };
    let parts: Vec<String> = path.split('/').map(part).collect();
    format!("{method} {}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(
        limiter: &mut Limiter,
        method: &str,
        path: &str,
        now_ms: i64,
    ) -> (usize, &'static str) {
        let mut passed = 0;
        loop {
            match limiter.take(method, path, now_ms) {
                Ok(()) => passed += 1,
                Err(error) => return (passed, error.limited.unwrap()),
            }
        }
    }

    #[test]
    fn a_bucket_holds_a_second_and_fills_with_time() {
        let mut limiter = Limiter { rates: Rates::Sandbox, ..Limiter::default() };
        assert_eq!(passing(&mut limiter, "GET", "/v1/events", 0), (25, "global-rate"));
        assert_eq!(passing(&mut limiter, "GET", "/v1/events", 39).0, 0);
        assert_eq!(passing(&mut limiter, "GET", "/v1/events", 40).0, 1);
        assert_eq!(passing(&mut limiter, "GET", "/v1/events", 90_000).0, 25);
        assert_eq!(passing(&mut limiter, "GET", "/v1/events", 0).0, 0, "time went back");
    }

    #[test]
    fn live_accounts_have_buckets_of_their_own_for_meter_events_and_endpoints() {
        let mut limiter = Limiter { rates: Rates::Live, ..Limiter::default() };
        let events = "/v1/billing/meter_events";
        assert_eq!(passing(&mut limiter, "POST", events, 0), (1_000, "endpoint-rate"));
        assert_eq!(passing(&mut limiter, "GET", "/v1/customers/cus_1", 0), (25, "endpoint-rate"));
        assert_eq!(passing(&mut limiter, "GET", "/v1/customers/cus_2", 0), (0, "endpoint-rate"));
        for path in ["/v1/prices", "/v1/products", "/v1/events"] {
            assert_eq!(passing(&mut limiter, "GET", path, 0).0, 25);
        }
        assert_eq!(passing(&mut limiter, "GET", "/v1/invoices", 0), (0, "global-rate"));
    }

    #[test]
    fn without_a_profile_nothing_is_limited() {
        let mut limiter = Limiter::default();
        assert!((0..10_000).all(|_| limiter.take("GET", "/v1/events", 0).is_ok()));
    }
}
