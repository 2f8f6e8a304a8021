//! One program out of a package of Debian's unstable, without root and without touching the system.
//!
//! A private apt reads one private list: this machine's own Debian mirror, suite `sid`. Apt checks
//! the archive's signature against the keys that this machine trusts already, and the package
//! against the signed index. Nothing is installed: the archive is unpacked into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{StackError, at};
use crate::fetcher::Fetcher;

/// The keys of Debian's archive; where they are elsewhere, apt's own list of trusted keys serves.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Unpacks `package` of unstable into the folder `root` of `staging`.
///
/// # Errors
/// This machine has no apt or no Debian mirror, or the mirror does not have the package.
pub(crate) async fn unpack(name: &str, package: &str, staging: &Path) -> Result<(), StackError> {
    let private = staging.join("apt");
    for folder in ["empty/partial", "lists/partial", "cache/archives/partial", "package"] {
        let folder = private.join(folder);
        fs::create_dir_all(&folder).map_err(at(name, "create", &folder))?;
    }
    let downloads = private.join("package");
    let fetcher = Fetcher::new(name, &downloads, private.join("fetch.log"));
    let list = private.join("sources.list");
    let mirror = mirror(name, &fetcher, &private).await?;
    fs::write(&list, format!("deb {}{mirror} sid main\n", signed_by()))
        .map_err(at(name, "write", &list))?;

    let config = private.join("apt.conf");
    fs::write(&config, configuration(&private, &list)).map_err(at(name, "write", &config))?;
    let config = format!("--config-file={}", config.display());
    fetcher.run("apt-get", &[config.as_str(), "update"]).await?;
    fetcher.run("apt-get", &[config.as_str(), "download", package]).await?;
    let archive = only_file_in(name, &downloads)?;
    let root = staging.join("root");
    fetcher.run("dpkg", &[Path::new("-x"), &archive, &root]).await?;
    fs::remove_dir_all(&private).map_err(at(name, "remove", &private))
}

/// The address of this machine's Debian mirror, as its own apt would ask it.
///
/// Apt is asked for what an update *would* fetch, with no lists to start from: this also answers on
/// an image whose lists have been removed, where `apt-get indextargets` is silent.
async fn mirror(name: &str, fetcher: &Fetcher<'_>, private: &Path) -> Result<String, StackError> {
    let empty = format!("-oDir::State::Lists={}", private.join("empty").display());
    let args = [empty.as_str(), "-oDebug::NoLocking=1", "--print-uris", "update"];
    let uris = fetcher.ask("apt-get", &args).await?;
    first_archive(&uris).ok_or_else(|| {
        StackError::new(name, "apt knows no Debian archive to take the package of unstable from")
    })
}

/// The base of the first main archive (no security, updates or backports) in `--print-uris` output.
fn first_archive(uris: &str) -> Option<String> {
    uris.lines().find_map(|line| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (base, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
        let main = base.ends_with("debian") && !suite.contains(['-', '/']);
        main.then(|| base.to_owned())
    })
}

fn signed_by() -> String {
    if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() }
}

/// A configuration, read after the system's own, that keeps apt to `list` and to our folders, and
/// keeps the system's hooks (caches of package managers with windows) from running.
fn configuration(private: &Path, list: &Path) -> String {
    let folder = |name: &str| private.join(name).display().to_string();
    let (list, lists, cache) = (list.display(), folder("lists"), folder("cache"));
    // As root, apt would fetch as an account of its own, which could not write here.
    let user =
        if rustix::process::geteuid().is_root() { "APT::Sandbox::User \"root\";\n" } else { "" };
    format!(
        "#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         Dir::Etc::sourcelist \"{list}\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State::Lists \"{lists}\";\n\
         Dir::Cache \"{cache}\";\n\
         Debug::NoLocking \"1\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         quiet \"1\";\n\
         {user}"
    )
}

fn only_file_in(name: &str, folder: &Path) -> Result<PathBuf, StackError> {
    let mut files = fs::read_dir(folder).map_err(at(name, "list", folder))?;
    match (files.next(), files.next()) {
        (Some(Ok(file)), None) => Ok(file.path()),
        _ => Err(StackError::new(name, "apt-get downloaded not exactly one package")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_found_among_the_others() {
        let uris = "\
'http://mirror.test/debian-security/dists/bookworm-security/InRelease' x 0 \n\
'http://mirror.test/debian/dists/bookworm-updates/InRelease' x 0 \n\
'http://mirror.test/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0 \n\
'http://mirror.test/other/dists/stable/InRelease' x 0 \n\
'http://mirror.test/pub/debian/dists/bookworm/InRelease' x 0 \n\
'http://mirror.test/debian/dists/trixie/InRelease' x 0 \n";
        assert_eq!(first_archive(uris).as_deref(), Some("http://mirror.test/pub/debian"));
        assert_eq!(first_archive("nothing\n"), None);
    }
}
