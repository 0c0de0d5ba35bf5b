//! Installing Debian packages, or saying exactly what to install elsewhere.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::command::{self, say};

/// Tells whether this machine is a Debian (or a child of it) whose apt we may use.
pub fn is_debian() -> bool {
    Path::new("/etc/debian_version").is_file() && command::exists("apt-get")
}

/// Makes sure that the Debian packages `packages` are installed; `why` is said when they are not.
///
/// # Errors
/// On another system, without the right to install, or when apt fails: with the line to type.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    // Of two suites that run side by side one waits: the other may install the same.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_debian() {
        bail!("{why}: install what Debian calls `{list}` with your system's package manager");
    }
    say(&format!("{why}: installing {list} with apt-get"));
    let by_hand = format!("install by hand with: apt-get install {list}");
    // The lists may be old or absent; a failed update of one source is not yet a failure.
    let _ = command::run(as_root("apt-get")?.args(["-q", "update"]));
    command::run(
        as_root("apt-get")?
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y", "install", "--no-install-recommends"])
            .args(&missing),
    )
    .context(by_hand)
}

fn installed(package: &str) -> bool {
    command::capture(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Abbrev}", package]))
        .is_ok_and(|status| status.starts_with("ii"))
}

/// Returns the command that runs `program` with the rights to install.
fn as_root(program: &str) -> Result<Command> {
    let id = command::capture(Command::new("id").arg("-u"))?;
    if id.trim() == "0" {
        return Ok(Command::new(program));
    }
    if !command::exists("sudo") {
        bail!("not root, and there is no sudo");
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", program]);
    Ok(sudo)
}
