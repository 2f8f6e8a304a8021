//! A frame that is read is byte for byte a frame that was written; what is cut off or changed is none.

use mcp_node_core::spool_format::{FrameError, decode, encode, head};

/// Reads `bytes` as the frames of a segment, to the first that is none.
pub fn check(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        match decode(rest) {
            Ok((frame, size)) => {
                let mut again = Vec::new();
                encode(frame, &mut again).expect("a frame that was read can be written");
                assert_eq!(again, &rest[..size]);
                assert_eq!(head(rest).map(|head| head.whole), Ok(size));
                for cut in 0..size.min(64) {
                    assert!(decode(&rest[..cut]).is_err(), "half a frame was taken for one");
                }
                rest = &rest[size..];
            }
            Err(FrameError::CutOff(whole)) => return assert!(whole > rest.len()),
            Err(FrameError::Length(_) | FrameError::Check) => return,
        }
    }
}
