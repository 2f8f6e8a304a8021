//! The rules that one call keeps from its admission to its end, whatever is changed meanwhile.

use super::{MeterSettings, bounds::Bounds, plans::Plans};

/// What the settings make of a meter.
pub struct Rules {
    pub settings: MeterSettings,
    pub plans: Plans,
    pub bounds: Bounds,
}

impl Rules {
    pub fn new(settings: MeterSettings) -> Self {
        let (plans, bounds) = (Plans::new(settings.metering.clone()), Bounds::new(&settings));
        Self { settings, plans, bounds }
    }
}
