//! Where a spool folder lies, so that a start on a copy of it is told from a restart.
//!
//! A process that died where this one starts is dead: its lock is free. One that ran in another place may only be
//! frozen, and go on. The place is the lock file's device and inode, which a bind mount or a rename leaves as they
//! are, and the machine's boot, since a cloned disk has both of them again on another machine.
//! Invariant: an epoch that must be held is on disk before the new place is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{ErrorKind, Result},
    os::unix::fs::MetadataExt,
};

use serde::{Deserialize, Serialize};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where a folder lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FolderIdentity {
    device: u64,
    inode: u64,
    /// The machine's boot; `None` = it does not say, and no place is like another then.
    boot: Option<String>,
}

impl FolderIdentity {
    /// The place of an open file.
    pub fn of(file: &File) -> Result<Self> {
        let metadata = file.metadata()?;
        let boot = std::fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().to_owned());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), boot })
    }

    /// Whether a process that ran at `other` must have ended when one runs here.
    fn is_same(&self, other: &Self) -> bool {
        self.boot.is_some() && self == other
    }
}

/// What the file `place` says: where the folder lay at the last start, and which epochs are not to be ended yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placed {
    pub place: FolderIdentity,
    /// Dead epochs of processes that may live on elsewhere.
    #[serde(default)]
    pub held: BTreeSet<u64>,
    /// Until when, by shard, on this boot's clock. Absent = the ledger is not known to refuse them leases.
    /// Unit: milliseconds.
    #[serde(default)]
    pub until_ms: BTreeMap<u16, u64>,
}

impl Placed {
    /// What holds for a start at `here`, where the epochs `open` have not ended. `last` = what the folder says; one
    /// that says nothing comes from a node that did not know of places, which may have been copied like any other.
    pub fn at_start(here: FolderIdentity, last: Option<Self>, open: &BTreeSet<u64>) -> Self {
        match last {
            Some(last) if here.is_same(&last.place) => {
                let held = last.held.intersection(open).copied().collect();
                Self { place: here, held, until_ms: last.until_ms }
            }
            _ => Self { place: here, held: open.clone(), until_ms: BTreeMap::new() },
        }
    }
}

/// The process that holds a lock on a file, as far as the kernel tells.
pub(super) fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let ours = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let of_file = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, holder, at, ..] = fields[..] else { return None };
        holder.parse().ok().filter(|holder| *holder != 0 && at == ours)
    };
    locks.lines().find_map(of_file)
}

/// Reads what a file says, if it is there.
pub(super) fn read_if_there(path: &std::path::Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(device: u64, inode: u64, boot: Option<&str>) -> FolderIdentity {
        FolderIdentity { device, inode, boot: boot.map(str::to_owned) }
    }

    #[test]
    fn epochs_are_held_wherever_their_process_may_live_on() {
        let here = place(1, 2, Some("b"));
        let (open, nothing) = (BTreeSet::from([7, 8]), BTreeSet::new());
        let last = |place, held: &BTreeSet<u64>| {
            Some(Placed { place, held: held.clone(), until_ms: BTreeMap::from([(0, 99)]) })
        };
        let same = Placed::at_start(here.clone(), last(here.clone(), &nothing), &open);
        assert!(same.held.is_empty(), "it died where this one starts");
        for there in [place(9, 2, Some("b")), place(1, 9, Some("b")), place(1, 2, Some("c"))] {
            let moved = Placed::at_start(here.clone(), last(there, &nothing), &open);
            assert_eq!((moved.held, moved.until_ms.len()), (open.clone(), 0));
        }
        let upgraded = Placed::at_start(here.clone(), None, &open);
        assert_eq!(upgraded.held, open, "nobody knows whether it is a copy");
        assert!(Placed::at_start(here.clone(), None, &nothing).held.is_empty(), "stopped in order");
        let waiting = BTreeSet::from([3, 7]);
        let again = Placed::at_start(here.clone(), last(here, &waiting), &open);
        assert_eq!((again.held, again.until_ms.len()), (BTreeSet::from([7]), 1), "goes on waiting");
        let nameless = place(1, 2, None);
        let again = Placed::at_start(nameless.clone(), last(nameless, &nothing), &open);
        assert_eq!(again.held, open, "a machine that does not say its boot");
    }

    #[test]
    fn a_lock_names_its_holder() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(lock_holder(&file), None);
        file.lock().unwrap();
        assert_eq!(lock_holder(&file), Some(std::process::id()));
    }
}
