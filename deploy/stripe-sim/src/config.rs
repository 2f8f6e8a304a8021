//! Command line and settings, read once.
//!
//! Invariant: the simulator listens on loopback only, so nobody can mistake it for a service. Absent on purpose: a configuration
//! file and environment variables; everything that changes while it runs is behind `/_sim/`.

use clap::Parser;
use std::net::SocketAddr;

/// The key that is accepted when none is given. It protects nothing: the simulator is reachable from this machine only.
pub const DEFAULT_API_KEY: &str = "sk_test_stripe_sim";

/// A local Stripe for tests: customers, prices, meters, checkout, subscriptions and signed webhooks, in memory.
#[derive(Clone, Debug, Parser)]
#[command(name = "stripe-sim", version)]
pub struct Config {
    /// Where to listen: a loopback address; port 0 takes a free port and prints it.
    #[arg(long, default_value = "127.0.0.1:12111", value_parser = loopback)]
    pub listen: SocketAddr,

    /// The secret key that clients must send.
    #[arg(long, default_value = DEFAULT_API_KEY, value_parser = test_key)]
    pub api_key: String,

    /// Registers one webhook endpoint for all events at start. Plain http to a loopback host.
    #[arg(long, value_parser = webhook_url, requires = "webhook_secret")]
    pub webhook_url: Option<String>,

    /// The signing secret of the endpoint given by --webhook-url.
    #[arg(long, value_parser = webhook_secret)]
    pub webhook_secret: Option<String>,

    /// Seed of all ids and secrets: same seed and script, same bytes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Starts with the clock standing at this Unix second.
    #[arg(long)]
    pub freeze_at: Option<i64>,

    /// Seconds (of the simulator's clock) until a meter event shows in event summaries.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub summary_lag_s: u32,

    /// Deliveries that may be on the wire at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub webhook_concurrency: u16,

    /// Attempts per delivery, the first one included.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub webhook_attempts: u32,

    /// Wait before the second attempt, in real milliseconds; doubles with each attempt, up to 5 s.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    pub webhook_backoff_ms: u64,

    /// How long one delivery attempt may take, in real milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub webhook_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self::parse_from(["stripe-sim"])
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("`{text}` is not a loopback address"))
    }
}

fn test_key(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("sk_test_").unwrap_or_default();
    if rest.is_empty() { Err("a key starts with sk_test_".to_owned()) } else { Ok(text.to_owned()) }
}

fn webhook_secret(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("whsec_").unwrap_or_default();
    if rest.trim().is_empty() {
        Err("a signing secret starts with whsec_".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Accepts `http://` URLs of loopback hosts: the simulator never speaks to another machine.
///
/// # Errors
/// Says what is wrong with the URL.
pub fn webhook_url(text: &str) -> Result<String, String> {
    let url: http::Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
    if url.scheme_str() != Some("http") {
        return Err(format!(
            "`{text}` does not start with http://: deliveries are plain HTTP on this machine"
        ));
    }
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let local =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if local { Ok(text.to_owned()) } else { Err(format!("`{host}` is not a loopback host")) }
}

/// Accepts what Stripe accepts as an endpoint: an `http` or `https` URL of any host. Only those of [`webhook_url`] are sent to.
///
/// # Errors
/// Says what is wrong with the URL.
pub fn endpoint_url(text: &str) -> Result<String, String> {
    let url: http::Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("`{text}` does not start with http:// or https:// and a host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        assert!(loopback("127.0.0.1:0").is_ok());
        assert!(loopback("[::1]:80").is_ok());
        assert!(loopback("0.0.0.0:80").is_err());
        assert!(loopback("192.0.2.1:80").is_err());
    }

    #[test]
    fn only_loopback_is_delivered_to() {
        assert!(webhook_url("http://127.0.0.1:8080/hook").is_ok());
        assert!(webhook_url("http://[::1]:8080/hook").is_ok());
        assert!(webhook_url("http://localhost/hook").is_ok());
        assert!(webhook_url("https://localhost/hook").is_err());
        assert!(webhook_url("http://example.com/hook").is_err());
        assert!(webhook_url("http://127.0.0.1.example.com/hook").is_err());
    }

    #[test]
    fn a_blank_signing_secret_is_refused() {
        assert!(webhook_secret("whsec_").is_err());
        assert!(webhook_secret("whsec_  ").is_err());
        assert!(webhook_secret("whsec_x").is_ok());
    }
}
