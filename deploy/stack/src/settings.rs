//! What the stack takes from its environment: read here and nowhere else.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::StackError;

/// Variables that every child process gets besides its own; nothing else leaks into a part.
const PASSED_ON: [&str; 8] =
    ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "RUST_LOG", "RUST_BACKTRACE"];

/// The settings of one process; the README lists the variables.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where fetched things are kept, or `None` when neither a cache nor a home is named.
    pub(crate) cache: Option<PathBuf>,
    /// A ClickHouse server that someone else runs.
    pub(crate) clickhouse: Option<ExternalClickHouse>,
    /// Where our own binaries are, when not beside this one.
    pub(crate) bin_dir: Option<PathBuf>,
    /// Whether temporary data folders outlive their stack.
    pub(crate) keep_temporary: bool,
    /// Where temporary data folders are made.
    pub(crate) temporary: PathBuf,
    search_path: Vec<PathBuf>,
    everything: Vec<(OsString, OsString)>,
}

/// `CLICKHOUSE_URL`, `CLICKHOUSE_USER`, `CLICKHOUSE_PASSWORD`.
#[derive(Clone, Debug)]
pub(crate) struct ExternalClickHouse {
    pub url: String,
    pub user: String,
    pub password: String,
}

impl Settings {
    /// Reads the environment of this process; an empty variable counts as not set.
    pub fn from_env() -> Self {
        let text = |name| var(name).and_then(|value| value.into_string().ok());
        let cache = var("TOLLBOOK_CACHE").map(PathBuf::from);
        let cache =
            cache.or_else(|| var("XDG_CACHE_HOME").map(|x| PathBuf::from(x).join("tollbook")));
        let cache = cache.or_else(|| var("HOME").map(|x| PathBuf::from(x).join(".cache/tollbook")));
        Self {
            cache,
            clickhouse: text("CLICKHOUSE_URL").map(|url| ExternalClickHouse {
                url,
                user: text("CLICKHOUSE_USER").unwrap_or_else(|| "default".to_owned()),
                password: text("CLICKHOUSE_PASSWORD").unwrap_or_default(),
            }),
            bin_dir: var("TOLLBOOK_BIN_DIR").map(PathBuf::from),
            keep_temporary: var("TOLLBOOK_KEEP").is_some(),
            temporary: env::temp_dir(),
            search_path: var("PATH")
                .map(|path| env::split_paths(&path).collect())
                .unwrap_or_default(),
            everything: env::vars_os().collect(),
        }
    }

    /// The first executable file of this name in `PATH`.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        self.search_path.iter().map(|folder| folder.join(program)).find(|file| is_executable(file))
    }

    /// The variables that a part or service gets besides its own.
    pub(crate) fn passed_on(&self) -> Vec<(OsString, OsString)> {
        let passed_on =
            |(name, _): &&(OsString, OsString)| PASSED_ON.iter().any(|known| name == known);
        self.everything.iter().filter(passed_on).cloned().collect()
    }

    /// This process's whole environment, for the machine's own tools.
    pub(crate) fn everything(&self) -> &[(OsString, OsString)] {
        &self.everything
    }

    /// Where our own binary `name` is: `TOLLBOOK_BIN_DIR`, else beside the running executable
    /// (a test runs from `deps`, one folder below the others).
    ///
    /// # Errors
    /// The binary is not there: it has not been built.
    pub(crate) fn own_binary(&self, name: &str) -> Result<PathBuf, StackError> {
        let folder = match &self.bin_dir {
            Some(folder) => folder.clone(),
            None => beside_this_executable(name)?,
        };
        let file = folder.join(name);
        if is_executable(&file) {
            return Ok(file);
        }
        Err(StackError::new(name, format!("there is no executable {}", file.display())).mend(
            "build it (cargo build --workspace --bins), or name its folder in TOLLBOOK_BIN_DIR",
        ))
    }
}

fn beside_this_executable(name: &str) -> Result<PathBuf, StackError> {
    let here = env::current_exe()
        .map_err(|error| StackError::new(name, "this executable has no path").caused_by(error))?;
    let folder = here.parent().unwrap_or(Path::new("/"));
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }.to_owned())
}

fn var(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
