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

use super::{ConfigError, Settings, Tables, settings::RefuseAs};

/// A meter besides `tool_calls`, as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
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
pub(super) fn read(settings: &Settings, tables: &Tables) -> Result<MeterSettings, ConfigError> {
    let (per_minute, burst) = (settings.tenant_per_minute, settings.tenant_burst);
    let tenant = bound(per_minute, burst, settings.tenant_concurrent);
    let (per_minute, burst) = (settings.connection_per_minute, settings.connection_burst);
    let connection = bound(per_minute, burst, settings.connection_concurrent);
    Ok(MeterSettings {
        quota_meta: settings.quota_meta.0,
        refuse_by_results: settings.refuse_as == RefuseAs::Result,
        metering: metering(settings, tables)?,
        tenant,
        connection,
        backoff: backoff(settings),
        max_open_tasks: settings.max_open_tasks,
    })
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

fn backoff(settings: &Settings) -> Backoff {
    Backoff {
        after: settings.backoff_after,
        window_ms: settings.backoff_window_ms,
        steps: settings.backoff_steps,
        max_ms: settings.backoff_most_ms,
        block_ms: settings.block_ms,
    }
}

fn metering(settings: &Settings, tables: &Tables) -> Result<Metering, ConfigError> {
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
    let meters = tables.meter.iter().map(extra).collect::<Result<_, ConfigError>>()?;
    let weights = tables.weights.iter().map(|(text, weight)| Ok((glob(text)?, *weight)));
    let metering = Metering::new(meters, weights.collect::<Result<_, ConfigError>>()?)?;
    Ok(metering.with_cancelled(settings.cancelled))
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
