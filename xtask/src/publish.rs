//! `cargo xtask publish --dry-run`: packs and compiles the libraries as they would be published.

use std::time::Duration;

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
    let mut pauses = PAUSES.iter();
    loop {
        let mut publish = command::cargo();
        publish.args(["publish", "--dry-run", "--workspace", "--allow-dirty"]);
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
