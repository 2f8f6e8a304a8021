//! A private PostgreSQL cluster from the system's binaries, on a free loopback port.
//!
//! Password rather than trust: a superuser of a cluster can run programs as its account, so on a
//! shared machine `trust` would hand that account to every local user. The password is random, made
//! with the cluster, and kept in its folder, readable by its owner only.
//!
//! As root the server runs under another account, as it must, and owns its folder. Absent on
//! purpose: a Unix socket (temporary folders may be longer than a socket's path), replicas, tuning.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::time::timeout;

use super::{Part, args, spec};
use crate::account::Account;
use crate::child::{self, Child};
use crate::error::{StackError, at};
use crate::fetcher::ask;
use crate::folder::Folder;
use crate::ready::{Probe, Probed};
use crate::settings::Settings;
use crate::version::Version;
use crate::{ports, secret};

const PART: &str = "postgres";
/// The cluster's superuser.
const USER: &str = "tollbook";
/// Where Debian's packages put the server, by version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Who runs the server when we are root: the account of the system's package, else nobody's.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];
/// SQLSTATE `duplicate_database`.
const DUPLICATE_DATABASE: &str = "42P04";

/// Settings of a PostgreSQL server.
#[derive(Clone, Copy, Debug)]
pub struct PostgresSettings {
    /// Whether a commit waits for the disk. Without, a killed *server* still loses nothing; a power
    /// loss may lose or break everything. Tests may do without.
    pub fsync: bool,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self { fsync: true }
    }
}

/// A running PostgreSQL server.
pub struct Postgres {
    child: Child,
    version: String,
    port: u16,
    password: String,
    _folder: Folder,
}

impl Postgres {
    /// Starts a server on the cluster in `folder`, made when it is not there yet; durable.
    ///
    /// # Errors
    /// PostgreSQL is not installed, its account cannot reach `folder`, or it does not come up.
    pub async fn start(folder: &Folder) -> Result<Self, StackError> {
        Self::start_with(folder, PostgresSettings::default()).await
    }

    /// As [`Self::start`], with settings.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub async fn start_with(
        folder: &Folder,
        settings: PostgresSettings,
    ) -> Result<Self, StackError> {
        let account = Account::instead_of_root(PART, &ACCOUNTS)?;
        let home = folder.part(PART)?;
        if let Some(account) = account {
            account.own(PART, &home)?;
            account.can_enter(PART, &home)?;
        }
        let binaries = binaries(&home)?;
        let program = binaries.join("postgres");
        let version = ask(PART, &program, &["--version"]).await?;
        let version = Version::find(&version).map_or_else(|| version.trim().to_owned(), shown);
        let password = init(folder, &home, &binaries, account, settings).await?;
        let port = ports::free()?;
        let mut spec = spec(PART, program, folder, home.clone());
        spec.args = server_args(&home, port, settings);
        spec.account = account;
        // SIGINT disconnects clients; the default, SIGTERM, would wait for them to leave. SIGQUIT
        // at our death ends the server's own children too and leaves no shared memory behind.
        (spec.stop, spec.death) = (Signal::INT, Signal::QUIT);
        let child = Child::start(spec, probe(options(port, &password))).await?;
        Ok(Self { child, version, port, password, _folder: folder.clone() })
    }

    /// Finds the server's binaries and says where they are.
    ///
    /// # Errors
    /// PostgreSQL is not installed.
    pub fn find() -> Result<PathBuf, StackError> {
        installed(None)
    }

    /// The address of a database, with user and password, for any client.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Creates a database where it is missing, and gives its address.
    ///
    /// # Errors
    /// `name` is not 1 to 63 of `a-z`, `0-9` and `_` starting with a letter, or the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<String, StackError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase())
            || !name.chars().all(plain)
            || name.len() > 63
        {
            return Err(StackError::new(PART, format!("`{name}` is no name for a database")));
        }
        let failed = |error| {
            StackError::new(PART, format!("cannot create database {name}")).caused_by(error)
        };
        let mut connection = options(self.port, &self.password).connect().await.map_err(failed)?;
        // The name was checked above: letters, digits and underscores need no quoting.
        let create = AssertSqlSafe(format!("create database {name}"));
        match sqlx::raw_sql(create).execute(&mut connection).await {
            Ok(_) => {}
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(DUPLICATE_DATABASE) => {}
            Err(error) => return Err(failed(error)),
        }
        connection.close().await.map_err(failed)?;
        Ok(self.url(name))
    }
}

impl Part for Postgres {
    fn name(&self) -> &str {
        PART
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> String {
        self.url("postgres")
    }

    fn child(&self) -> Result<&Child, StackError> {
        Ok(&self.child)
    }

    fn child_mut(&mut self) -> Result<&mut Child, StackError> {
        Ok(&mut self.child)
    }
}

/// PostgreSQL's versions have two numbers.
fn shown(Version(major, minor, _): Version) -> String {
    format!("{major}.{minor}")
}

/// The binaries that fit the cluster in `home`, or the newest when it has none.
fn binaries(home: &Path) -> Result<PathBuf, StackError> {
    let file = home.join("data/PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(major) => installed(Some(major.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => installed(None),
        Err(error) => Err(at(PART, "read", &file)(error)),
    }
}

/// The folder of the binaries of one major version, or of the newest that is installed.
fn installed(major: Option<&str>) -> Result<PathBuf, StackError> {
    let whole =
        |folder: &PathBuf| folder.join("postgres").exists() && folder.join("initdb").exists();
    let mut versions: Vec<u32> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|version: &u32| major.is_none_or(|major| major == version.to_string()))
        .collect();
    versions.sort_unstable();
    let packaged =
        versions.iter().rev().map(|version| PathBuf::from(format!("{DEBIAN}/{version}/bin")));
    let in_path =
        Settings::from_env().find("postgres").and_then(|file| Some(file.parent()?.to_owned()));
    packaged.chain(in_path).find(whole).ok_or_else(|| {
        let version = major.map_or_else(String::new, |major| format!(" of version {major}, which made this cluster,"));
        StackError::new(PART, format!("no server{version} in {DEBIAN}/*/bin or PATH"))
            .mend("install it (as root: apt-get install postgresql), or put `postgres` and `initdb` into PATH")
    })
}

/// Makes the cluster where it is missing, and gives its password.
async fn init(
    folder: &Folder,
    home: &Path,
    binaries: &Path,
    account: Option<Account>,
    settings: PostgresSettings,
) -> Result<String, StackError> {
    let (data, file) = (home.join("data"), home.join("password"));
    if data.join("PG_VERSION").exists() {
        return fs::read_to_string(&file).map_err(at(PART, "read", &file));
    }
    let password = secret::password(PART)?;
    fs::write(&file, &password).map_err(at(PART, "write", &file))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
        .map_err(at(PART, "close", &file))?;
    if let Some(account) = account {
        account.own(PART, &file)?;
    }
    // Built aside and renamed, so that a killed initdb is never taken for a cluster.
    let aside = home.join("data.new");
    remove_if_there(&aside)?;
    let mut spec = spec(PART, binaries.join("initdb"), folder, home.to_owned());
    let (to, pwfile) =
        (format!("--pgdata={}", aside.display()), format!("--pwfile={}", file.display()));
    spec.args = args([
        &to,
        &pwfile,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-locale",
        "--no-instructions",
    ]);
    spec.args.extend(args(["--username", USER]));
    if !settings.fsync {
        spec.args.push("--no-sync".into());
    }
    spec.account = account;
    child::run(&spec, Duration::from_secs(120)).await?;
    fs::rename(&aside, &data).map_err(at(PART, "move into place", &data))?;
    Ok(password)
}

fn remove_if_there(folder: &Path) -> Result<(), StackError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(at(PART, "remove", folder)(error))
        }
        _ => Ok(()),
    }
}

fn server_args(home: &Path, port: u16, settings: PostgresSettings) -> Vec<std::ffi::OsString> {
    let data = home.join("data");
    let mut all = args(["-D", &data.to_string_lossy()]);
    let durable = if settings.fsync { "on" } else { "off" };
    for (name, value) in [
        ("listen_addresses", "127.0.0.1"),
        ("port", &port.to_string()),
        ("unix_socket_directories", ""),
        ("fsync", durable),
        ("synchronous_commit", durable),
        ("full_page_writes", durable),
        ("max_connections", "200"),
        // In the data folder, so that a killed server leaves nothing in /dev/shm.
        ("dynamic_shared_memory_type", "mmap"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
    ] {
        all.extend(args(["-c", &format!("{name}={value}")]));
    }
    all
}

fn options(port: u16, password: &str) -> PgConnectOptions {
    // Every default that a PG* variable of our own environment could have set is set again.
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(USER)
        .password(password)
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
}

/// Ready when it answers a query.
fn probe(options: PgConnectOptions) -> Probe {
    Box::new(move |_pid| -> BoxFuture<'static, Probed> {
        let options = options.clone();
        Box::pin(async move {
            match timeout(Duration::from_secs(5), asked(&options)).await {
                Ok(Ok(())) => Probed::Ready,
                Ok(Err(error)) => Probed::NotYet(error.to_string()),
                Err(_) => Probed::NotYet("no answer in 5 s".to_owned()),
            }
        })
    })
}

async fn asked(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection: PgConnection = options.connect().await?;
    sqlx::query("select 1").execute(&mut connection).await?;
    connection.close().await
}
