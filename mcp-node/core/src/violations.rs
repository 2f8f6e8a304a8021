//! What a key is told that does not keep to its rate: to wait longer and longer, then nothing for a while.
//!
//! A violation is a refused call that came before the time that the key had been told to wait until, and not just
//! after it was told (calls that were on their way then could not know). So a key that waits as it is told never
//! commits one, whatever its limiter says: it is never told to wait longer, and never blocked. So many violations
//! within a window are a step; each step doubles the wait, and after the last comes a block. A window without a
//! violation takes a step back. One small state a key, on this node; no timers. Absent on purpose: the rate itself
//! (see `rate_limit`), and quotas.

/// Calls refused within this time after a key was told to wait count for nothing. Unit: milliseconds.
pub const GRACE_MS: u64 = 1_000;

/// How the node answers violations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Violations within a window that make a step; 0 = there are no steps.
    pub after: u32,
    /// Unit: milliseconds. Range: from 1.
    pub window_ms: u64,
    /// Steps that double the wait; the next one is the block.
    pub steps: u32,
    /// No doubled wait is longer. Unit: milliseconds.
    pub max_ms: u64,
    /// How long a block lasts. Unit: milliseconds.
    pub block_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { after: 10, window_ms: 60_000, steps: 3, max_ms: 60_000, block_ms: 60_000 }
    }
}

/// What a refused call is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackoffDecision {
    /// When to come back. Unit: milliseconds.
    pub retry_ms: u64,
    /// How many steps the key has gone; 0 = none.
    pub step: u32,
    /// It is blocked: every call is refused.
    pub blocked: bool,
    /// This call made the step.
    pub is_new: bool,
    /// Violations that count towards the next step.
    pub violations: u32,
}

/// What a key that is told to wait should know before it calls on: how far it has gone, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffWarning {
    /// Violations that count towards the next step.
    pub violations: u32,
    /// So many make it.
    pub after: u32,
    /// Within this time. Unit: milliseconds.
    pub window_ms: u64,
    /// Steps gone.
    pub step: u32,
    /// Steps before the block.
    pub steps: u32,
    /// Unit: milliseconds.
    pub block_ms: u64,
}

impl BackoffDecision {
    /// What the key should know; `None` = it is blocked, or there are no steps.
    #[must_use]
    pub fn warning(&self, rules: Backoff) -> Option<BackoffWarning> {
        let Backoff { after, window_ms, steps, block_ms, .. } = rules;
        let Self { violations, step, .. } = *self;
        (after > 0 && !self.blocked).then_some(BackoffWarning {
            violations,
            after,
            window_ms,
            step,
            steps,
            block_ms,
        })
    }
}

/// The violations of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    step: u32,
    /// Violations since `counted_ms`.
    strikes: u32,
    counted_ms: u64,
    /// From when on a time without violations counts as good.
    last_ms: u64,
    /// Since when the key knows until when it must wait.
    told_ms: u64,
    until_ms: u64,
    /// Until then every call is refused.
    shut_ms: u64,
    /// What the limiter last asked for.
    wait_ms: u64,
}

impl Violations {
    /// Until when every call is refused; 0 = never was. Unit: milliseconds of the monotonic clock.
    #[must_use]
    pub fn shut_until(&self) -> u64 {
        self.shut_ms
    }

    /// A call is refused. `wait_ms` = what the limiter asks for; `None` = it was not asked, since the key is shut out.
    pub fn refused(
        &mut self,
        now_ms: u64,
        wait_ms: Option<u64>,
        rules: Backoff,
    ) -> BackoffDecision {
        if rules.after == 0 {
            return BackoffDecision {
                retry_ms: wait_ms.unwrap_or(1),
                ..BackoffDecision::default()
            };
        }
        self.step_back(now_ms, rules);
        self.wait_ms = wait_ms.unwrap_or(self.wait_ms);
        let is_new = self.is_violation(now_ms) && self.strike(now_ms, rules);
        let blocked = self.step > rules.steps;
        if is_new && blocked {
            self.shut_ms = self.shut_ms.max(now_ms.saturating_add(rules.block_ms));
        } else if self.step > 0 && !blocked && (is_new || now_ms >= self.shut_ms) {
            self.shut_ms = self.shut_ms.max(now_ms.saturating_add(self.grown(rules)));
        }
        let shut_ms = self.shut_ms.saturating_sub(now_ms);
        let retry_ms = wait_ms.unwrap_or(0).max(shut_ms).max(1);
        self.tell(now_ms, retry_ms, is_new);
        let violations = if self.is_new_window(now_ms, rules) { 0 } else { self.strikes };
        BackoffDecision { retry_ms, step: self.step, blocked, is_new, violations }
    }

    fn is_violation(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms && now_ms >= self.told_ms.saturating_add(GRACE_MS)
    }

    /// Whether what was counted is too old to count on.
    fn is_new_window(&self, now_ms: u64, rules: Backoff) -> bool {
        now_ms.saturating_sub(self.counted_ms) >= rules.window_ms
    }

    /// Counts a violation; whether it makes a step.
    fn strike(&mut self, now_ms: u64, rules: Backoff) -> bool {
        if self.is_new_window(now_ms, rules) {
            (self.strikes, self.counted_ms) = (0, now_ms);
        }
        self.strikes += 1;
        self.last_ms = now_ms;
        if self.strikes < rules.after || self.step > rules.steps {
            return false;
        }
        (self.strikes, self.counted_ms) = (0, now_ms);
        self.step += 1;
        true
    }

    /// The limiter's wait, doubled a step.
    fn grown(&self, rules: Backoff) -> u64 {
        let factor = 1u64.checked_shl(self.step).unwrap_or(u64::MAX);
        self.wait_ms.saturating_mul(factor).min(rules.max_ms)
    }

    fn tell(&mut self, now_ms: u64, retry_ms: u64, is_new: bool) {
        if now_ms >= self.until_ms || is_new {
            self.told_ms = now_ms;
        }
        self.until_ms = now_ms.saturating_add(retry_ms);
    }

    /// The end of a block is a step back, and so is each window without a violation.
    fn step_back(&mut self, now_ms: u64, rules: Backoff) {
        if self.step > rules.steps && now_ms >= self.shut_ms {
            (self.step, self.last_ms) = (rules.steps, self.shut_ms);
        }
        if now_ms < self.shut_ms {
            return;
        }
        let good = now_ms.saturating_sub(self.last_ms) / rules.window_ms.max(1);
        if self.step > 0 && good > 0 {
            self.step = self.step.saturating_sub(u32::try_from(good).unwrap_or(u32::MAX));
            self.last_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::RateLimits;

    use super::*;
    use crate::rate_limit::{Rate, TooFast};

    const RULES: Backoff =
        Backoff { after: 3, window_ms: 60_000, steps: 2, max_ms: 30_000, block_ms: 20_000 };

    /// A key with one call in ten seconds, and what becomes of its calls.
    #[derive(Default)]
    struct Caller {
        rate: Rate,
        violations: Violations,
    }

    impl Caller {
        /// `None` = it was served.
        fn call(&mut self, now: u64, rules: Backoff) -> Option<BackoffDecision> {
            if now < self.violations.shut_until() {
                return Some(self.violations.refused(now, None, rules));
            }
            let limits = RateLimits { per_minute: 6, burst: 1, concurrent: None };
            match self.rate.take(now, limits) {
                Err(TooFast::Wait(ms)) => Some(self.violations.refused(now, Some(ms), rules)),
                _ => None,
            }
        }
    }

    #[test]
    fn a_key_that_does_not_wait_waits_longer_and_is_then_blocked() {
        let told = |retry_ms, step, blocked, is_new| {
            Some(BackoffDecision { retry_ms, step, blocked, is_new, violations: 0 })
        };
        let steps = [
            (0, None),
            (100, told(9_900, 0, false, false)), // Told to wait until 10,000.
            (1_099, told(8_901, 0, false, false)), // It may not have heard yet.
            (1_100, told(8_900, 0, false, false)), // A violation.
            (1_200, told(8_800, 0, false, false)), // The second.
            (1_300, told(17_400, 1, false, true)), // The third is a step: twice 8,700.
            (2_000, told(16_700, 1, false, false)), // Within the grace of what is new.
            (2_300, told(16_400, 1, false, false)),
            (2_400, told(16_300, 1, false, false)),
            (10_000, told(30_000, 2, false, true)), // The rate would let it go; it is four times, but no more than 30 s.
            (11_000, told(29_000, 2, false, false)),
            (11_001, told(28_999, 2, false, false)),
            (11_002, told(28_998, 3, true, true)), // Blocked: never for less than it was told before.
            (30_000, told(10_000, 3, true, false)),
            (39_999, told(1, 3, true, false)),
            (40_000, None), // The block is over, and it has waited.
            (40_001, told(30_000, 2, false, false)),
        ];
        let mut caller = Caller::default();
        for (now, expected) in steps {
            let found =
                caller.call(now, RULES).map(|told| BackoffDecision { violations: 0, ..told });
            let expected = expected
                .map(|told| BackoffDecision { retry_ms: told.retry_ms.min(30_000), ..told });
            assert_eq!(found, expected, "at {now}");
        }
    }

    #[test]
    fn a_key_is_warned_of_what_follows() {
        let mut caller = Caller::default();
        let mut warned = |now| {
            let warning = caller.call(now, RULES)?.warning(RULES)?;
            Some((warning.violations, warning.step))
        };
        assert_eq!(warned(0), None, "served");
        assert_eq!(warned(100), Some((0, 0)), "before its first violation");
        assert_eq!(warned(1_100), Some((1, 0)));
        assert_eq!(warned(1_200), Some((2, 0)));
        assert_eq!(warned(1_300), Some((0, 1)), "the third is a step, and counting begins anew");
        let off = Backoff { after: 0, ..RULES };
        assert_eq!(caller.call(1_400, off).and_then(|told| told.warning(off)), None);
    }

    /// When a client is blocked that has `per_minute` calls with a burst of a sixth of them, by default, if it is within
    /// an hour; `waits` = its pauses after one refusal, two, and so on, after which it gives up and calls anew.
    fn blocked_ms(per_minute: u32, waits: &[u64]) -> Option<u64> {
        let (mut rate, mut violations) = (Rate::default(), Violations::default());
        let limits = RateLimits { per_minute, burst: per_minute / 6, concurrent: None };
        let (mut now, mut tried, rules) = (0, 0, Backoff::default());
        while now < 3_600_000 {
            let shut = now < violations.shut_until();
            let wait = if shut { Err(TooFast::Wait(0)) } else { rate.take(now, limits) };
            tried = if let Err(TooFast::Wait(ms)) = wait {
                if violations.refused(now, (!shut).then_some(ms), rules).blocked {
                    return Some(now);
                }
                tried + 1
            } else {
                0
            };
            now += waits[tried % waits.len()];
        }
        None
    }

    #[test]
    fn how_soon_a_client_that_does_not_heed_is_blocked() {
        // The README says these figures.
        assert_eq!(blocked_ms(30, &[60]), Some(6_900), "a loop that calls again each 60 ms");
        let doubling = blocked_ms(30, &[50, 500, 1_000, 2_000]).unwrap();
        assert!((90_000..120_000).contains(&doubling), "three tries, 0.5 s doubled: {doubling}");
        for waits in [&[60][..], &[500], &[50, 500, 1_000, 2_000]] {
            assert_eq!(blocked_ms(60, waits), None, "no wait is longer than the grace");
        }
    }

    #[test]
    fn good_behaviour_takes_steps_back() {
        let mut violations = Violations { step: 2, ..Violations::default() };
        assert_eq!(violations.refused(59_999, Some(100), RULES).step, 2);
        assert_eq!(violations.refused(60_000 + 400, Some(100), RULES).step, 1);
        assert_eq!(
            violations.refused(300_000, Some(100), RULES),
            BackoffDecision { retry_ms: 100, ..BackoffDecision::default() }
        );
    }

    #[test]
    fn with_no_steps_configured_the_limiters_word_goes() {
        let (mut caller, off) = (Caller::default(), Backoff { after: 0, ..RULES });
        caller.call(0, off);
        for now in 1..9_000 {
            let told = BackoffDecision { retry_ms: 10_000 - now, ..BackoffDecision::default() };
            assert_eq!(caller.call(now, off), Some(told));
        }
    }

    proptest! {
        /// A key that waits as it was told is never told to wait longer than its limiter asks, and never blocked,
        /// whatever the limiter asks for.
        #[test]
        fn who_waits_as_told_is_never_punished(
            calls in proptest::collection::vec((0u64..5_000, proptest::option::of(1u64..50_000)), 1..200),
            after in 1u32..3,
        ) {
            let rules = Backoff { after, ..RULES };
            let (mut violations, mut now) = (Violations::default(), 0);
            for (pause, wait) in calls {
                now += pause;
                prop_assert!(now >= violations.shut_until(), "shut out");
                let Some(wait) = wait else { continue };
                let told = violations.refused(now, Some(wait), rules);
                prop_assert_eq!(told, BackoffDecision { retry_ms: wait, ..BackoffDecision::default() });
                now += told.retry_ms;
            }
        }

        /// However a key behaves: no wait is longer than the limiter's, the longest doubled one or the block; and what
        /// it is told is true: nothing shuts it out once it has waited so long.
        #[test]
        fn every_wait_ends(
            pauses in proptest::collection::vec(0u64..4_000, 1..400),
            after in 1u32..5,
            steps in 0u32..5,
        ) {
            let rules = Backoff { after, steps, ..RULES };
            let (mut caller, mut now) = (Caller::default(), 0);
            for pause in pauses {
                now += pause;
                if let Some(told) = caller.call(now, rules) {
                    prop_assert!(told.retry_ms <= 30_000, "{told:?}");
                    prop_assert!(now + told.retry_ms >= caller.violations.shut_until());
                    prop_assert!(told.step <= steps + 1);
                }
            }
        }
    }

    #[test]
    fn a_key_that_hammers_is_blocked_within_a_minute_and_heard_again_when_it_stops() {
        let (mut caller, rules) = (Caller::default(), Backoff::default());
        let blocked = (0..60_000)
            .step_by(100)
            .find(|now| caller.call(*now, rules).is_some_and(|told| told.blocked));
        let blocked = blocked.expect("it is blocked");
        assert!(caller.call(blocked + rules.block_ms - 1, rules).is_some());
        assert_eq!(caller.call(blocked + rules.block_ms, rules), None);
    }
}
