//! The settings of how much may be called, what is counted, and how callers hear of it.

use mcp_node::MeterSettings;
use mcp_node_core::{
    glob::Glob,
    metering::{Cancelled, ExtraMeter, Metering, Source},
    violations::Backoff,
};
use runtime::settings::load;
use schemas::{MeterName, RateLimits};
use serde::Deserialize;

use super::{ConfigError, File};

/// A meter besides `tool_calls`, as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meter {
    name: MeterName,
    /// A JSON pointer into the result, or `bytes_in`, `bytes_out`, `duration_ms`.
    from: String,
    /// Patterns of tools; none = all.
    #[serde(default)]
    tools: Vec<String>,
    reserve: u64,
    /// What a call counts for that was cancelled at the server: `reserved` or `free`.
    #[serde(default)]
    cancelled: Option<String>,
}

/// What the file, the variables and the flags say of it.
///
/// # Errors
/// Names the first that is out of its range.
pub(super) fn read(file: &File) -> Result<MeterSettings, ConfigError> {
    let (per_minute, burst) = (file.tenant_per_minute, file.tenant_burst);
    let tenant = bound(per_minute, burst, file.tenant_concurrent);
    let (per_minute, burst) = (file.connection_per_minute, file.connection_burst);
    let connection = bound(per_minute, burst, file.connection_concurrent);
    Ok(MeterSettings {
        quota_meta: one_of("quota_meta", &file.quota_meta, ["off", "on"], "on or off")?,
        refuse_by_results: {
            let forms = ["error", "result"];
            one_of("refuse_as", &file.refuse_as, forms, "error or result")?
        },
        metering: metering(file)?,
        tenant,
        connection,
        backoff: backoff(file)?,
    })
}

/// Whether it is the second of two words.
fn one_of(
    name: &'static str,
    text: &str,
    [no, yes]: [&str; 2],
    range: &'static str,
) -> Result<bool, ConfigError> {
    if text == yes {
        Ok(true)
    } else {
        (text == no).then_some(false).ok_or(ConfigError::Range(name, range))
    }
}

/// A bound on calls; `None` = nothing bounds them. A burst that is not said is what comes in ten seconds.
fn bound(per_minute: u32, burst: u32, concurrent: u32) -> Option<RateLimits> {
    let concurrent = (concurrent > 0).then_some(concurrent);
    let (per_minute, burst) = match (per_minute, burst) {
        (0, _) => (u32::MAX, u32::MAX),
        (per_minute, 0) => (per_minute, (per_minute / 6).max(1)),
        both => both,
    };
    let any = per_minute < u32::MAX || concurrent.is_some();
    any.then_some(RateLimits { per_minute, burst, concurrent })
}

fn backoff(file: &File) -> Result<Backoff, ConfigError> {
    const DAY: u64 = 86_400_000;
    let ranges = [
        ("backoff_window_ms", (1_000..=DAY).contains(&file.backoff_window_ms), "1 s to a day"),
        ("backoff_steps", file.backoff_steps <= 16, "at most 16"),
        ("backoff_most_ms", (1_000..=DAY).contains(&file.backoff_most_ms), "1 s to a day"),
        ("block_ms", (1_000..=DAY).contains(&file.block_ms), "1 s to a day"),
    ];
    if let Some((name, _, range)) = ranges.into_iter().find(|(_, within, _)| !within) {
        return Err(ConfigError::Range(name, range));
    }
    Ok(Backoff {
        after: file.backoff_after,
        window_ms: file.backoff_window_ms,
        steps: file.backoff_steps,
        max_ms: file.backoff_most_ms,
        block_ms: file.block_ms,
    })
}

fn metering(file: &File) -> Result<Metering, ConfigError> {
    let glob =
        |text: &String| Glob::parse(text).ok_or_else(|| ConfigError::NotMetered(text.clone()));
    let extra = |meter: &Meter| {
        let from = Source::parse(&meter.from);
        let from = from.ok_or_else(|| ConfigError::NotMetered(meter.from.clone()))?;
        let tools = meter.tools.iter().map(glob).collect::<Result<_, _>>()?;
        let (name, reserve) = (meter.name.clone(), meter.reserve);
        let cancelled = meter.cancelled.as_deref().map_or(Ok(Cancelled::default()), cancelled)?;
        Ok(ExtraMeter { name, from, tools, reserve, cancelled })
    };
    let meters = file.meter.iter().map(extra).collect::<Result<_, ConfigError>>()?;
    let weights = file.weights.iter().map(|(text, weight)| Ok((glob(text)?, *weight)));
    let metering = Metering::new(meters, weights.collect::<Result<_, ConfigError>>()?)?;
    Ok(metering.with_cancelled(cancelled(&file.cancelled)?))
}

fn cancelled(text: &str) -> Result<Cancelled, ConfigError> {
    Cancelled::parse(text).ok_or(ConfigError::Range("cancelled", "reserved or free"))
}

/// A meter as a flag says it: a table as it stands in the file, on one line.
pub(super) fn meter(text: &str) -> Result<Meter, ConfigError> {
    #[derive(Deserialize)]
    struct One {
        meter: Meter,
    }
    // No variable begins so: only the text is read.
    let one: One = load(&format!("meter = {text}"), None, "MCP_NODE_FLAG_METER_")?;
    Ok(one.meter)
}

/// A weight as a flag says it: `tool=units`.
pub(super) fn weight(text: &str) -> Result<(String, u64), ConfigError> {
    let pair = text.rsplit_once('=');
    let pair = pair.and_then(|(tool, units)| Some((tool.to_owned(), units.parse().ok()?)));
    pair.ok_or_else(|| ConfigError::NotMetered(text.to_owned()))
}
