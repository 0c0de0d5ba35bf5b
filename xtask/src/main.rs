//! The commands of this repository: `cargo xtask run`, `test`, `check`, `loom`, `soak`, `bench`, `publish`.
//!
//! Each command is one file, and the files below them are what they stand on:
//!
//! ```text
//!  run    test    check    loom    soak    bench    publish    one command a file
//!   │      │ │      │        │
//!   ▼      ▼ │      ▼        ▼
//!  boot ◄──┘ └─► suites   sources      a boot of the kernel; the table; rules about the text
//!  verdict                             what its console must show
//!   │
//!   ▼
//!  kernel     initramfs   debian, programs     what goes into a boot
//!  image
//!   │             │          │
//!   ▼             ▼          ▼
//!  toolchain     cpio       apt                  what must be there
//!   └─────────────┴──────────┴──► command, paths
//! ```
//!
//! Everything prints what it is about to do, installs what it can (Debian), says in one line
//! what is missing where it cannot, and ends with an exit status that can be trusted.

mod apt;
mod bench;
mod boot;
mod check;
mod command;
mod cpio;
mod debian;
mod dialogue;
mod dynamic;
mod frames;
mod image;
mod initramfs;
mod kernel;
mod links;
mod loom;
mod mutants;
mod paths;
mod programs;
mod publish;
mod recursion;
mod run;
mod soak;
mod sources;
mod suites;
mod test;
mod toolchain;
mod verdict;
mod voice;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, boots, tests and checks the mm family.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots the example kernel in QEMU on an unmodified static busybox.
    Run(run::Options),
    /// Runs every test there is and prints the minutes of each suite.
    Test(test::Options),
    /// Checks format, lints, documentation and the layering of the sources.
    Check(check::Options),
    /// Runs the concurrency models under loom.
    Loom(loom::Options),
    /// Plays random schedules of whole verbs, for minutes.
    Soak(soak::Options),
    /// Compares the family with other crates, side by side in one run.
    Bench(bench::Options),
    /// Packs the libraries as they would be published, and uploads nothing.
    Publish(publish::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(options) => run::command(&options),
        Command::Test(options) => test::command(&options),
        Command::Check(options) => check::command(&options),
        Command::Loom(options) => loom::command(&options),
        Command::Soak(options) => soak::command(&options),
        Command::Bench(options) => bench::command(&options),
        Command::Publish(options) => publish::command(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<suites::Told>() => ExitCode::FAILURE,
        Err(error) => {
            command::say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
