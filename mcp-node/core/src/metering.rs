//! What a call counts for beyond "one call": weights of tools, and meters that are read from what came back.
//!
//! A [`Plan`] is all of it for one tool, worked out once. Rules: what is free in `tool_calls` by its outcome is free in
//! every meter; what cannot be read as a whole number from 0 to 10^12 counts nothing and is reported; what is over the
//! reserve counts as far as the lease still has it (see [`LeaseBook::cover`](crate::LeaseBook::cover)). Absent on
//! purpose: prices.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemas::{MeterName, Outcome, Quantity, fact::usage::MAX_UNITS};

use crate::{
    billable,
    glob::Glob,
    lease_book::{MeterDemand, Needs, one_call},
    pointer::{Pointer, PointerValue, find},
};

/// The most meters besides `tool_calls`.
pub const MAX_METERS: usize = 16;
/// The most that one call of a tool may weigh.
pub const MAX_WEIGHT: u64 = 1_000_000;

/// Where a meter's quantity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A place in the result.
    Result(Pointer),
    /// The request's body. Unit: bytes.
    BytesIn,
    /// The answer's body. Unit: bytes.
    BytesOut,
    /// From admission to the answer, begun milliseconds counted whole.
    DurationMs,
}

impl Source {
    /// Reads what a setting says; `None` = neither a pointer nor a known word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "bytes_in" => Some(Self::BytesIn),
            "bytes_out" => Some(Self::BytesOut),
            "duration_ms" => Some(Self::DurationMs),
            pointer => Pointer::parse(pointer).map(Self::Result),
        }
    }
}

/// What a call counts for that its client cancelled when the server may have begun with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cancelled {
    /// What was set aside for it: the server was made to work.
    #[default]
    Reserved,
    Free,
}

impl Cancelled {
    /// Reads what a setting says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "reserved" => Some(Self::Reserved),
            "free" => Some(Self::Free),
            _ => None,
        }
    }
}

/// A meter besides `tool_calls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraMeter {
    pub name: MeterName,
    pub from: Source,
    /// The tools that it is of; empty = all.
    pub tools: Vec<Glob>,
    /// The most that one call is expected to count for: set aside before a call goes on, where a hard quota limits the
    /// meter. Range: 1 to 10^12.
    pub reserve: u64,
    pub cancelled: Cancelled,
}

/// The settings make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeteringError {
    #[error("at most {MAX_METERS} meters can be configured")]
    TooMany,
    #[error("the meter `{0}` is configured twice, or is the one that counts calls")]
    Twice(MeterName),
    #[error("the reserve of the meter `{0}` is not in 1 to 10^12")]
    Reserve(MeterName),
    #[error("the weight of `{0}` is over {MAX_WEIGHT}")]
    Weight(String),
}

/// What all tools count for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metering {
    meters: Vec<ExtraMeter>,
    /// The pattern that says most comes first.
    weights: Vec<(Glob, u64)>,
    cancelled: Cancelled,
    plain: Arc<Plan>,
}

impl Default for Metering {
    /// One unit of `tool_calls` a call, and nothing else.
    fn default() -> Self {
        let cancelled = Cancelled::default();
        let plain = Plan { needs: one_call(), weight: 1, cancelled, meters: vec![] };
        Self { meters: vec![], weights: vec![], cancelled, plain: Arc::new(plain) }
    }
}

impl Metering {
    /// These meters besides `tool_calls`, and these weights in it; a tool without one weighs 1.
    ///
    /// # Errors
    /// See [`MeteringError`].
    pub fn new(
        meters: Vec<ExtraMeter>,
        mut weights: Vec<(Glob, u64)>,
    ) -> Result<Self, MeteringError> {
        if meters.len() > MAX_METERS {
            return Err(MeteringError::TooMany);
        }
        for (place, meter) in meters.iter().enumerate() {
            let twice = meters[..place].iter().any(|other| other.name == meter.name);
            if twice || meter.name == MeterName::tool_calls() {
                return Err(MeteringError::Twice(meter.name.clone()));
            }
            if !(1..=MAX_UNITS).contains(&meter.reserve) {
                return Err(MeteringError::Reserve(meter.name.clone()));
            }
        }
        if let Some((glob, _)) = weights.iter().find(|(_, weight)| *weight > MAX_WEIGHT) {
            return Err(MeteringError::Weight(glob.as_str().to_owned()));
        }
        weights.sort_by(|(a, _), (b, _)| b.weight().cmp(&a.weight()).then_with(|| a.cmp(b)));
        Ok(Self { meters, weights, ..Self::default() })
    }

    /// The same, with another rule for what cancelled calls count for in `tool_calls`.
    #[must_use]
    pub fn with_cancelled(self, cancelled: Cancelled) -> Self {
        let plain = Plan { needs: one_call(), weight: 1, cancelled, meters: vec![] };
        Self { cancelled, plain: Arc::new(plain), ..self }
    }

    /// Whether every tool counts one call and nothing else.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.meters.is_empty() && self.weights.is_empty()
    }

    /// What a tool counts for that nothing special is said of.
    #[must_use]
    pub fn plain(&self) -> &Arc<Plan> {
        &self.plain
    }

    /// What a tool counts for. Worked out anew each time: to be kept.
    #[must_use]
    pub fn plan(&self, tool: &str) -> Arc<Plan> {
        let weight = self.weights.iter().find(|(glob, _)| glob.matches(tool));
        let weight = weight.map_or(1, |(_, weight)| *weight);
        let of_tool = |meter: &&ExtraMeter| {
            meter.tools.is_empty() || meter.tools.iter().any(|glob| glob.matches(tool))
        };
        let meters: Vec<ExtraMeter> = self.meters.iter().filter(of_tool).cloned().collect();
        if weight == 1 && meters.is_empty() {
            return self.plain.clone();
        }
        let calls = MeterDemand { meter: MeterName::tool_calls(), units: weight };
        let extra = meters
            .iter()
            .map(|meter| MeterDemand { meter: meter.name.clone(), units: meter.reserve });
        let needs = (weight > 0).then_some(calls).into_iter().chain(extra).collect();
        Arc::new(Plan { needs, weight, cancelled: self.cancelled, meters })
    }
}

/// What one tool counts for.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What a call takes from a lease before it goes on.
    pub needs: Needs,
    weight: u64,
    cancelled: Cancelled,
    meters: Vec<ExtraMeter>,
}

/// What is known of a call once it has ended.
#[derive(Clone, Copy, Debug)]
pub struct MeasuredCall<'a> {
    /// The answer, and where in it the result lies; absent = nobody has it.
    pub answer: Option<(&'a [u8], ResultAt)>,
    /// Unit: bytes.
    pub bytes_in: u64,
    /// Unit: bytes.
    pub bytes_out: u64,
    pub duration: Duration,
}

/// Where in a message the result of a call lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultAt {
    /// It is the answer's result.
    Answer,
    /// It is the result in the task that the answer holds.
    Task,
    /// It is the result in the task that a notification tells of.
    Told,
}

impl ResultAt {
    fn root(self) -> &'static [&'static str] {
        match self {
            Self::Answer => &["result"],
            Self::Task => &["result", "result"],
            Self::Told => &["params", "result"],
        }
    }
}

/// Why a meter counts nothing for a call that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    Absent,
    Negative,
    /// No whole number, or it could be read in two ways.
    Unclear,
    /// Over 10^12: nobody would count an event with it.
    TooLarge,
}

impl Problem {
    /// As a word of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Negative => "negative",
            Self::Unclear => "unclear",
            Self::TooLarge => "too_large",
        }
    }
}

/// What a call counts for, and which meters could not be read.
pub type Counted = (BTreeMap<MeterName, Quantity>, Vec<(MeterName, Problem)>);

impl Plan {
    /// Whether it counts what is known only afterwards.
    #[must_use]
    pub fn measures(&self) -> bool {
        !self.meters.is_empty()
    }

    /// What a call counts for that was cancelled when the server may have begun with it.
    #[must_use]
    pub fn count_cancelled(&self) -> BTreeMap<MeterName, Quantity> {
        let reserved = self.reserved().filter(|(_, _, rule)| *rule == Cancelled::Reserved);
        reserved.map(|(meter, units, _)| (meter, units)).collect()
    }

    /// What is set aside for a call.
    #[must_use]
    pub fn count_reserved(&self) -> BTreeMap<MeterName, Quantity> {
        self.reserved().map(|(meter, units, _)| (meter, units)).collect()
    }

    fn reserved(&self) -> impl Iterator<Item = (MeterName, Quantity, Cancelled)> {
        let calls = (MeterName::tool_calls(), self.weight, self.cancelled);
        let meters = self.meters.iter().map(|of| (of.name.clone(), of.reserve, of.cancelled));
        let all = std::iter::once(calls).chain(meters).filter(|(_, units, _)| *units > 0);
        all.map(|(meter, units, rule)| (meter, Quantity(units), rule))
    }

    /// What a call with this outcome counts for.
    #[must_use]
    pub fn count(&self, outcome: Outcome, measured: &MeasuredCall<'_>) -> Counted {
        if self.weight == 1 && self.meters.is_empty() {
            return (billable::quantities(outcome), Vec::new());
        }
        let (mut counted, mut problems) = (BTreeMap::new(), Vec::new());
        if !billable::is_billable(outcome) {
            return (counted, problems);
        }
        if self.weight > 0 {
            counted.insert(MeterName::tool_calls(), Quantity(self.weight));
        }
        let mut found = self.found(measured).into_iter();
        for meter in &self.meters {
            match amount(&meter.from, measured, || found.next().unwrap_or_default()) {
                Ok(0) => {}
                Ok(units) => drop(counted.insert(meter.name.clone(), Quantity(units))),
                Err(problem) => problems.push((meter.name.clone(), problem)),
            }
        }
        (counted, problems)
    }

    /// What stands at the places of the meters that have one, in their order.
    fn found(&self, measured: &MeasuredCall<'_>) -> Vec<PointerValue> {
        let place = |meter: &'_ ExtraMeter| match &meter.from {
            Source::Result(pointer) => Some(pointer.clone()),
            _ => None,
        };
        let places: Vec<Pointer> = self.meters.iter().filter_map(place).collect();
        let Some((answer, at)) = measured.answer.filter(|_| !places.is_empty()) else {
            return vec![];
        };
        let Ok(text) = std::str::from_utf8(answer) else { return vec![] };
        find(text, at.root(), &places.iter().collect::<Vec<_>>())
    }
}

fn amount(
    from: &Source,
    measured: &MeasuredCall<'_>,
    found: impl FnOnce() -> PointerValue,
) -> Result<u64, Problem> {
    let units = match from {
        Source::BytesIn => measured.bytes_in,
        Source::BytesOut => measured.bytes_out,
        Source::DurationMs => {
            u64::try_from(measured.duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
        }
        Source::Result(_) => match found() {
            PointerValue::Number(units) => units,
            PointerValue::Absent => return Err(Problem::Absent),
            PointerValue::Negative => return Err(Problem::Negative),
            PointerValue::Unclear => return Err(Problem::Unclear),
        },
    };
    if units > MAX_UNITS { Err(Problem::TooLarge) } else { Ok(units) }
}

#[cfg(test)]
#[path = "metering_tests.rs"]
mod tests;
