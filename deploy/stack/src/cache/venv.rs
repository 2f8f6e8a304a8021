//! Python environments whose list of versions is part of this binary: installed once per list.
//!
//! Only archives that need no build are taken, and nothing that the list does not name. pip's own
//! configuration says where from.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Cache, Want};
use crate::error::{StackError, at};
use crate::fetcher::Fetcher;

/// An environment: its list of versions, and scripts that are run in it.
pub(crate) struct Venv {
    /// What people call it.
    pub name: &'static str,
    /// How its folder in the cache begins.
    pub key: &'static str,
    /// Every package with its version, one a line.
    pub requirements: &'static str,
    /// File names and contents.
    pub scripts: &'static [(&'static str, &'static str)],
    pub expected_bytes: u64,
    pub by_hand: &'static str,
}

impl Venv {
    /// The folder that holds its scripts and `venv/bin/python`, installed when it is not there yet.
    ///
    /// # Errors
    /// There is no Python with `venv`, or pip fails: the log's last lines say why.
    pub async fn install(&self, cache: &Cache) -> Result<PathBuf, StackError> {
        let key = format!("{}-{}", self.key, self.hash());
        let want = Want {
            name: self.name,
            key: &key,
            expected_bytes: self.expected_bytes,
            by_hand: self.by_hand,
        };
        cache.entry(want, |staging| self.fetch(staging)).await
    }

    /// The first 12 hexadecimal digits of the hash of the list and the scripts.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.requirements);
        for (name, content) in self.scripts {
            hash.update([0]);
            hash.update(name);
            hash.update([0]);
            hash.update(content);
        }
        hex::encode(hash.finalize())[..12].to_owned()
    }

    async fn fetch(&self, staging: PathBuf) -> Result<(), StackError> {
        let write = |name: &str, content: &str| {
            let file = staging.join(name);
            fs::write(&file, content).map_err(at(self.name, "write", &file))
        };
        write("requirements.txt", self.requirements)?;
        for (name, content) in self.scripts {
            write(name, content)?;
        }
        let log = staging.join("fetch.log");
        let fetcher = Fetcher::new(self.name, &staging, log.clone());
        fetcher.run("python3", &["-m", "venv", "venv"]).await?;
        let args = [
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--no-deps",
            "--only-binary=:all:",
            "--requirement=requirements.txt",
        ];
        fetcher.run_at(&python(&staging), &args).await?;
        fs::remove_file(&log).map_err(at(self.name, "remove", &log))
    }
}

/// The interpreter of an installed environment. It works wherever the folder is moved to; the
/// scripts beside it do not, so modules are run with `-m`.
pub(crate) fn python(folder: &Path) -> PathBuf {
    folder.join("venv/bin/python")
}
