//! The simulator's own ledger of meter events: what Stripe would know and bill.
//!
//! A 200 only means "taken in". Whether an event counts (its meter and customer exist, its value can be read) is decided on
//! arrival and kept as an [`Outcome`]; what does not count is shown and never summed. Identifiers are unique for 24 h from receipt
//! and forgotten then, so a later repeat counts twice, as at Stripe. Values are exact decimals.

use rust_decimal::Decimal;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// How long an identifier is remembered after receipt, in milliseconds.
pub const IDENTIFIER_KEEP_MS: i64 = 24 * 3_600_000;

/// Whether a meter event counts. The names are Stripe's error codes for failures that come after the 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Counted,
    NoMeter,
    ArchivedMeter,
    MeterEventNoCustomerDefined,
    MeterEventCustomerNotFound,
    MeterEventInvalidValue,
    MeterEventValueTooManyDigits,
    TimestampTooFarInPast,
    TimestampInFuture,
    /// Counted once, and cancelled by an adjustment.
    Canceled,
    /// Counted until another event of the same customer came for the same window of a meter that has one.
    Replaced,
}

impl Outcome {
    /// What an error report says of it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Counted => "The event counts.",
            Self::NoMeter => "No meter has this event name.",
            Self::ArchivedMeter => "The meter is inactive.",
            Self::MeterEventNoCustomerDefined => {
                "The customer mapping key is not in the event's payload."
            }
            Self::MeterEventCustomerNotFound => "The customer of the event was not found.",
            Self::MeterEventInvalidValue => "The value of the event is invalid.",
            Self::MeterEventValueTooManyDigits => "The value of the event has too many digits.",
            Self::TimestampTooFarInPast => "The event is more than 35 days old.",
            Self::TimestampInFuture => "The event is more than 5 minutes in the future.",
            Self::Canceled => "The event was cancelled.",
            Self::Replaced => "A later event of the same window took its place.",
        }
    }
}

/// One meter event as it was taken in.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub identifier: String,
    pub event_name: String,
    /// The meter that took it; none when no meter has the event name.
    pub meter: Option<String>,
    pub customer: Option<String>,
    #[serde(serialize_with = "decimal_or_null")]
    pub value: Option<Decimal>,
    /// Unix seconds: when the usage happened.
    pub timestamp: i64,
    /// Unix milliseconds of the simulator's clock: when the call came.
    pub received_at_ms: i64,
    pub request_id: String,
    pub idempotency_key: Option<String>,
    pub outcome: Outcome,
}

fn decimal_or_null<S: serde::Serializer>(
    value: &Option<Decimal>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(&value.normalize()),
        None => to.serialize_none(),
    }
}

/// Usage of one event name, customer and UTC hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HourTotal {
    pub event_name: String,
    pub customer: String,
    /// Unix seconds: the start of the hour.
    pub hour: i64,
    /// Exact, as a decimal text.
    pub sum: String,
    pub count: u64,
}

/// All meter events and the identifiers that are still remembered.
#[derive(Debug, Default)]
pub struct Usage {
    rows: Vec<Row>,
    /// Counted events of one (meter, customer), by time and order of arrival.
    series: HashMap<(String, String), BTreeMap<(i64, usize), usize>>,
    identifiers: HashSet<String>,
    by_age: VecDeque<(i64, String)>,
    /// (event name, customer) pairs with a call in flight.
    in_flight: HashSet<(String, String)>,
    /// Places of rows that do not count and were not told of, by meter.
    failures: BTreeMap<Option<String>, Vec<usize>>,
    /// (Unix milliseconds, place) of the rows that will be cancelled.
    adjustments: Vec<(i64, usize)>,
}

impl Usage {
    /// True while the identifier is remembered.
    pub fn knows(&mut self, identifier: &str, now_ms: i64) -> bool {
        while let Some((at_ms, old)) = self.by_age.front() {
            if now_ms - at_ms < IDENTIFIER_KEEP_MS {
                break;
            }
            self.identifiers.remove(old);
            self.by_age.pop_front();
        }
        self.identifiers.contains(identifier)
    }

    /// Takes an event in. The caller asked [`Usage::knows`] first. Of a meter with a window (in seconds), only the event that came
    /// last counts in each window of a customer.
    pub fn take_in(&mut self, row: Row, window_s: Option<i64>) {
        if let Some(window_s) = window_s.filter(|_| row.outcome == Outcome::Counted) {
            self.replace_in_window(&row, window_s);
        }
        self.identifiers.insert(row.identifier.clone());
        self.by_age.push_back((row.received_at_ms, row.identifier.clone()));
        let at = self.rows.len();
        if let (Outcome::Counted, Some(meter), Some(customer)) =
            (row.outcome, &row.meter, &row.customer)
        {
            self.series
                .entry((meter.clone(), customer.clone()))
                .or_default()
                .insert((row.timestamp, at), at);
        } else {
            self.failures.entry(row.meter.clone()).or_default().push(at);
        }
        self.rows.push(row);
    }

    fn replace_in_window(&mut self, row: &Row, window_s: i64) {
        let (Some(meter), Some(customer)) = (&row.meter, &row.customer) else { return };
        let from = row.timestamp.div_euclid(window_s) * window_s;
        let Some(series) = self.series.get_mut(&(meter.clone(), customer.clone())) else { return };
        let old: Vec<(i64, usize)> =
            series.range((from, 0)..(from + window_s, 0)).map(|(key, _)| *key).collect();
        for key in old {
            series.remove(&key);
            self.rows[key.1].outcome = Outcome::Replaced;
        }
    }

    /// Takes out the failures of each meter whose first one is older than the lag.
    pub fn due_failures(&mut self, now_ms: i64, lag_ms: i64) -> Vec<(Option<String>, Vec<Row>)> {
        let is_due = |places: &Vec<usize>| {
            places.first().is_some_and(|at| self.rows[*at].received_at_ms + lag_ms <= now_ms)
        };
        let due: Vec<Option<String>> = self
            .failures
            .iter()
            .filter(|(_, places)| is_due(places))
            .map(|(meter, _)| meter.clone())
            .collect();
        let take = |meter: Option<String>| {
            let places = self.failures.remove(&meter).unwrap_or_default();
            (meter, places.into_iter().map(|at| self.rows[at].clone()).collect())
        };
        due.into_iter().map(take).collect()
    }

    /// The latest event with this name and identifier that counts: its place and its receipt in Unix milliseconds.
    pub fn find(&self, event_name: &str, identifier: &str) -> Option<(usize, i64)> {
        let is_it = |row: &Row| {
            row.outcome == Outcome::Counted
                && row.event_name == event_name
                && row.identifier == identifier
        };
        let at = self.rows.iter().rposition(is_it)?;
        Some((at, self.rows[at].received_at_ms))
    }

    /// Will cancel the event at a place.
    pub fn adjust(&mut self, due_ms: i64, at: usize) {
        self.adjustments.push((due_ms, at));
    }

    /// Takes out the adjustments that are due.
    pub fn due_adjustments(&mut self, now_ms: i64) -> Vec<usize> {
        let (due, later): (Vec<_>, Vec<_>) =
            self.adjustments.drain(..).partition(|(due_ms, _)| *due_ms <= now_ms);
        self.adjustments = later;
        due.into_iter().map(|(_, at)| at).collect()
    }

    /// The event at a place counts no more.
    pub fn cancel(&mut self, at: usize) {
        let row = &mut self.rows[at];
        row.outcome = Outcome::Canceled;
        if let (Some(meter), Some(customer)) = (&row.meter, &row.customer)
            && let Some(series) = self.series.get_mut(&(meter.clone(), customer.clone()))
        {
            series.remove(&(row.timestamp, at));
        }
    }

    /// Counted events of a meter and customer with `from <= timestamp < to`, oldest first.
    pub fn between(
        &self,
        meter: &str,
        customer: &str,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = &Row> {
        let series = self.series.get(&(meter.to_owned(), customer.to_owned()));
        series
            .into_iter()
            .flat_map(move |rows| rows.range((from, 0)..(to, 0)))
            .map(|(_, at)| &self.rows[*at])
    }

    /// All events after the first `skip`, in the order of receipt.
    pub fn rows(&self, skip: usize) -> &[Row] {
        self.rows.get(skip..).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Holds a (event name, customer) pair; false when a call already holds it.
    pub fn hold(&mut self, slot: &(String, String)) -> bool {
        self.in_flight.insert(slot.clone())
    }

    pub fn let_go(&mut self, slot: &(String, String)) {
        self.in_flight.remove(slot);
    }

    /// Counted usage by event name, customer and hour, in that order.
    pub fn hours(&self) -> Vec<HourTotal> {
        let mut totals: BTreeMap<(&str, &str, i64), (Decimal, u64)> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.outcome == Outcome::Counted) {
            let hour = row.timestamp.div_euclid(3600) * 3600;
            let total = totals
                .entry((&row.event_name, row.customer.as_deref().unwrap_or_default(), hour))
                .or_default();
            total.0 = add(total.0, row.value);
            total.1 += 1;
        }
        let hour_total =
            |((event_name, customer, hour), (sum, count)): ((&str, &str, i64), (Decimal, u64))| {
                HourTotal {
                    event_name: event_name.to_owned(),
                    customer: customer.to_owned(),
                    hour,
                    sum: sum.normalize().to_string(),
                    count,
                }
            };
        totals.into_iter().map(hour_total).collect()
    }

    /// Sum and number of all counted events.
    pub fn grand_total(&self) -> (Decimal, u64) {
        let counted = self.rows.iter().filter(|row| row.outcome == Outcome::Counted);
        counted.fold((Decimal::ZERO, 0), |(sum, count), row| (add(sum, row.value), count + 1))
    }

    /// How many events were taken in and do not count, by reason.
    pub fn uncounted(&self) -> BTreeMap<Outcome, u64> {
        let mut reasons = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.outcome != Outcome::Counted) {
            *reasons.entry(row.outcome).or_insert(0) += 1;
        }
        reasons
    }
}

/// Adds a value of at most 15 digits; an event of a counting meter may have none.
pub fn add(sum: Decimal, value: Option<Decimal>) -> Decimal {
    sum.checked_add(value.unwrap_or_default())
        .expect("10^13 events of 15 digits fit the 28 digits of a decimal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(identifier: &str, timestamp: i64, value: i64, outcome: Outcome) -> Row {
        Row {
            identifier: identifier.to_owned(),
            event_name: "calls".to_owned(),
            meter: Some("mtr_1".to_owned()),
            customer: Some("cus_1".to_owned()),
            value: Some(Decimal::from(value)),
            timestamp,
            received_at_ms: 0,
            request_id: "req_1".to_owned(),
            idempotency_key: None,
            outcome,
        }
    }

    #[test]
    fn an_identifier_is_forgotten_after_24_hours() {
        let mut usage = Usage::default();
        usage.take_in(row("a", 0, 1, Outcome::Counted), None);
        assert!(usage.knows("a", IDENTIFIER_KEEP_MS - 1));
        assert!(!usage.knows("a", IDENTIFIER_KEEP_MS));
    }

    #[test]
    fn only_counted_events_are_summed_and_the_end_is_exclusive() {
        let mut usage = Usage::default();
        usage.take_in(row("a", 3_599, 1, Outcome::Counted), None);
        usage.take_in(row("b", 3_600, 2, Outcome::Counted), None);
        usage.take_in(row("c", 3_600, 4, Outcome::MeterEventInvalidValue), None);
        usage.take_in(row("d", 7_200, 8, Outcome::Counted), None);
        let in_hour: Vec<_> = usage
            .between("mtr_1", "cus_1", 3_600, 7_200)
            .map(|row| row.identifier.as_str())
            .collect();
        assert_eq!(in_hour, ["b"]);
        assert_eq!(usage.grand_total(), (Decimal::from(11), 3));
        assert_eq!(usage.uncounted(), BTreeMap::from([(Outcome::MeterEventInvalidValue, 1)]));
        let hours: Vec<_> =
            usage.hours().into_iter().map(|total| (total.hour, total.sum, total.count)).collect();
        assert_eq!(
            hours,
            [(0, "1".to_owned(), 1), (3_600, "2".to_owned(), 1), (7_200, "8".to_owned(), 1)]
        );
    }

    #[test]
    fn in_a_window_only_the_event_that_came_last_counts() {
        let mut usage = Usage::default();
        for (identifier, timestamp, value) in
            [("a", 3_600, 1), ("b", 7_199, 2), ("c", 3_601, 4), ("d", 7_200, 8)]
        {
            usage.take_in(row(identifier, timestamp, value, Outcome::Counted), Some(3_600));
        }
        let counted: Vec<_> =
            usage.between("mtr_1", "cus_1", 0, 9_000).map(|row| row.identifier.as_str()).collect();
        assert_eq!(counted, ["c", "d"]);
        assert_eq!(usage.grand_total(), (Decimal::from(12), 2));
        assert_eq!(usage.uncounted(), BTreeMap::from([(Outcome::Replaced, 2)]));
    }

    #[test]
    fn a_pair_is_held_by_one_call_at_a_time() {
        let (mut usage, slot) = (Usage::default(), ("calls".to_owned(), "cus_1".to_owned()));
        assert!(usage.hold(&slot));
        assert!(!usage.hold(&slot));
        usage.let_go(&slot);
        assert!(usage.hold(&slot));
    }
}
