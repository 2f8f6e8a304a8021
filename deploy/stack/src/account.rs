//! The account that runs what refuses to run as root.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::{StackError, at};

/// A system account by its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The first of `names` that exists, when this process is root; nothing when it is not.
    ///
    /// # Errors
    /// This process is root and none of the accounts exists.
    pub fn instead_of_root(part: &str, names: &[&str]) -> Result<Option<Self>, StackError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        for name in names {
            if let Some(account) = look_up(part, name)? {
                return Ok(Some(account));
            }
        }
        Err(StackError::new(
            part,
            format!("refuses to run as root, and there is no account {names:?}"),
        )
        .mend("run the stack as an ordinary user, or create one of these accounts"))
    }

    /// Makes `command` run as this account, with its group and no other.
    pub fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives `path` to this account.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn own(self, part: &str, path: &Path) -> Result<(), StackError> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(at(part, "change the owner of", path))
    }

    /// Checks that this account can reach `folder` through all of its parents.
    ///
    /// # Errors
    /// It cannot, and where it could.
    pub fn can_enter(self, part: &str, folder: &Path) -> Result<(), StackError> {
        let mut command = Command::new("test");
        command.arg("-x").arg(folder).current_dir("/");
        self.apply(&mut command);
        let status = command
            .status()
            .map_err(|error| StackError::new(part, "cannot run `test`").caused_by(error))?;
        if status.success() {
            return Ok(());
        }
        let what = format!("account {} cannot enter {}", self.uid, folder.display());
        Err(StackError::new(part, what)
            .mend("put the data folder where other accounts may pass, such as /var/lib or /tmp"))
    }
}

/// Asks the system's own account database, which need not be `/etc/passwd`.
fn look_up(part: &str, name: &str) -> Result<Option<Account>, StackError> {
    let output = Command::new("getent")
        .args(["passwd", name])
        .output()
        .map_err(|error| StackError::new(part, "cannot run `getent`").caused_by(error))?;
    let line = String::from_utf8_lossy(&output.stdout);
    let mut numbers = line.trim().split(':').skip(2).map_while(|field| field.parse().ok());
    Ok(numbers.next().zip(numbers.next()).map(|(uid, gid)| Account { uid, gid }))
}
