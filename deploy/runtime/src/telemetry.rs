//! Logs to standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging for this process. `RUST_LOG` sets the level (default `info`), `LOG_FORMAT=json` the format.
///
/// Call it once, before anything logs; a second call changes nothing.
pub fn init(service: &'static str) {
    init_at(service, "info", None);
}

/// As [`init`], with a level for where `RUST_LOG` says none, and a format that goes before `LOG_FORMAT`.
pub fn init_at(service: &'static str, level: &str, format: Option<&str>) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},async_nats=warn")));
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
        tracing::info!(
            service,
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            "Starting"
        );
    }
}
