//! The settings of what client addresses may do, checked together.

use std::sync::Arc;

use mcp_node::http::AddressSettings;

use super::{ConfigError, Settings};

/// What client addresses may do.
///
/// # Errors
/// Names what is no network.
pub(super) fn addresses(settings: &Settings) -> Result<Arc<AddressSettings>, ConfigError> {
    Ok(Arc::new(AddressSettings {
        trusted_proxies: settings.trusted_proxies.parse()?,
        forwarded_header: settings.forwarded_header,
        allowed: settings.allowed_addresses.parse()?,
        connections_per_minute: settings.address_connections_per_minute,
        unauthorized_per_minute: settings.address_unauthorized_per_minute,
    }))
}
