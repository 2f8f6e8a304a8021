//! Whether an upstream is asked at all: after failures one after the other, or when most of many fail, nothing goes to
//! it for a while; then one request, whose end decides.
//!
//! Closed → open → one probe → closed, or open again for twice as long. What was begun before it opened says nothing
//! afterwards. Pure: time and chance come in. Absent on purpose: what a failure is (the upstreams know).

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// So many failures one after the other open it; 0 = it never opens.
    pub failures: u32,
    /// So does this share of failures among the requests of one window. Unit: percent. Range: 1 to 100.
    pub percent: u32,
    /// Unit: milliseconds.
    pub window_ms: u64,
    /// The fewest requests of a window whose share says something.
    pub fewest: u32,
    /// How long it stays open the first time; each probe that fails doubles it. Unit: milliseconds.
    pub open_ms: u64,
    /// How long it stays open at most. Unit: milliseconds.
    pub max_open_ms: u64,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        let (open_ms, max_open_ms) = (1_000, 30_000);
        Self { failures: 5, percent: 50, window_ms: 30_000, fewest: 20, open_ms, max_open_ms }
    }
}

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    Badly,
    /// Nobody waited for its end.
    Unknown,
}

/// Leave for one request, which says how it ended by [`Breaker::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    term: u64,
    /// It decides whether the others may follow.
    pub probe: bool,
}

/// What an end has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Open for so long. Unit: milliseconds.
    Opened(u64),
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until_ms: u64,
    },
    /// One request runs that decides.
    Probing,
}

/// How long those wait who come while a probe runs. Unit: milliseconds.
const PROBE_WAIT_MS: u64 = 1_000;
/// The most chance there is: see [`Breaker::ended`].
pub const CHANCE: u64 = 1_000;

/// The state of one upstream.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// Grows with every change: a ticket of another term says nothing.
    term: u64,
    in_a_row: u32,
    /// How often it opened since it was last closed.
    openings: u32,
    window_ms: u64,
    ended: u64,
    failed: u64,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: State::Closed,
            term: 0,
            in_a_row: 0,
            openings: 0,
            window_ms: 0,
            ended: 0,
            failed: 0,
        }
    }

    /// How long it stays open yet; `None` = a request may come. Unit: milliseconds.
    #[must_use]
    pub fn closed_for_ms(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Closed => None,
            State::Probing => Some(PROBE_WAIT_MS),
            State::Open { until_ms } => until_ms.checked_sub(now_ms).filter(|ms| *ms > 0),
        }
    }

    /// Leave for one request; `now_ms` = the monotonic clock.
    ///
    /// # Errors
    /// None goes on; come back after so many milliseconds.
    pub fn enter(&mut self, now_ms: u64) -> Result<Ticket, u64> {
        if let Some(ms) = self.closed_for_ms(now_ms) {
            return Err(ms);
        }
        let probe = matches!(self.state, State::Open { .. });
        if probe {
            self.turn(State::Probing);
        }
        Ok(Ticket { term: self.term, probe })
    }

    /// A request has ended. `chance` spreads the waits of many nodes: 0 = half of the time, [`CHANCE`] = all of it.
    pub fn ended(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        how: Ended,
        chance: u64,
    ) -> Option<Change> {
        if ticket.term != self.term {
            return None;
        }
        match (self.state, how) {
            (State::Probing, Ended::Well) => {
                self.turn(State::Closed);
                self.openings = 0;
                Some(Change::Closed)
            }
            (State::Probing, Ended::Badly) => Some(self.open(now_ms, chance)),
            (State::Probing, Ended::Unknown) => {
                self.turn(State::Open { until_ms: now_ms }); // The next one decides.
                None
            }
            (State::Closed, Ended::Well | Ended::Badly) => self.count(now_ms, how, chance),
            (State::Closed, Ended::Unknown) | (State::Open { .. }, _) => None,
        }
    }

    /// Whether it is open, or a probe runs.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Whether a failure counts against it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed > 0 || self.in_a_row > 0
    }

    /// Opens it, unless it never opens.
    pub fn open_now(&mut self, now_ms: u64, chance: u64) -> Option<Change> {
        (self.settings.failures > 0).then(|| self.open(now_ms, chance))
    }

    fn count(&mut self, now_ms: u64, how: Ended, chance: u64) -> Option<Change> {
        if now_ms.saturating_sub(self.window_ms) >= self.settings.window_ms {
            (self.window_ms, self.ended, self.failed) = (now_ms, 0, 0);
        }
        self.ended += 1;
        if how == Ended::Well {
            self.in_a_row = 0;
            return None;
        }
        self.failed += 1;
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.settings.failures == 0 {
            return None;
        }
        let max = self.ended >= u64::from(self.settings.fewest)
            && self.failed * 100 >= self.ended * u64::from(self.settings.percent);
        let open = max || self.in_a_row >= self.settings.failures;
        open.then(|| self.open(now_ms, chance))
    }

    fn open(&mut self, now_ms: u64, chance: u64) -> Change {
        let doubled = 1_u64.checked_shl(self.openings).unwrap_or(u64::MAX);
        let whole = self.settings.open_ms.saturating_mul(doubled).min(self.settings.max_open_ms);
        let half = whole / 2;
        let ms = (half + (whole - half).saturating_mul(chance.min(CHANCE)) / CHANCE).max(1);
        self.turn(State::Open { until_ms: now_ms.saturating_add(ms) });
        self.openings = self.openings.saturating_add(1).min(63);
        Change::Opened(ms)
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.term += 1;
        (self.in_a_row, self.ended, self.failed) = (0, 0, 0);
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
