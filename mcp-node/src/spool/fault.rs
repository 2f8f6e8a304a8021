//! Faults that tests give to a segment's file; they last until the test takes them back.

use std::io::ErrorKind;

use parking_lot::Mutex;

/// What the disk refuses.
#[derive(Default)]
pub(in crate::spool) struct Faults {
    /// Writes fail so, after as many bytes.
    pub write: Mutex<Option<(ErrorKind, usize)>>,
    /// Each fsync fails so.
    pub sync: Mutex<Option<ErrorKind>>,
}
