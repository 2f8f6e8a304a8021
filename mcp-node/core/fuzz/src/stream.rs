//! A stream comes out as it went in, but for a byte order mark before it, in the same frames however it was cut into
//! chunks.

use bytes::Bytes;
use mcp_node_core::sse::{FrameTooLarge, Splitter, data};

const LIMIT: usize = 4 << 10;

/// Splits `bytes` whole, and once more in chunks whose sizes follow from them.
pub fn check(bytes: &[u8]) {
    let whole = split(bytes, |_| usize::MAX);
    let cut = split(bytes, |at| 1 + usize::from(bytes[at] % 7));
    if let (Ok((frames, rest)), Ok((same, same_rest))) = (&whole, &cut) {
        assert_eq!((joined(same), same_rest), (joined(frames), rest), "chunks changed the bytes");
        let said = |frames: &[Bytes]| -> Vec<Vec<u8>> {
            frames.iter().filter_map(|frame| data(frame)).map(|data| data.into_owned()).collect()
        };
        assert_eq!(said(same), said(frames), "chunks changed what the events say");
    }
    if let Ok((frames, rest)) = whole {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        assert_eq!([joined(&frames).as_slice(), &rest].concat(), bytes);
    }
}

type Split = Result<(Vec<Bytes>, Bytes), FrameTooLarge>;

fn split(bytes: &[u8], size_at: impl Fn(usize) -> usize) -> Split {
    let (mut splitter, mut frames, mut at) = (Splitter::new(LIMIT), Vec::new(), 0);
    while at < bytes.len() {
        let end = at.saturating_add(size_at(at)).min(bytes.len());
        splitter.push(&bytes[at..end]);
        while let Some(frame) = splitter.next_frame()? {
            frames.push(frame);
        }
        at = end;
    }
    Ok((frames, splitter.rest()))
}

fn joined(frames: &[Bytes]) -> Vec<u8> {
    frames.concat()
}
