//! Everything that is fetched, outside the work tree: fetched once, complete or not there at all.
//!
//! Invariants: an entry gets its name only when it is complete (fetched beside it, then renamed);
//! one process at a time fetches an entry, the others wait for it; an entry never changes, since
//! its name holds the version or the hash of the lock file that it was made from. A cache that
//! someone else owns serves for reading.
//!
//! Absent on purpose: eviction, and any address. What is fetched comes through the machine's own
//! apt, npm and pip, with their own configuration, signatures and checksums.

pub(crate) mod debian;
pub(crate) mod npm;
mod progress;
pub(crate) mod venv;

use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::error::{StackError, at};
use crate::settings::Settings;
use progress::Progress;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want<'a> {
    /// What people call it.
    pub name: &'a str,
    /// The folder's name in the cache.
    pub key: &'a str,
    /// About how much disk a fetch fills, for the progress bar. Unit: bytes.
    pub expected_bytes: u64,
    /// How to give it by hand when it cannot be fetched.
    pub by_hand: &'a str,
}

/// The cache folder: `TOLLBOOK_CACHE`, else `tollbook` in the user's XDG cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache that the environment names.
    ///
    /// # Errors
    /// It names none and no home.
    pub fn from_env() -> Result<Self, StackError> {
        match Settings::from_env().cache {
            Some(root) => Ok(Self { root }),
            None => Err(StackError::new("cache", "neither HOME nor a cache folder is set")
                .mend("name a folder in TOLLBOOK_CACHE")),
        }
    }

    /// Where entries are.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of `want`, filled by `fetch` when it is not there yet.
    ///
    /// # Errors
    /// It can neither be found nor fetched; says how to give it by hand.
    pub(crate) async fn entry<F, Fetched>(
        &self,
        want: Want<'_>,
        fetch: F,
    ) -> Result<PathBuf, StackError>
    where
        F: FnOnce(PathBuf) -> Fetched + Send,
        Fetched: Future<Output = Result<(), StackError>> + Send,
    {
        let entry = self.root.join(want.key);
        if entry.is_dir() {
            return Ok(entry);
        }
        let by_hand = format!("{}; the cache is {}", want.by_hand, self.root.display());
        self.fill(want, &entry, fetch).await.map_err(|error| error.mend(by_hand))?;
        Ok(entry)
    }

    async fn fill<F, Fetched>(
        &self,
        want: Want<'_>,
        entry: &Path,
        fetch: F,
    ) -> Result<(), StackError>
    where
        F: FnOnce(PathBuf) -> Fetched + Send,
        Fetched: Future<Output = Result<(), StackError>> + Send,
    {
        fs::create_dir_all(&self.root).map_err(at(want.name, "create", &self.root))?;
        let _lock = self.lock(want).await?;
        if entry.is_dir() {
            return Ok(()); // Another process has fetched it meanwhile.
        }
        let prefix = format!(".fetching-{}-", want.key);
        self.sweep(want, &prefix)?;
        let staging = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.root)
            .map_err(at(want.name, "create a folder in", &self.root))?;
        let progress = Progress::start(want, staging.path());
        fetch(staging.path().to_owned()).await?;
        progress.done();
        let readable = Permissions::from_mode(0o755);
        fs::set_permissions(staging.path(), readable).map_err(at(want.name, "open up", entry))?;
        fs::rename(staging.path(), entry).map_err(at(want.name, "move into place", entry))?;
        drop(staging.keep()); // It has moved: nothing is left to remove.
        Ok(())
    }

    /// Waits for the right to fetch `want`. The lock goes with the file handle, so with the process.
    async fn lock(&self, want: Want<'_>) -> Result<File, StackError> {
        let path = self.root.join(format!("{}.lock", want.key));
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(at(want.name, "open", &path))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(at(want.name, "lock", &path)(error)),
                Err(TryLockError::WouldBlock) if !told => {
                    eprintln!("{}: another process is fetching it; waiting", want.name);
                    told = true;
                }
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Removes what killed fetches of this entry have left; only under its lock.
    fn sweep(&self, want: Want<'_>, prefix: &str) -> Result<(), StackError> {
        let entries = fs::read_dir(&self.root).map_err(at(want.name, "list", &self.root))?;
        for left in entries.filter_map(Result::ok) {
            if left.file_name().to_string_lossy().starts_with(prefix) {
                fs::remove_dir_all(left.path()).map_err(at(want.name, "remove", &left.path()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const WANT: Want<'static> =
        Want { name: "thing", key: "thing-1", expected_bytes: 10, by_hand: "make one" };

    fn cache() -> (tempfile::TempDir, Cache) {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { root: root.path().join("deep/cache") };
        (root, cache)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_at_once_fetch_once() {
        let (_root, cache) = cache();
        let fetches = Arc::new(AtomicUsize::new(0));
        let get = || async {
            let fetches = Arc::clone(&fetches);
            let fetch = |staging: PathBuf| async move {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                fs::write(staging.join("file"), "content").map_err(at("thing", "write", &staging))
            };
            let entry = cache.entry(WANT, fetch).await.unwrap();
            assert_eq!(fs::read_to_string(entry.join("file")).unwrap(), "content");
        };
        futures::future::join_all((0..8).map(|_| get())).await;
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_failed_or_killed_fetch_leaves_no_entry_and_the_next_one_cleans_up() {
        let (_root, cache) = cache();
        let broken = |staging: PathBuf| async move {
            fs::write(staging.join("half"), "").unwrap();
            Err(StackError::new("thing", "the line broke"))
        };
        let error = cache.entry(WANT, broken).await.unwrap_err();
        assert!(error.report().contains("the line broke") && error.report().contains("make one"));
        assert!(!cache.root.join("thing-1").exists());
        fs::create_dir(cache.root.join(".fetching-thing-1-dead")).unwrap();
        cache.entry(WANT, |_| async { Ok(()) }).await.unwrap();
        let left: Vec<_> =
            fs::read_dir(&cache.root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "the entry and its lock: {left:?}");
    }
}
