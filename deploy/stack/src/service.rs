//! One of our own services as a child process: its binary, its environment, its log, its health.

use std::ffi::OsString;
use std::time::Duration;

use crate::child::Child;
use crate::error::StackError;
use crate::folder::Folder;
use crate::part::{Part, spec};
use crate::ready;
use crate::settings::Settings;

/// How long a service may take to finish what it has begun before it is killed.
const STOP_BOUND: Duration = Duration::from_secs(15);

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct ServiceSettings {
    /// The binary, beside this executable or in `TOLLBOOK_BIN_DIR`.
    pub binary: String,
    /// What people call this process, and its log; the binary's name when empty. Two processes of
    /// one binary in one folder need two names.
    pub name: String,
    pub args: Vec<OsString>,
    /// Its environment; besides it, it gets `PATH`, `HOME`, the locale and `RUST_LOG` only.
    pub env: Vec<(String, String)>,
    /// An `http://` address that answers 200 when the service serves.
    pub health: String,
}

/// A running service.
pub struct Service {
    name: String,
    health: String,
    child: Child,
    _folder: Folder,
}

impl Service {
    /// Starts a service and waits until it is healthy; its log is in `folder`.
    ///
    /// # Errors
    /// The binary has not been built, ends before it is healthy, or is not healthy in time; the
    /// error holds the last lines of its log.
    pub async fn start(folder: &Folder, settings: ServiceSettings) -> Result<Self, StackError> {
        let ServiceSettings { binary, name, args, env, health } = settings;
        let name = if name.is_empty() { binary.clone() } else { name };
        let program = Settings::from_env().own_binary(&binary)?;
        let mut spec = spec(&name, program, folder, folder.part(&name)?);
        spec.args = args;
        spec.env.extend(env.into_iter().map(|(name, value)| (name.into(), value.into())));
        spec.stop_bound = STOP_BOUND;
        let probe = ready::http_get(&health, |status| status == 200);
        let child = Child::start(spec, probe).await?;
        Ok(Self { name, health, child, _folder: folder.clone() })
    }

    /// The last lines that it has logged.
    pub fn log_tail(&self) -> String {
        self.child.log_tail()
    }
}

impl Part for Service {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn address(&self) -> String {
        self.health.clone()
    }

    fn child(&self) -> Result<&Child, StackError> {
        Ok(&self.child)
    }

    fn child_mut(&mut self) -> Result<&mut Child, StackError> {
        Ok(&mut self.child)
    }
}
