//! What can go wrong with a spool.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use schemas::NodeId;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("{path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the spool folder {path} is in use by {holder}: one folder is one process at a time")]
    InUse { path: PathBuf, holder: Holder },
    #[error("{path} belongs to the node {found}, not {wanted}: one folder is one node for ever")]
    OtherNode { path: PathBuf, found: NodeId, wanted: NodeId },
    #[error("{0} cannot be read as what it should be")]
    Unreadable(PathBuf),
    #[error("{path} is damaged at byte {at}: {what}")]
    Corrupt { path: PathBuf, at: u64, what: &'static str },
    #[error("{0} epochs are not over at the ledger: their counts do not fit a segment's head")]
    TooManyEpochs(usize),
}

/// The process that holds a folder; `None` = the system does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(process) => write!(f, "process {process}"),
            None => f.write_str("another process"),
        }
    }
}

impl SpoolError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn corrupt(path: &Path, at: u64, what: &'static str) -> Self {
        Self::Corrupt { path: path.to_owned(), at, what }
    }
}

/// The record was not taken: the spool is broken, or its epoch has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot record: {0}")]
pub struct CannotRecord(pub(super) String);
