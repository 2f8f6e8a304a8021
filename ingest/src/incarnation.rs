//! Which life of the stream we read: its number `src` stands in every row.
//!
//! A stream that was made anew counts from 1 again, and the mark of its predecessor would hide its messages. So
//! the moment at which the stream was made is kept, and another one stops the process unless it was told.

use clickhouse::Client;

use crate::IngestError;

/// The `src` of the stream that was made at `created_ms` (milliseconds since 1970); the first one is 1.
///
/// # Errors
/// Another stream is known under that name and `accept_new` is false; or ClickHouse does not answer.
pub async fn src_of(
    client: &Client,
    stream: &str,
    created_ms: i64,
    accept_new: bool,
) -> Result<u16, IngestError> {
    const KNOWN: &str = "SELECT src, toUnixTimestamp64Milli(created_at) FROM stream_incarnations \
                         WHERE stream = {stream:String} ORDER BY src DESC, noted_at LIMIT 1";
    let known: Option<(u16, i64)> =
        client.query_raw(KNOWN).param("stream", stream).fetch_optional().await?;
    let src = match known {
        Some((src, known_ms)) if known_ms == created_ms => return Ok(src),
        Some((src, known_ms)) if !accept_new => {
            return Err(IngestError::OtherStream { src, known_ms, found_ms: created_ms });
        }
        Some((src, _)) => src + 1,
        None => 1,
    };
    const NOTE: &str = "INSERT INTO stream_incarnations (src, stream, created_at) \
                        SELECT {src:UInt16}, {stream:String}, fromUnixTimestamp64Milli({created:Int64})";
    let note = client
        .query_raw(NOTE)
        .param("src", src)
        .param("stream", stream)
        .param("created", created_ms);
    note.execute().await?;
    tracing::info!(src, stream, created_ms, "A new life of the stream");
    Ok(src)
}
