//! ClickHouse: `CLICKHOUSE_URL`, else a system `clickhouse`, else the embedded engine.
//!
//! The embedded engine is the whole ClickHouse of the pinned npm package, behind its real HTTP
//! interface, in a process of ours (`clickhouse-embedded`). It exists for Linux on x86-64 with
//! glibc only; elsewhere `CLICKHOUSE_URL` names a server. A server that someone else runs is
//! neither stopped nor killed nor started by us.

use std::path::PathBuf;
use std::time::Duration;

use super::clickhouse_config::{Config, USER};
use super::{Part, args, spec};
use crate::cache::Cache;
use crate::cache::npm::Project;
use crate::child::{Child, Spec};
use crate::error::StackError;
use crate::fetcher::ask;
use crate::folder::Folder;
use crate::settings::{ExternalClickHouse, Settings};
use crate::version::Version;
use crate::{http, ports, ready, secret};

const PART: &str = "clickhouse";
/// The oldest server that is tried in place of the embedded engine, which is 26.7.
const OLDEST: Version = Version(26, 3, 0);
/// The launcher of the embedded engine, beside this executable.
const LAUNCHER: &str = "clickhouse-embedded";
/// A stop flushes and may wait for a merge.
const STOP_BOUND: Duration = Duration::from_secs(20);

const ENGINE: Project = Project {
    name: "ClickHouse engine",
    key: "clickhouse-engine",
    files: &[
        ("package.json", include_str!("../../engine/package.json")),
        ("package-lock.json", include_str!("../../engine/package-lock.json")),
    ],
    expected_bytes: 890_000_000,
    by_hand: "name a ClickHouse server in CLICKHOUSE_URL (with CLICKHOUSE_USER and \
              CLICKHOUSE_PASSWORD), or put a `clickhouse` binary into PATH; the engine itself needs \
              npm and Linux on x86-64",
};

/// A running ClickHouse.
pub struct ClickHouse {
    /// `None`: someone else runs it.
    child: Option<Child>,
    version: String,
    url: String,
    user: String,
    password: String,
    _folder: Folder,
}

impl ClickHouse {
    /// Starts a server with its data in `folder`, or takes the one that `CLICKHOUSE_URL` names.
    ///
    /// # Errors
    /// No server can be had, it does not come up, or the named one does not answer.
    pub async fn start(folder: &Folder) -> Result<Self, StackError> {
        match Settings::from_env().clickhouse {
            Some(external) => Self::external(external, folder).await,
            None => Self::own(folder).await,
        }
    }

    /// Finds or fetches what [`Self::start`] would run, and says what it is.
    ///
    /// # Errors
    /// It can be neither found nor fetched.
    pub async fn fetch() -> Result<String, StackError> {
        if let Some(external) = Settings::from_env().clickhouse {
            return Ok(external.url);
        }
        Ok(match engine().await? {
            Engine::System(file) | Engine::Embedded { library: file, .. } => {
                file.display().to_string()
            }
        })
    }

    /// `http://host:port`, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The user for [`Self::url`], who may do everything.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password of [`Self::user`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Runs one statement and gives its answer as text, without the newline at its end.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; says why in its own words.
    pub async fn query(&self, statement: &str) -> Result<String, StackError> {
        query(&self.url, &self.user, &self.password, statement).await
    }

    async fn external(external: ExternalClickHouse, folder: &Folder) -> Result<Self, StackError> {
        let ExternalClickHouse { url, user, password } = external;
        let url = url.trim_end_matches('/').to_owned();
        let version = query(&url, &user, &password, "SELECT version()").await.map_err(|error| {
            error.mend(
                "check CLICKHOUSE_URL (http://host:port), CLICKHOUSE_USER and CLICKHOUSE_PASSWORD",
            )
        })?;
        Ok(Self { child: None, version, url, user, password, _folder: folder.clone() })
    }

    async fn own(folder: &Folder) -> Result<Self, StackError> {
        let engine = engine().await?;
        let home = folder.part(PART)?;
        let (data, password, port) = (home.join("data"), secret::password(PART)?, ports::free()?);
        Config { part: PART, data: &data, port, password: &password }.write(&home)?;
        let mut spec = spec(PART, engine.program(), folder, home.clone());
        spec.stop_bound = STOP_BOUND;
        engine.command(&mut spec, &home, port, &password);
        let url = format!("http://127.0.0.1:{port}");
        let probe = ready::http_get(&format!("{url}/ping"), |status| status == 200);
        let child = Child::start(spec, probe).await?;
        let version = query(&url, USER, &password, "SELECT version()").await?;
        let (user, child) = (USER.to_owned(), Some(child));
        Ok(Self { child, version, url, user, password, _folder: folder.clone() })
    }

    fn of_someone_else(&self) -> StackError {
        StackError::new(PART, format!("{} is run by someone else", self.url))
            .mend("unset CLICKHOUSE_URL to let the stack run its own")
    }
}

impl Part for ClickHouse {
    fn name(&self) -> &str {
        PART
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> String {
        self.url.clone()
    }

    fn child(&self) -> Result<&Child, StackError> {
        self.child.as_ref().ok_or_else(|| self.of_someone_else())
    }

    fn child_mut(&mut self) -> Result<&mut Child, StackError> {
        let refused = self.of_someone_else();
        self.child.as_mut().ok_or(refused)
    }
}

/// What runs a ClickHouse of our own.
enum Engine {
    /// The system's binary.
    System(PathBuf),
    /// Our launcher and the engine's shared library.
    Embedded { launcher: PathBuf, library: PathBuf },
}

/// A system `clickhouse` that is new enough, else the embedded engine.
async fn engine() -> Result<Engine, StackError> {
    let settings = Settings::from_env();
    if let Some(found) = settings.find("clickhouse") {
        let version = Version::find(&ask(PART, &found, &["--version"]).await?);
        if version.is_some_and(|version| version >= OLDEST) {
            return Ok(Engine::System(found));
        }
        eprintln!("clickhouse: {} is older than {OLDEST}; looking further", found.display());
    }
    let launcher = settings.own_binary(LAUNCHER)?;
    let entry = ENGINE.install(&Cache::from_env()?).await?;
    let library = entry.join("node_modules/@chdb/lib-linux-x64-gnu/libchdb.so");
    Ok(Engine::Embedded { launcher, library })
}

impl Engine {
    fn program(&self) -> PathBuf {
        match self {
            Self::System(program) | Self::Embedded { launcher: program, .. } => program.clone(),
        }
    }

    /// Completes the command line that serves the data in `home` on `port`.
    fn command(&self, spec: &mut Spec, home: &std::path::Path, port: u16, password: &str) {
        let (config, data) = (home.join("config.xml"), home.join("data"));
        let (config, data) = (config.to_string_lossy(), data.to_string_lossy());
        match self {
            Self::System(_) => {
                spec.args = args(["server", &format!("--config-file={config}")]);
                // Its watchdog would stand between us and the server.
                spec.env.push(("CLICKHOUSE_WATCHDOG_ENABLE".into(), "0".into()));
            }
            Self::Embedded { library, .. } => {
                let (library, port) = (library.to_string_lossy(), port.to_string());
                spec.args = args(["--library", &library, "--path", &data]);
                spec.args.extend(args(["--config-file", &config, "--http-port", &port]));
                spec.env.push(("TOLLBOOK_CLICKHOUSE_USER".into(), USER.into()));
                spec.env.push(("TOLLBOOK_CLICKHOUSE_PASSWORD".into(), password.into()));
            }
        }
    }
}

async fn query(
    url: &str,
    user: &str,
    password: &str,
    statement: &str,
) -> Result<String, StackError> {
    let headers = [("x-clickhouse-user", user), ("x-clickhouse-key", password)];
    let answer = http::post(&format!("{url}/"), &headers, statement.to_owned())
        .await
        .map_err(|error| StackError::new(PART, "the server cannot be reached").caused_by(error))?;
    if answer.status.is_success() {
        return Ok(answer.text());
    }
    Err(StackError::new(PART, format!("the server refuses with {}", answer.status))
        .caused_by(answer.text()))
}
