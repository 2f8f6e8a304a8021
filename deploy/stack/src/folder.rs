//! The data folder of one stack: temporary (dropped at the end) or named (kept).
//!
//! Invariants: one stack per folder at a time, held by a lock that dies with the process; a
//! temporary folder whose process was killed is removed by the next one to be made. Other accounts
//! may pass through the folder (PostgreSQL of a root's stack runs under one) but read nothing in it.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{StackError, at};
use crate::settings::Settings;

/// The lock file in each folder.
const LOCK: &str = ".lock";
/// How temporary folders' names begin, and those of the ones to be kept, which are never swept.
const PREFIX: &str = "tollbook-";
const KEPT_PREFIX: &str = "kept-tollbook-";
const PART: &str = "data folder";
/// How long a lock that is held is tried for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A handle on a data folder; a temporary one goes with its last handle.
#[derive(Clone, Debug)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    drop_at_end: bool,
    _lock: File,
}

impl Folder {
    /// A new folder below the system's temporary folder, dropped at the end unless `TOLLBOOK_KEEP`
    /// is set.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn temporary() -> Result<Self, StackError> {
        let Settings { temporary: base, keep_temporary: keep, .. } = Settings::from_env();
        sweep(&base);
        let failed = at(PART, "create a temporary folder in", &base);
        let prefix = if keep { KEPT_PREFIX } else { PREFIX };
        let path =
            tempfile::Builder::new().prefix(prefix).tempdir_in(&base).map_err(failed)?.keep();
        let_others_pass(&path)?;
        Self::hold(path, !keep)
    }

    /// The folder at `path`, created where it is missing, and kept.
    ///
    /// # Errors
    /// It cannot be created, or another stack uses it.
    pub fn named(path: &Path) -> Result<Self, StackError> {
        if !path.exists() {
            fs::create_dir_all(path).map_err(at(PART, "create", path))?;
            let_others_pass(path)?; // Only what we made: an existing folder's mode is its owner's.
        }
        let path = path.canonicalize().map_err(at(PART, "find", path))?;
        Self::hold(path, false)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The private folder of one part in it, created where it is missing.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn part(&self, part: &str) -> Result<PathBuf, StackError> {
        let path = self.0.path.join(part);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(at(part, "create", &path))?;
        Ok(path)
    }

    /// The log file of one part or service in it.
    pub fn log(&self, part: &str) -> PathBuf {
        self.0.path.join(format!("{part}.log"))
    }

    /// Locks the folder. The lock gets its name only once it is held, so that nobody ever finds it
    /// free while its owner lives.
    ///
    /// A lock that is not free is tried for a while: a process that is just being forked holds a copy of every
    /// lock of its parent until it runs its own program, also of one that the parent has let go.
    fn hold(path: PathBuf, drop_at_end: bool) -> Result<Self, StackError> {
        let give_up = Instant::now() + LOCK_TIMEOUT;
        let lock = loop {
            let lock = match File::open(path.join(LOCK)) {
                Ok(lock) => held(lock),
                Err(error) if error.kind() == io::ErrorKind::NotFound => new_lock(&path),
                Err(error) => Err(TryLockError::Error(error)),
            };
            match lock {
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                    thread::sleep(LOCK_PAUSE);
                }
                lock => break lock,
            }
        };
        match lock {
            Ok(lock) => Ok(Self(Arc::new(Inner { path, drop_at_end, _lock: lock }))),
            Err(TryLockError::Error(error)) => Err(at(PART, "lock", &path)(error)),
            Err(TryLockError::WouldBlock) => {
                Err(StackError::new(PART, format!("another stack uses {}", path.display()))
                    .mend("stop that one, or name another folder"))
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.drop_at_end {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("data folder: cannot remove {}: {error}", self.path.display());
        }
    }
}

fn let_others_pass(path: &Path) -> Result<(), StackError> {
    fs::set_permissions(path, Permissions::from_mode(0o711)).map_err(at(
        PART,
        "set the mode of",
        path,
    ))
}

fn new_lock(folder: &Path) -> Result<File, TryLockError> {
    let nameless = tempfile::NamedTempFile::new_in(folder).map_err(TryLockError::Error)?;
    nameless.as_file().try_lock()?;
    // Two at once: the second finds the name taken, by one that is held.
    match nameless.persist_noclobber(folder.join(LOCK)) {
        Ok(lock) => Ok(lock),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(TryLockError::WouldBlock)
        }
        Err(error) => Err(TryLockError::Error(error.error)),
    }
}

fn held(lock: File) -> Result<File, TryLockError> {
    lock.try_lock().map(|()| lock)
}

/// Removes our own temporary folders whose process has gone without removing them.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    let uid = rustix::process::geteuid().as_raw();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
            && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
        if !ours {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else { continue }; // Being made, or kept.
        let Ok(_held) = held(lock) else { continue }; // Its owner lives.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!(
                    "data folder: cannot remove {} of a killed stack: {error}",
                    path.display()
                );
            }
            _ => {} // Removed, by us or by another sweep.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_its_last_handle() {
        let folder = Folder::temporary().unwrap();
        let second = folder.clone();
        let path = folder.path().to_owned();
        std::fs::write(folder.part("x").unwrap().join("file"), "data").unwrap();
        drop(folder);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_named_folder_is_kept_and_has_one_user_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        let first = Folder::named(&path).unwrap();
        assert!(Folder::named(&path).is_err());
        drop(first);
        assert!(path.exists());
        Folder::named(&path).unwrap();
    }

    #[test]
    fn a_sweep_takes_what_a_killed_stack_left_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let folder = |name: &str, lock: bool| {
            let path = base.path().join(name);
            std::fs::create_dir(&path).unwrap();
            lock.then(|| new_lock(&path).unwrap())
        };
        drop(folder("tollbook-dead", true));
        let alive = folder("tollbook-alive", true);
        drop(folder("tollbook-being-made", false));
        drop(folder("kept-tollbook-dead", true));
        sweep(base.path());
        let mut left: Vec<String> = fs::read_dir(base.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["kept-tollbook-dead", "tollbook-alive", "tollbook-being-made"]);
        drop(alive);
    }
}
