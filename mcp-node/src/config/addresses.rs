//! The settings of what client addresses may do, checked together.

use std::sync::Arc;

use mcp_node::http::AddressSettings;
use mcp_node_core::forwarded::ForwardedHeader;

use super::{ConfigError, File};

/// What client addresses may do.
///
/// # Errors
/// Names what is no network, or a header that no proxy writes.
pub(super) fn addresses(file: &File) -> Result<Arc<AddressSettings>, ConfigError> {
    let header = ForwardedHeader::from_name(&file.forwarded_header)
        .ok_or(ConfigError::Range("forwarded_header", "x-forwarded-for or forwarded"))?;
    Ok(Arc::new(AddressSettings {
        trusted_proxies: file.trusted_proxies.parse()?,
        forwarded_header: header,
        allowed: file.allowed_addresses.parse()?,
        connections_per_minute: file.address_connections_per_minute,
        unauthorized_per_minute: file.address_unauthorized_per_minute,
    }))
}
