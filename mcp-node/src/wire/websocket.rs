//! What both ends of a WebSocket share: the answer to a handshake's key, the subprotocol and the limits.

use axum::http::HeaderValue;
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The subprotocol of MCP.
pub const SUBPROTOCOL: &str = "mcp";
/// What RFC 6455, section 1.3, puts behind a key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What is read and written at a time. Unit: bytes.
const BUFFER: usize = 8 * 1024;

/// The value of `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
pub fn accept_key(key: &HeaderValue) -> HeaderValue {
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    let accepted = STANDARD.encode(digest.finish());
    HeaderValue::try_from(accepted).expect("base64 is a header's value")
}

/// A message, and each frame of it, has at most so many bytes.
pub fn limits(max_bytes: usize) -> WebSocketConfig {
    let limits = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    limits.max_message_size(Some(max_bytes)).max_frame_size(Some(max_bytes))
}
