//! What the records of one message count for, added up before the counters are touched: a message holds many calls of
//! few keys, and each counter is looked up once for all of them.
//!
//! The counters end the same as if each record had been counted alone: they only add.

use schemas::{Hour, MeterName, NodeId, Period, Timestamp};

use crate::{change::Changes, map::Map, quota::Scopes, state::ShardState};

/// What a sum belongs to: whose, of which meter, under a lease granted when (0 = none).
type Of = (Scopes, MeterName, u64);

/// Units of calls that fall into the same hour and the same periods.
struct Sum {
    window: Period,
    at: Timestamp,
    units: u64,
    /// How many of them their leases held.
    covered: u64,
}

/// The sums of one message.
#[derive(Default)]
pub(crate) struct Tally(Map<Of, Sum>);

impl Tally {
    /// Adds units that count at `at`; `false` = they fall into another hour or period than what is summed so far.
    fn add(&mut self, of: &Of, at: Timestamp, units: u64, covered: u64) -> bool {
        let Some(sum) = self.0.get_mut(of).filter(|sum| sum.window.contains(at)) else {
            return false;
        };
        sum.units = sum.units.saturating_add(units);
        sum.covered = sum.covered.saturating_add(covered);
        true
    }
}

impl ShardState {
    /// Counts units of a meter: in the tally, or where it cannot take them, in the counters.
    pub(crate) fn tally(
        &mut self,
        tally: &mut Tally,
        of: &Of,
        at: Timestamp,
        (units, covered): (u64, u64),
        by: &NodeId,
        out: &mut Changes,
    ) {
        if tally.add(of, at, units, covered) {
            return;
        }
        let window = self.window(of.0, at);
        let sum = Sum { window, at, units, covered };
        if let Some(before) = tally.0.insert(of.clone(), sum) {
            self.add_sum(of, &before, by, out);
        }
    }

    /// Counts what was added up.
    pub(crate) fn count_tally(&mut self, tally: Tally, by: &NodeId, out: &mut Changes) {
        for (of, sum) in tally.0 {
            self.add_sum(&of, &sum, by, out);
        }
    }

    fn add_sum(
        &mut self,
        (scopes, meter, granted_seq): &Of,
        sum: &Sum,
        by: &NodeId,
        out: &mut Changes,
    ) {
        let covered = (sum.covered, *granted_seq);
        self.add_counted(*scopes, meter, sum.at, (sum.units, covered), Some(by), out);
    }

    /// The time around `at` that is of one hour and of one period by each rule of the tenant.
    fn window(&mut self, scopes: Scopes, at: Timestamp) -> Period {
        let Hour(hour) = at.hour();
        let start = |hour: i64| Timestamp(hour.saturating_mul(3_600_000));
        let mut window = Period { from: start(hour), to: start(hour.saturating_add(1)) };
        for index in 0.. {
            let Some((rule, _)) = self.rule(scopes.tenant, index) else { break };
            if let Some(period) = self.period_of_event(scopes.tenant, rule, at) {
                window.from = window.from.max(period.from);
                window.to = window.to.min(period.to);
            }
        }
        window
    }
}
