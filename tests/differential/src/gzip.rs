//! Content codings without compression: the formats allow blocks that are stored as they are.

/// The bytes as one gzip member (RFC 1952).
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    member.extend(stored(bytes));
    member.extend(crc32fast::hash(bytes).to_le_bytes());
    member.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    member
}

/// The bytes as zlib (RFC 1950), which HTTP calls `deflate`.
#[must_use]
pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    stream.extend(stored(bytes));
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

/// Blocks of DEFLATE (RFC 1951) that hold the bytes as they are.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut pieces = bytes.chunks(65_535).peekable();
    if pieces.peek().is_none() {
        return vec![1, 0, 0, 0xff, 0xff];
    }
    while let Some(piece) = pieces.next() {
        let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        blocks.push(u8::from(pieces.peek().is_none()));
        blocks.extend(length.to_le_bytes());
        blocks.extend((!length).to_le_bytes());
        blocks.extend(piece);
    }
    blocks
}
