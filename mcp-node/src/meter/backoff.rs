//! Keys that do not keep to their rate: shut out cheaply while they must wait, and what is said of each step.

use std::sync::atomic::{AtomicU64, Ordering};

use mcp_node_core::{
    Now, Refusal,
    refusal::Whose,
    violations::{Backoff, Told, Violations},
};
use parking_lot::Mutex;
use schemas::KeyState;

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
        let per_minute = state.rate.map_or(0, |rate| rate.per_minute);
        Some(self.refused(state, now, None, per_minute, rules))
    }

    /// What a call is told that its key's rate refuses: `wait_ms` by the rate alone, longer if the key does not wait.
    pub fn too_fast(
        &self,
        state: &KeyState,
        now: Now,
        wait_ms: u64,
        per_minute: u32,
        rules: Backoff,
    ) -> Refusal {
        self.refused(state, now, Some(wait_ms), per_minute, rules)
    }

    fn refused(
        &self,
        state: &KeyState,
        now: Now,
        wait_ms: Option<u64>,
        per_minute: u32,
        rules: Backoff,
    ) -> Refusal {
        let told = {
            let mut violations = self.violations.lock();
            let told = violations.refused(now.mono_ms, wait_ms, rules);
            self.shut_until.store(violations.shut_until(), Ordering::Relaxed);
            told
        };
        if told.is_new {
            say(state, told);
        }
        if told.blocked {
            return Refusal::Blocked { retry_ms: told.retry_ms };
        }
        let Told { retry_ms, step, .. } = told;
        Refusal::RateLimited { per_minute, retry_ms, whose: Whose::Key, step }
    }
}

/// Once a step.
fn say(state: &KeyState, told: Told) {
    let step = if told.blocked { "block" } else { "longer_wait" };
    metrics::counter!("mcp_backoff_steps_total", "step" => step).increment(1);
    tracing::warn!(
        tenant = %state.tenant,
        key = %state.key,
        step = told.step,
        blocked = told.blocked,
        waitMs = told.retry_ms,
        "A key calls on and on too fast"
    );
}
