//! A token bucket in whole nanoseconds: at most so many a second, with at most one second's worth at once.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

/// Lets callers through one by one, at a rate.
pub struct Pace {
    gap: Duration,
    burst: Duration,
    /// When the bucket would be full again if nobody took from it.
    full_at: Mutex<Instant>,
}

impl Pace {
    /// At most `per_s` a second. Range: from 1.
    #[must_use]
    pub fn new(per_s: u32) -> Self {
        let gap = Duration::from_secs(1) / per_s.max(1);
        Self { gap, burst: Duration::from_secs(1), full_at: Mutex::new(Instant::now()) }
    }

    /// Waits for this caller's turn.
    pub async fn wait(&self) {
        let turn = self.take(Instant::now());
        tokio::time::sleep_until(turn).await;
    }

    /// Takes a turn and says when it comes.
    fn take(&self, now: Instant) -> Instant {
        let mut full_at = self.full_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let full = (*full_at).max(now) + self.gap;
        *full_at = full;
        full.checked_sub(self.burst).map_or(now, |turn| turn.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_than_twice_the_rate_and_no_minute_more_than_the_rate() {
        let pace = Pace::new(10);
        let start = Instant::now();
        let turns: Vec<Duration> = (0..600).map(|_| pace.take(start) - start).collect();
        assert_eq!(turns.iter().filter(|turn| turn.is_zero()).count(), 10);
        assert!(turns.windows(2).all(|pair| pair[0] <= pair[1]));
        let last = turns.last().copied().unwrap_or_default();
        assert_eq!(
            last,
            Duration::from_secs(59),
            "600 turns at 10 a second, one second's worth at once"
        );
        let late = start + Duration::from_secs(600);
        let again: Vec<Duration> = (0..11).map(|_| pace.take(late) - late).collect();
        assert_eq!(again[9], Duration::ZERO);
        assert_eq!(
            again[10],
            Duration::from_millis(100),
            "an idle hour saves up one second's worth, no more"
        );
    }
}
