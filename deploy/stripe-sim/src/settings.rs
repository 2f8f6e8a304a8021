//! What an account owner sets in Stripe's Dashboard and no API call can: the grace period, retries, notices.
//!
//! Read and changed by `/_sim/settings`. Defaults are Stripe's recommended ones where they are known.

use serde::{Deserialize, Serialize};

const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 86_400;

/// What becomes of a subscription when the last retry has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterRetries {
    Cancel,
    Unpaid,
    PastDue,
}

/// How a graduated price shows on an invoice. Stripe does not document whether its tiers are lines of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraduatedLines {
    /// One line, rounded once.
    One,
    /// A line for each tier that is reached, each rounded on its own.
    PerTier,
}

/// How the end of an event summary is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SummaryEnd {
    Exclusive,
    Inclusive,
}

/// Which rate limits hold: none, those of a live account, or those of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rates {
    #[default]
    None,
    Live,
    Sandbox,
}

/// All settings. Absent fields of a change stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Seconds between a draft renewal invoice and its finalization: 0 to 72 h.
    pub grace_s: i64,
    /// Seconds from the first failed payment to each retry, growing.
    pub retries_after_s: Vec<i64>,
    pub after_retries: AfterRetries,
    /// Days before the renewal at which `invoice.upcoming` is told; 0: never.
    pub upcoming_days: i64,
    pub graduated_lines: GraduatedLines,
    /// Seconds from the first meter event of a meter that does not count to the report of it.
    pub report_lag_s: i64,
    /// Seconds from a meter event's adjustment to its effect.
    pub adjustment_lag_s: i64,
    /// What Stripe allows by the second; none, unless a test asks for it.
    pub rates: Rates,
    /// Whether an event summary's `end_time` itself belongs to it: Stripe's documents say both.
    pub summary_end: SummaryEnd,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace_s: HOUR_S,
            retries_after_s: (1..=8).map(|n| n * 42 * HOUR_S).collect(), // Eight in two weeks.
            after_retries: AfterRetries::Cancel,
            upcoming_days: 7,
            graduated_lines: GraduatedLines::One,
            report_lag_s: 10,
            adjustment_lag_s: 0,
            rates: Rates::None,
            summary_end: SummaryEnd::Exclusive,
        }
    }
}

impl Settings {
    /// Lays the fields of `change` over these settings.
    ///
    /// # Errors
    /// Says which field is unknown, of another type or out of its range; nothing has changed then.
    pub fn change(&mut self, change: &serde_json::Value) -> Result<(), String> {
        let mut merged = serde_json::to_value(&*self).map_err(|error| error.to_string())?;
        let fields = change.as_object().ok_or("settings are a JSON object")?;
        for (name, value) in fields {
            merged[name] = value.clone();
        }
        let new: Self = serde_json::from_value(merged).map_err(|error| error.to_string())?;
        if !(0..=72 * HOUR_S).contains(&new.grace_s) {
            return Err("`grace_s` is 0 to 259200, which is 72 hours".to_owned());
        }
        let grows = new.retries_after_s.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = new.retries_after_s.iter().all(|at| (1..=60 * DAY_S).contains(at));
        if !grows || !in_range {
            return Err("`retries_after_s` grows, from 1 second to 60 days".to_owned());
        }
        if !(0..=45).contains(&new.upcoming_days) {
            return Err("`upcoming_days` is 0 to 45".to_owned());
        }
        if !(0..=DAY_S).contains(&new.report_lag_s) || !(0..=DAY_S).contains(&new.adjustment_lag_s)
        {
            return Err("`report_lag_s` and `adjustment_lag_s` are 0 to 86400".to_owned());
        }
        *self = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_is_all_or_nothing() {
        let mut settings = Settings::default();
        settings.change(&json!({ "grace_s": 86_400, "after_retries": "unpaid" })).unwrap();
        assert_eq!((settings.grace_s, settings.retries_after_s.len()), (86_400, 8));
        let before = settings.clone();
        for wrong in [
            json!({ "grace_s": 259_201 }),
            json!({ "graces": 1 }),
            json!({ "retries_after_s": [2, 1] }),
            json!({ "upcoming_days": 46 }),
            json!([]),
        ] {
            assert!(settings.change(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(settings, before);
    }
}
