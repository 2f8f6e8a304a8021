//! What is left of a key's quotas, as clients are told: a figure that is never too low without saying so.
//!
//! Of each meter: the limit less what was counted when the newest lease was granted and what was spent here since.
//! What others hold is part of it, for they may give it back; what others spent since is not known before the next
//! grant. So where one node serves a quota the figure is exact, and 0 means that the next call is refused. Where units
//! may come back that are not in it (calls run, or a lease was closed with units that the ledger may not have taken
//! back yet), it says that it is the least. Absent on purpose: deciding by it.

use schemas::{Lease, MeterName, Period};

use super::{Hint, held::HeldLease};

/// A lease that was closed with units left is settled by the ledger within this time. Unit: milliseconds.
const SETTLED_MS: u64 = 5_000;

/// The figures of one key, by its newest grant.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// One a limited meter.
    meters: Vec<Figure>,
    /// When a lease was last closed with units left.
    returned_ms: Option<u64>,
}

#[derive(Debug)]
struct Figure {
    meter: MeterName,
    /// What the tightest quota had left beside all leases.
    left: u64,
    /// What others held of it; `None` = the ledger did not say.
    held: Option<u64>,
    limit: u64,
    period: Period,
}

impl Figures {
    /// A lease came that was first asked for at `asked_ms`.
    pub fn granted(&mut self, lease: &Lease, asked_ms: u64) {
        let figure = |share: &schemas::Share| Figure {
            meter: share.meter.clone(),
            left: share.left.0,
            held: share.held.map(|held| held.0),
            limit: share.limit.0,
            period: share.period,
        };
        self.meters = lease.shares.iter().map(figure).collect();
        self.returned_ms.take_if(|ms| ms.saturating_add(SETTLED_MS) < asked_ms);
    }

    /// A lease was closed with units left.
    pub fn returned(&mut self, now_ms: u64) {
        self.returned_ms = Some(now_ms);
    }

    /// What is left of each limited meter, with the leases in hand.
    pub fn hints<'a>(
        &'a self,
        leases: &'a [HeldLease],
    ) -> impl Iterator<Item = (&'a MeterName, Hint)> + use<'a> {
        // The call that is told of it is one of those that run.
        let runs = leases.iter().map(|lease| lease.in_flight).sum::<u64>() > 1;
        let may_return = runs || self.returned_ms.is_some();
        self.meters.iter().map(move |figure| {
            let here = leases.iter().map(|lease| lease.left_of(&figure.meter));
            let elsewhere = figure.left.saturating_add(figure.held.unwrap_or(0));
            let remaining = here.fold(elsewhere, u64::saturating_add);
            let at_least = may_return || figure.held.is_none();
            let Figure { ref meter, limit, period, .. } = *figure;
            (meter, Hint { remaining, at_least, limit, period })
        })
    }
}

#[cfg(test)]
mod tests {
    use schemas::Quantity;

    use super::*;
    use crate::lease_book::tests::{lease, period};

    /// What is left by a grant of `units` that left so much and of which others held so much, with nothing taken.
    fn told(left: u64, held: Option<u64>, units: u64) -> Hint {
        let mut granted = lease(1, 0, Some(units));
        (granted.shares[0].left, granted.shares[0].held) = (Quantity(left), held.map(Quantity));
        let mut figures = Figures::default();
        figures.granted(&granted, 0);
        let leases = [HeldLease::of(&granted, 0, crate::lease_book::tests::at(0))];
        figures.hints(&leases).next().unwrap().1
    }

    #[test]
    fn what_others_hold_is_left() {
        let hint =
            |remaining, at_least| Hint { remaining, at_least, limit: 1_000, period: period() };
        assert_eq!(told(7, Some(0), 3), hint(10, false));
        assert_eq!(told(0, Some(2), 1), hint(3, false), "they may give it back");
        assert_eq!(told(7, None, 3), hint(10, true), "a ledger that does not say what they hold");
    }

    #[test]
    fn what_was_given_back_may_be_missing_until_it_is_settled() {
        let (mut figures, newer) = (Figures::default(), lease(2, 0, Some(3)));
        figures.returned(1_000);
        figures.granted(&newer, 6_000);
        let at_least = |figures: &Figures| figures.hints(&[]).next().unwrap().1.at_least;
        assert!(at_least(&figures));
        figures.granted(&newer, 6_001);
        assert!(!at_least(&figures));
    }
}
