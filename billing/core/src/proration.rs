//! The parts of a billing period: which plan held when, and what part of a fee that is.
//!
//! Invariants: segments touch, lie in the period and cover all of it that the subscription covers; the shares of a fee
//! over the segments of a period add up to the fee to the minor unit, however it is cut. That is so because a share is
//! the difference of two *rounded running* shares (from the period's beginning to the segment's end, less to its
//! beginning), and not rounded alone. Absent on purpose: refunds of what the provider collected in advance.

use chrono::TimeZone;
use chrono_tz::Tz;
use schemas::{AmountError, Period, Quantity, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    money::{Exact, Minor, Scale},
    plan::PlanRef,
};

/// What a part of a period is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prorate {
    /// Whole seconds, as Stripe.
    #[default]
    Second,
    /// Days of the tenant's time zone; a day belongs whole to the plan that holds at its end.
    Day,
}

/// A plan that holds from a moment until the next term begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    pub from: Timestamp,
    pub plan: PlanRef,
}

/// What a tenant has subscribed to, as far as a period needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// In order of time; the first may have begun before the period.
    pub terms: Vec<Term>,
    /// The moment at which a trial ends; before it nothing is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_until: Option<Timestamp>,
    /// The moment at which the subscription ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
}

/// The part `[from, to)` of a whole of `of` equal units of time, counted from the period's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub from: u64,
    pub to: u64,
    pub of: u64,
}

/// A part of the period under one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub period: Period,
    pub plan: PlanRef,
    /// Nothing is charged in it.
    pub trial: bool,
    pub share: Share,
}

/// Why a period cannot be cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProrationError {
    #[error("the period is shorter than the unit it is prorated by")]
    EmptyPeriod,
    #[error("the term that begins at {0} is not after the one before it")]
    TermOrder(Timestamp),
    #[error("`{0}` is not a time zone of the IANA database")]
    UnknownZone(String),
}

impl Share {
    /// This share of an amount: the running share at its end less the one at its beginning, both rounded.
    ///
    /// # Errors
    /// Out of range.
    pub fn amount(self, whole: Exact, scale: Scale) -> Result<Minor, AmountError> {
        let until = whole.part(self.to, self.of, scale)?;
        until.checked_sub(whole.part(self.from, self.of, scale)?)
    }

    /// This share of units, in whole units by the same rule (rounded down).
    ///
    /// # Errors
    /// A whole of 0.
    pub fn units(self, whole: Quantity) -> Result<Quantity, AmountError> {
        let running = |units: u64| {
            let part = u128::from(whole.0).checked_mul(u128::from(units));
            let part = part.and_then(|part| part.checked_div(u128::from(self.of)));
            part.and_then(|part| u64::try_from(part).ok()).map(Quantity).ok_or(AmountError)
        };
        running(self.to)?.checked_sub(running(self.from)?)
    }
}

/// Measures moments from the beginning of a period.
struct Ruler {
    period: Period,
    rule: Prorate,
    zone: Tz,
}

impl Ruler {
    /// Whole units of time from the period's beginning to the moment.
    fn units(&self, at: Timestamp) -> Option<u64> {
        let units = match self.rule {
            Prorate::Second => at.0.div_euclid(1000) - self.period.from.0.div_euclid(1000),
            Prorate::Day => (self.date(at) - self.date(self.period.from)).num_days(),
        };
        u64::try_from(units).ok()
    }

    fn date(&self, at: Timestamp) -> chrono::NaiveDate {
        self.zone.from_utc_datetime(&at.to_utc().naive_utc()).date_naive()
    }

    fn share(&self, part: Period) -> Result<Share, ProrationError> {
        let units = |at| self.units(at).ok_or(ProrationError::EmptyPeriod);
        match units(self.period.to)? {
            0 => Err(ProrationError::EmptyPeriod),
            of => Ok(Share { from: units(part.from)?, to: units(part.to)?, of }),
        }
    }
}

/// Cuts a period where the plan changes and where a trial ends; terms of the same plan that touch are one segment.
///
/// # Errors
/// An empty period, terms out of order, an unknown time zone.
pub fn segments(
    period: Period,
    subscription: &Subscription,
    rule: Prorate,
    time_zone: &str,
) -> Result<Vec<Segment>, ProrationError> {
    let zone = time_zone.parse().map_err(|_| ProrationError::UnknownZone(time_zone.to_owned()))?;
    let ruler = Ruler { period, rule, zone };
    let mut segments = Vec::new();
    for (part, plan) in spans(period, subscription)? {
        let edge = subscription.trial_until.unwrap_or(part.from).clamp(part.from, part.to);
        let trial = (Period { to: edge, ..part }, true);
        let paid = (Period { from: edge, ..part }, false);
        for (period, trial) in [trial, paid] {
            if period.from < period.to {
                let share = ruler.share(period)?;
                segments.push(Segment { period, plan: plan.clone(), trial, share });
            }
        }
    }
    if segments.is_empty() {
        ruler.share(period)?;
    }
    Ok(segments)
}

/// What of the period each plan covers, with neighbours of the same plan as one.
fn spans(
    period: Period,
    subscription: &Subscription,
) -> Result<Vec<(Period, &PlanRef)>, ProrationError> {
    let end = subscription.ends_at.unwrap_or(period.to).min(period.to);
    let mut spans: Vec<(Period, &PlanRef)> = Vec::with_capacity(subscription.terms.len());
    let mut terms = subscription.terms.iter().peekable();
    while let Some(term) = terms.next() {
        let until = match terms.peek() {
            Some(next) if next.from <= term.from => {
                return Err(ProrationError::TermOrder(next.from));
            }
            Some(next) => next.from.min(end),
            None => end,
        };
        let span = Period { from: term.from.max(period.from), to: until };
        match spans.last_mut() {
            _ if span.from >= span.to => {}
            Some((last, plan)) if **plan == term.plan => last.to = span.to,
            _ => spans.push((span, &term.plan)),
        }
    }
    Ok(spans)
}

#[cfg(test)]
#[path = "proration/tests.rs"]
mod tests;
