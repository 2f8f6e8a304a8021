//! A refusal in words: which limit refused, whose it is, and when it is worth to come back.
//!
//! Some clients show their users the text alone, so it says what `data` says. A scope is named by its kind; ids, names
//! and prices of a wider scope than the key's stay out. Absent on purpose: languages other than English.

use std::borrow::Cow;

use schemas::{MeterName, Period, Quantity, Scope, TOOL_CALLS, Timestamp};

use super::{LimitScope, Refusal};
use crate::{quota_note, violations::BackoffWarning};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;

impl Refusal {
    /// What a person or a model reads: the limit, whose it is, its meter and the moment where there is one.
    #[must_use]
    pub fn message(&self, now: Timestamp) -> Cow<'static, str> {
        match self {
            Self::QuotaExhausted { meter, limit, scope, period, needed } => {
                quota_exhausted(meter, *limit, *scope, *period, *needed).into()
            }
            Self::UnitsHeld { meter, limit, scope, period, retry_ms } => format!(
                "What is left of {} is held by other nodes or keys; retry in {}. The quota resets {} ({}).",
                whole(meter, *limit, *scope),
                seconds(*retry_ms),
                moment(period.to),
                kind(*period),
            )
            .into(),
            Self::RateHeld { per_minute, retry_ms } => {
                let rate = per_minute
                    .map_or_else(|| "the rate".to_owned(), |rate| format!("the {rate} calls a minute"));
                let wait = seconds(*retry_ms);
                format!("Other nodes hold all of {rate} of this key; retry in {wait}.").into()
            }
            Self::RateLimited { per_minute, node_per_minute, retry_ms, whose, warning } => {
                let share = node_per_minute.filter(|share| share != per_minute);
                let share = share.map_or_else(String::new, |share| {
                    format!(" ({share} of them at this node, which shares the rate with others)")
                });
                let (whose, wait) = (whose.as_str(), seconds(*retry_ms));
                let warning = warning.map_or_else(String::new, backoff);
                format!("More than {per_minute} calls a minute of this {whose}{share}; wait {wait}.{warning}")
                    .into()
            }
            Self::TooManyRunning { max, node_max, whose } => too_many(*max, *node_max, *whose).into(),
            Self::Blocked { retry_ms } => {
                let until = now.plus_ms(i64::try_from(*retry_ms).unwrap_or(i64::MAX));
                format!(
                    "This key is blocked until {} since it went on calling before its waits were over; wait {}.",
                    moment(until),
                    seconds(*retry_ms),
                )
                .into()
            }
            _ => self.row().3.into(),
        }
    }

    /// The refusal for a model: what happened, and what to do now.
    #[must_use]
    pub fn advice(&self, now: Timestamp) -> String {
        let what = self.message(now);
        if matches!(self, Self::QuotaExhausted { .. }) {
            return format!(
                "The tool was not called. {what} Do not call it again before then: go on without it, or tell the user."
            );
        }
        let Some(ms) = self.retry_after_ms(now) else {
            return format!("The tool was not called. {what}");
        };
        format!("The tool was not called. {what} Wait {} before you call it again.", seconds(ms))
    }
}

fn quota_exhausted(
    meter: &MeterName,
    limit: Quantity,
    scope: Scope,
    period: Period,
    needed: u64,
) -> String {
    let (whole, resets, kind) = (whole(meter, limit, scope), moment(period.to), kind(period));
    if needed > 1 {
        let units = units(meter);
        return format!(
            "This call needs {needed} {units}, and fewer than that are left of {whole}; resets {resets} ({kind})."
        );
    }
    let Quantity(limit) = limit;
    format!("{limit} of {whole} used; resets {resets} ({kind}).")
}

fn too_many(max: u32, node_max: Option<u32>, whose: LimitScope) -> String {
    let whose = whose.as_str();
    match node_max.filter(|share| *share != max) {
        Some(share) => format!(
            "{share} calls of this {whose} run at this node, its share of the {max} that may run at the same time; \
             wait until one ends."
        ),
        None => format!(
            "{max} of {max} calls of this {whose} that may run at the same time are running; wait until one ends."
        ),
    }
}

/// What becomes of a key that does not wait.
fn backoff(warning: BackoffWarning) -> String {
    let BackoffWarning { violations, after, window_ms, step, steps, block_ms } = warning;
    let so_far = match step {
        0 => String::new(),
        step => format!(
            " The wait was lengthened (step {step} of {steps}) since calls came before it was over."
        ),
    };
    let next = if step < steps { "double the wait" } else { "block the key" };
    let last = if step < steps {
        let more = steps - step;
        format!(", and after {more} such steps the key is blocked for {}", seconds(block_ms))
    } else {
        format!(" for {}", seconds(block_ms))
    };
    let window = seconds(window_ms);
    format!(
        "{so_far} {after} calls before that within {window} (so far {violations}) {next}{last}."
    )
}

/// `12 calls of this key`.
fn whole(meter: &MeterName, Quantity(limit): Quantity, scope: Scope) -> String {
    format!("{limit} {} of this {}", units(meter), quota_note::scope(scope))
}

fn units(meter: &MeterName) -> String {
    if meter.as_str() == TOOL_CALLS { "calls".to_owned() } else { meter.as_str().replace('_', " ") }
}

/// What kind of quota has such a period.
fn kind(period: Period) -> &'static str {
    match period.to.ms_since(period.from) {
        // A day on which clocks change has 23 or 25 hours.
        ms if ms <= DAY_MS + HOUR_MS => "daily quota",
        ms if (28 * DAY_MS - HOUR_MS..=31 * DAY_MS + HOUR_MS).contains(&ms) => "monthly quota",
        _ => "quota of a period",
    }
}

/// `30 Nov 23:00 UTC`, with seconds where they are not zero, rounded up to them.
fn moment(at: Timestamp) -> String {
    let at = Timestamp(at.0.saturating_add(999).div_euclid(1_000).saturating_mul(1_000));
    let clock =
        if at.0.rem_euclid(60_000) == 0 { "%-d %b %H:%M UTC" } else { "%-d %b %H:%M:%S UTC" };
    at.to_utc().format(clock).to_string()
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms.div_ceil(1_000))
}
