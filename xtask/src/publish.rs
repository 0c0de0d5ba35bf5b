//! `cargo xtask publish --dry-run`: packs and compiles the libraries as they would be published.

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
    command::run(command::cargo().args(["publish", "--dry-run", "--workspace", "--allow-dirty"]))
}
