//! How fast a key spends, so that it asks for what it will need.

/// The fewest units that are asked for.
pub const LEAST_WANT: u64 = 8;
/// The most units that are asked for.
pub const MAX_WANT: u64 = 1_000_000;
/// A burst is measured over at least this long. Unit: milliseconds.
const SHORTEST_SPAN_MS: u64 = 1_000;

/// Units taken since a moment.
#[derive(Debug)]
pub(super) struct Pace {
    since_ms: u64,
    taken: u64,
    /// How long leases last here, as the ledger last granted. Unit: milliseconds.
    ttl_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { since_ms: 0, taken: 0, ttl_ms: 90_000 }
    }
}

impl Pace {
    pub fn took_one(&mut self, now_ms: u64) {
        if self.taken == 0 {
            self.since_ms = now_ms;
        }
        self.taken = self.taken.saturating_add(1);
    }

    pub fn granted(&mut self, ttl_ms: u64) {
        if ttl_ms > 0 {
            self.ttl_ms = ttl_ms;
        }
    }

    /// The units expected over one lease; the measure begins anew once it is older than that.
    pub fn want(&mut self, now_ms: u64) -> u64 {
        let span_ms = now_ms.saturating_sub(self.since_ms).max(SHORTEST_SPAN_MS);
        let expected = u128::from(self.taken) * u128::from(self.ttl_ms) / u128::from(span_ms);
        if span_ms > self.ttl_ms {
            self.taken = 0;
        }
        u64::try_from(expected).unwrap_or(MAX_WANT).clamp(LEAST_WANT, MAX_WANT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_follows_the_speed_both_ways() {
        let mut pace = Pace::default();
        assert_eq!(pace.want(5_000), LEAST_WANT, "a key nobody used");
        pace.took_one(10_000);
        assert_eq!(pace.want(10_000), 90, "one call at once may be the first of one a second");
        (0..999).for_each(|_| pace.took_one(10_500));
        assert_eq!(pace.want(20_000), 9_000, "1,000 in 10 s over 90 s");
        assert_eq!(pace.want(110_000), 900, "then nothing for 90 s");
        assert_eq!(pace.want(200_000), LEAST_WANT);
        (0..u32::from(u16::MAX)).for_each(|_| pace.took_one(300_000));
        assert_eq!(pace.want(300_000), MAX_WANT);
    }
}
