//! Keys that do not keep to their rate: shut out cheaply while they must wait, and what is said of each step.

use std::sync::atomic::{AtomicU64, Ordering};

use mcp_node_core::{
    Now, Refusal,
    refusal::LimitScope,
    violations::{Backoff, BackoffDecision, Violations},
};
use parking_lot::Mutex;
use schemas::{KeyState, RateLimits};

/// How one key has behaved. A key that keeps to its rate costs one look at a number.
#[derive(Default)]
pub struct Behaviour {
    /// Until when it is shut out, by the node's monotonic clock. Unit: milliseconds.
    shut_until: AtomicU64,
    violations: Mutex<Violations>,
}

impl Behaviour {
    /// What a call is told that comes while its key is shut out; `None` = it is not.
    pub fn shut_out(&self, state: &KeyState, now: Now, rules: Backoff) -> Option<Refusal> {
        if now.mono_ms >= self.shut_until.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.refused(state, now, None, None, rules))
    }

    /// What a call is told that its key's rate refuses: `wait_ms` by the rate alone, longer if the key does not wait;
    /// `here` = this node's share of the rate.
    pub fn too_fast(
        &self,
        state: &KeyState,
        now: Now,
        wait_ms: u64,
        here: RateLimits,
        rules: Backoff,
    ) -> Refusal {
        self.refused(state, now, Some(wait_ms), Some(here), rules)
    }

    fn refused(
        &self,
        state: &KeyState,
        now: Now,
        wait_ms: Option<u64>,
        here: Option<RateLimits>,
        rules: Backoff,
    ) -> Refusal {
        let decision = {
            let mut violations = self.violations.lock();
            let decision = violations.refused(now.mono_ms, wait_ms, rules);
            self.shut_until.store(violations.shut_until(), Ordering::Relaxed);
            decision
        };
        if decision.is_new {
            log_step(state, decision);
        }
        let retry_ms = decision.retry_ms;
        if decision.blocked {
            return Refusal::Blocked { retry_ms };
        }
        Refusal::RateLimited {
            // A key whose rate was taken away a moment ago goes by its lease until that is replaced.
            per_minute: state.rate.or(here).map_or(0, |rate| rate.per_minute),
            node_per_minute: here.map(|rate| rate.per_minute),
            retry_ms,
            whose: LimitScope::Key,
            warning: decision.warning(rules),
        }
    }
}

/// Once a step.
fn log_step(state: &KeyState, decision: BackoffDecision) {
    let step = if decision.blocked { "block" } else { "longer_wait" };
    metrics::counter!("mcp_backoff_steps_total", "step" => step).increment(1);
    tracing::warn!(
        tenant = %state.tenant,
        project = %state.project,
        key = %state.key,
        step = decision.step,
        blocked = decision.blocked,
        waitMs = decision.retry_ms,
        "Key ignores Retry-After: its wait was lengthened"
    );
}
