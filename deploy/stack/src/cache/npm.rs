//! npm projects whose lock file is part of this binary: installed once per lock file.
//!
//! `npm ci` takes exactly what the lock file names and checks every archive against its hash. The
//! lock files name no registry (`npm install --omit-lockfile-registry-resolved` made them): npm's
//! own configuration says where from.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::{Cache, Want};
use crate::error::{StackError, at};
use crate::fetcher::Fetcher;

/// A project: its manifest, its lock file, and scripts that need its modules beside them.
pub(crate) struct Project {
    /// What people call it.
    pub name: &'static str,
    /// How its folder in the cache begins.
    pub key: &'static str,
    /// File names and contents.
    pub files: &'static [(&'static str, &'static str)],
    pub expected_bytes: u64,
    pub by_hand: &'static str,
}

impl Project {
    /// The folder that holds its files and `node_modules`, installed when it is not there yet.
    ///
    /// # Errors
    /// There is no npm, or it fails: the log's last lines say why.
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

    /// The first 12 hexadecimal digits of the hash of all its files.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for (name, content) in self.files {
            hash.update(name);
            hash.update([0]);
            hash.update(content);
            hash.update([0]);
        }
        hex::encode(hash.finalize())[..12].to_owned()
    }

    async fn fetch(&self, staging: PathBuf) -> Result<(), StackError> {
        for (name, content) in self.files {
            let file = staging.join(name);
            fs::write(&file, content).map_err(at(self.name, "write", &file))?;
        }
        // Its own npm cache, so that the bytes that arrive can be counted and nothing stays twice.
        let (own, log) = (staging.join(".npm"), staging.join("fetch.log"));
        let cache = format!("--cache={}", own.display());
        let args =
            ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", &cache];
        Fetcher::new(self.name, &staging, log.clone()).run("npm", &args).await?;
        fs::remove_file(&log).map_err(at(self.name, "remove", &log))?;
        fs::remove_dir_all(&own).map_err(at(self.name, "remove", &own))
    }
}
