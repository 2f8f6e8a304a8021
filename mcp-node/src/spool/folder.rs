//! The spool's folder: one process at a time, one node id for ever, one epoch a start, and where it lies.
//!
//! Invariant: an epoch number is on disk before anything is said under it, and is never used twice.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use schemas::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

use super::{
    SpoolError,
    error::Holder,
    place::{FolderIdentity, Placed, lock_holder, read_if_there},
};

/// For how long a lock that another holds is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A spool folder that this process holds.
pub struct Folder {
    path: PathBuf,
    node: NodeId,
    /// Held as long as this lives.
    lock: File,
}

/// What the file `epoch` says.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct LastEpoch {
    pub epoch: u64,
    /// It ended in order: everything that had to be said of it is in the spool.
    pub clean: bool,
}

impl Folder {
    /// Takes the folder, making it if needed. A new folder becomes the node `wanted`, or `minted` when nobody chose.
    ///
    /// # Errors
    /// Another process holds it, it belongs to another node, or the disk refuses.
    pub fn open(path: &Path, wanted: Option<&NodeId>, minted: &NodeId) -> Result<Self, SpoolError> {
        let folders = DirBuilder::new().recursive(true).mode(0o700).create(path.join("segments"));
        folders.map_err(|e| SpoolError::io(path, e))?;
        let lock = take_lock(path)?;
        let file = path.join("node-id");
        let node = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().parse().map_err(|_| SpoolError::Unreadable(file.clone()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let node = wanted.unwrap_or(minted).clone();
                write_durably(&file, format!("{node}\n").as_bytes())?;
                node
            }
            Err(error) => return Err(SpoolError::io(&file, error)),
        };
        match wanted {
            Some(wanted) if *wanted != node => Err(SpoolError::OtherNode {
                path: path.to_owned(),
                found: node,
                wanted: wanted.clone(),
            }),
            _ => Ok(Self { path: path.to_owned(), node, lock }),
        }
    }

    /// The node that this folder is.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    pub(super) fn segments(&self) -> PathBuf {
        self.path.join("segments")
    }

    pub(super) fn last_epoch(&self) -> Result<LastEpoch, SpoolError> {
        Ok(self.read("epoch")?.unwrap_or_default())
    }

    pub(super) fn set_epoch(&self, epoch: Epoch, clean: bool) -> Result<(), SpoolError> {
        let last = LastEpoch { epoch: epoch.0, clean };
        let bytes = serde_json::to_vec(&last).expect("two plain fields are JSON");
        write_durably(&self.path.join("epoch"), &bytes)
    }

    /// Where it lies now.
    pub(super) fn place(&self) -> Result<FolderIdentity, SpoolError> {
        FolderIdentity::of(&self.lock).map_err(|e| SpoolError::io(&self.path, e))
    }

    /// Where it lay at the last start.
    pub(super) fn last_place(&self) -> Result<Option<Placed>, SpoolError> {
        self.read("place")
    }

    pub(super) fn set_place(&self, placed: &Placed) -> Result<(), SpoolError> {
        let bytes = serde_json::to_vec(placed).expect("numbers and text are JSON");
        write_durably(&self.path.join("place"), &bytes)
    }

    /// What a file of ours says, if it is there.
    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SpoolError> {
        let file = self.path.join(name);
        let bytes = read_if_there(&file).map_err(|e| SpoolError::io(&file, e))?;
        let read = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        read.map_err(|_| SpoolError::Unreadable(file))
    }
}

/// Takes the lock of the folder, and tries for a moment if another has it: a process that has just died may still have
/// a child between fork and exec, and that child holds for an instant what its parent held.
fn take_lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|e| SpoolError::io(&path, e))?;
    let timeout = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if timeout.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let (path, holder) = (folder.to_owned(), Holder(lock_holder(&file)));
                return Err(SpoolError::InUse { path, holder });
            }
            Err(TryLockError::Error(error)) => return Err(SpoolError::io(&path, error)),
        }
    }
}

/// Replaces a file so that a crash leaves the old text or the new one, and a power cut after this leaves the new one.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        sync_folder(path.parent().unwrap_or(Path::new(".")))
    };
    write().map_err(|e| SpoolError::io(path, e))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    #[test]
    fn a_folder_is_one_node_and_one_process() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path(), None, &name("minted")).unwrap();
        assert_eq!(folder.node(), &name("minted"));
        let second = Folder::open(temp.path(), None, &name("other")).map(|_| ());
        assert!(matches!(second, Err(SpoolError::InUse { .. })), "{second:?}");
        let said = second.map_err(|error| error.to_string()).unwrap_err();
        let (folder_name, process) = (temp.path().display().to_string(), std::process::id());
        assert!(
            said.contains(&folder_name) && said.contains(&format!("process {process}")),
            "{said}"
        );
        drop(folder);
        assert_eq!(
            Folder::open(temp.path(), None, &name("other")).unwrap().node(),
            &name("minted")
        );
        let other = Folder::open(temp.path(), Some(&name("chosen")), &name("other")).map(|_| ());
        assert!(matches!(other, Err(SpoolError::OtherNode { .. })), "{other:?}");
    }

    #[test]
    fn the_last_epoch_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(temp.path(), None, &name("n")).unwrap();
        assert_eq!(folder.last_epoch().unwrap().epoch, 0);
        folder.set_epoch(Epoch(7), false).unwrap();
        folder.set_epoch(Epoch(8), true).unwrap();
        let last = folder.last_epoch().unwrap();
        assert_eq!((last.epoch, last.clean), (8, true));
        std::fs::write(temp.path().join("epoch"), b"nonsense").unwrap();
        assert!(
            matches!(folder.last_epoch(), Err(SpoolError::Unreadable(_))),
            "never begin at 1 again"
        );
    }
}
