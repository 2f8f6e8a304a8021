//! Logs to standard error, as text or JSON.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// How the level is changed while the process runs.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging for this process. `RUST_LOG` sets the level (default `info`), `LOG_FORMAT=json` the format.
///
/// Call it once, before anything logs; a second call changes nothing.
pub fn init(service: &'static str) {
    init_at(service, "info", None);
}

/// As [`init`], with a level for where `RUST_LOG` says none, and a format that goes before `LOG_FORMAT`.
pub fn init_at(service: &'static str, level: &str, format: Option<&str>) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let format = format.map(str::to_owned).or_else(|| std::env::var("LOG_FORMAT").ok());
    let json = format.is_some_and(|format| format.eq_ignore_ascii_case("json"));
    let colours = std::io::stderr().is_terminal(); // Not into files.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(lines.json().flatten_event(true).with_current_span(true)).try_init()
    } else {
        registry.with(lines).try_init()
    };
    if started.is_ok() {
        drop(FILTER.set(handle)); // Started once, so set once.
        tracing::info!(
            service,
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            "Starting"
        );
    }
}

/// Changes the level that holds where `RUST_LOG` says none.
pub fn set_level(level: &str) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(level))
    {
        tracing::warn!(%error, "The log's level stays as it was");
    }
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},async_nats=warn")))
}
