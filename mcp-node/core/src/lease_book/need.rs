//! What one call may count for at most: taken before it is forwarded, settled with what it did count for.

use std::sync::Arc;

use schemas::{MeterName, TOOL_CALLS};

/// The most that one call may count for of one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterDemand {
    pub meter: MeterName,
    /// Range: from 1.
    pub units: u64,
}

/// All that one call may count for: `tool_calls`, and what is known only afterwards by its declared maximum.
pub type Needs = Arc<[MeterDemand]>;

/// One unit of `tool_calls`: what a call needs when nothing else is metered.
#[must_use]
pub fn one_call() -> Needs {
    Arc::new([MeterDemand { meter: MeterName::tool_calls(), units: 1 }])
}

/// How much of a meter such a call needs. A lease is always asked for a call, so it needs one of those at least.
#[must_use]
pub fn units_of(needs: &[MeterDemand], meter: &MeterName) -> u64 {
    let named = needs.iter().find(|need| need.meter == *meter);
    named.map_or(u64::from(meter.as_str() == TOOL_CALLS), |need| need.units)
}
