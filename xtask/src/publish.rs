//! `cargo xtask publish --dry-run`: packs and compiles the libraries as they would be published.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use clap::Args;

use crate::{command, paths};

/// How to publish.
#[derive(Args)]
pub struct Options {
    /// Uploads nothing. The only way this command works: publishing itself is done by hand.
    #[arg(long)]
    dry_run: bool,
}

/// Seconds before each new try: a registry that does not answer is no fault of the packages.
const PAUSES: [u64; 3] = [5, 20, 60];

/// Packs the libraries.
pub fn command(options: &Options) -> Result<()> {
    if !options.dry_run {
        bail!("only --dry-run is done here; publish by hand with `cargo publish --workspace`");
    }
    dry_run()
}

/// Packs the libraries and compiles what was packed.
pub fn dry_run() -> Result<()> {
    for library in paths::LIBRARIES {
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            if !paths::root().join(library).join(file).is_file() {
                bail!("{library}/{file} is missing: the published package would lack it");
            }
        }
    }
    let place = Place::new()?;
    let mut pauses = PAUSES.iter();
    loop {
        let mut publish = command::cargo();
        publish
            .args(["publish", "--dry-run", "--workspace", "--allow-dirty"])
            .arg("--target-dir")
            .arg(&place.0);
        if command::listen(&mut publish)?.success {
            return Ok(());
        }
        let Some(seconds) = pauses.next() else {
            bail!("cargo publish --dry-run failed: see its errors above");
        };
        command::say(&format!(
            "it failed; it asks the registry several times, which may be what failed: again in {seconds} s"
        ));
        std::thread::sleep(Duration::from_secs(*seconds));
    }
}

/// A directory that no earlier run has used.
///
/// To compile a library that needs another one, cargo packs both into a registry below its target
/// directory and unpacks them in its home, under a name that follows from that registry's path and
/// the version alone. What an earlier run from the same path unpacked there is taken as it is: old
/// sources. A new path has none.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Place> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Place(
            paths::product("publish")?.join(now.as_nanos().to_string()),
        ))
    }
}

impl Drop for Place {
    /// Removes what was packed; what cargo unpacked in its home stays its own.
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            command::say(&format!("{} stays: {error}", dir.display()));
        }
        _ => {}
    }
}
