//! How fast one key may call: the generic cell rate algorithm, and a bound on calls that run at the same time.
//!
//! A call is allowed when the time at which the bucket would be empty again (`full_us`) is no further away than a burst
//! allows. One number a key, no timers, no queue; a refused call changes nothing, so hammering does not push the next
//! allowed call away. The limits are this node's share (a lease carries it) and may change at any call. Absent on
//! purpose: dividing a key's rate over nodes (the ledger's work).

use schemas::RateLimits;

/// What one key has used of its rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// When everything that was taken will have been paid back. Unit: microseconds of the node's monotonic clock.
    full_us: u64,
    /// Calls that run.
    running: u32,
}

/// Why a call must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooFast {
    /// The rate: the next call is allowed after this time. Unit: milliseconds. Range: from 1.
    Wait(u64),
    /// Too many run; nobody knows when one ends.
    Running,
}

const MINUTE_US: u64 = 60_000_000;

impl Rate {
    /// Takes one call, or says why not; a taken one goes back by [`Rate::done`]. `now_ms` = the monotonic clock.
    ///
    /// # Errors
    /// The call must wait; nothing has changed then.
    pub fn take(&mut self, now_ms: u64, limits: RateLimits) -> Result<(), TooFast> {
        if limits.concurrent.is_some_and(|max| self.running >= max) {
            return Err(TooFast::Running);
        }
        let now_us = now_ms.saturating_mul(1_000);
        let each_us = MINUTE_US / u64::from(limits.per_minute.max(1));
        let max_us = each_us.saturating_mul(u64::from(limits.burst.max(1)));
        // A share that became smaller must not owe more than its own burst.
        let full_us = self.full_us.clamp(now_us, now_us.saturating_add(max_us)) + each_us;
        let ahead_us = full_us - now_us;
        if ahead_us > max_us {
            return Err(TooFast::Wait((ahead_us - max_us).div_ceil(1_000).max(1)));
        }
        self.full_us = full_us;
        self.running += 1;
        Ok(())
    }

    /// A taken call does not go on after all: as if it had not been taken.
    pub fn give_back(&mut self, limits: RateLimits) {
        let each_us = MINUTE_US / u64::from(limits.per_minute.max(1));
        self.full_us = self.full_us.saturating_sub(each_us);
        self.done();
    }

    /// Whether it is as one that was never used.
    #[must_use]
    pub fn is_idle(&self, now_ms: u64) -> bool {
        self.running == 0 && self.full_us <= now_ms.saturating_mul(1_000)
    }

    /// A taken call has ended.
    pub fn done(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Calls that could come at once now.
    #[must_use]
    pub fn left(&self, now_ms: u64, limits: RateLimits) -> u64 {
        let each_us = MINUTE_US / u64::from(limits.per_minute.max(1));
        let ahead_us = self.full_us.saturating_sub(now_ms.saturating_mul(1_000));
        u64::from(limits.burst.max(1)).saturating_sub(ahead_us.div_ceil(each_us.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(per_minute: u32, burst: u32, concurrent: Option<u32>) -> RateLimits {
        RateLimits { per_minute, burst, concurrent }
    }

    #[test]
    fn a_burst_goes_at_once_and_then_one_at_a_time() {
        let (mut rate, limits) = (Rate::default(), limits(60, 3, None));
        for left in [2, 1, 0] {
            assert_eq!(rate.take(5_000, limits), Ok(()));
            assert_eq!(rate.left(5_000, limits), left);
        }
        assert_eq!(rate.take(5_000, limits), Err(TooFast::Wait(1_000)));
        assert_eq!(rate.take(5_400, limits), Err(TooFast::Wait(600)), "asking changes nothing");
        assert_eq!(rate.take(6_000, limits), Ok(()));
        assert_eq!(rate.take(6_000, limits), Err(TooFast::Wait(1_000)));
        assert_eq!(rate.left(60_000, limits), 3, "a pause fills it, to the brim and no further");
    }

    #[test]
    fn calls_that_run_are_bounded() {
        let (mut rate, limits) = (Rate::default(), limits(6_000, 100, Some(2)));
        assert_eq!((rate.take(0, limits), rate.take(0, limits)), (Ok(()), Ok(())));
        assert_eq!(rate.take(0, limits), Err(TooFast::Running));
        rate.done();
        assert_eq!(rate.take(0, limits), Ok(()));
    }

    #[test]
    fn a_smaller_share_counts_from_now() {
        let mut rate = Rate::default();
        for _ in 0..1_000 {
            rate.take(0, limits(60_000, 1_000, None)).unwrap();
        }
        assert_eq!(rate.take(0, limits(60, 1, None)), Err(TooFast::Wait(1_000)));
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let (mut rate, limits) = (Rate::default(), limits(60, 2, Some(2)));
        rate.take(0, limits).unwrap();
        let before = rate;
        rate.take(10, limits).unwrap();
        rate.give_back(limits);
        assert_eq!(rate, before);
        rate.give_back(limits);
        assert!(rate.is_idle(0));
    }

    #[test]
    fn a_rate_without_an_end_bounds_only_what_runs() {
        let (mut rate, limits) = (Rate::default(), limits(u32::MAX, u32::MAX, Some(10_000)));
        assert!((0..10_000).all(|_| rate.take(0, limits).is_ok()));
        assert_eq!(rate.take(0, limits), Err(TooFast::Running));
    }

    proptest! {
        /// Over any span no more calls go than a burst and the rate allow.
        #[test]
        fn the_rate_holds(
            per_minute in 1u32..5_000,
            burst in 1u32..50,
            pauses in proptest::collection::vec(0u64..3_000, 1..200),
        ) {
            let (mut rate, limits) = (Rate::default(), limits(per_minute, burst, None));
            let (mut now, mut taken) = (0u64, 0u64);
            for pause in pauses {
                now += pause;
                taken += u64::from(rate.take(now, limits).is_ok());
            }
            let each_us = MINUTE_US / u64::from(per_minute);
            prop_assert!(taken <= u64::from(burst) + now * 1_000 / each_us);
        }
    }
}
