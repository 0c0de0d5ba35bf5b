//! How to compile for a bare-metal target on this machine.
//!
//! The code needs stable Rust only; what differs between machines is where a compiled `core` for
//! the target comes from. Three sources are tried, in this order:
//!
//! 1. the active toolchain has the target in its sysroot (rustup put it there, because
//!    `rust-toolchain.toml` lists it): a plain `cargo build --target`;
//! 2. Debian: `rustc-web`, `cargo-web`, `rust-web-src` bring a compiler *and* the sources of
//!    `core`, which cargo then builds by `-Zbuild-std`; `lld` links. Installed when missing;
//! 3. neither: one line that says what to install.
//!
//! The second way also builds what ThreadSanitizer watches on this machine ([`sanitized`]), and the
//! first two, with a C library of 32 bits to link, tests whose `usize` has 32 bits ([`narrow`]).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{apt, command};

/// Which crates of the standard library a build may link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Std {
    /// `core` alone: linking `alloc` is impossible where cargo builds the standard library.
    Core,
    /// `core` and `alloc`, for programs that bring a heap.
    CoreAlloc,
}

/// A way to build for one target.
pub struct Bare {
    target: &'static str,
    source: Source,
}

enum Source {
    Sysroot,
    Debian,
}

/// Finds (or installs) a way to build for `target`.
///
/// # Errors
/// When there is none, with the one line that says what to install.
pub fn bare(target: &'static str) -> Result<Bare> {
    if in_sysroot(target) {
        return Ok(Bare {
            target,
            source: Source::Sysroot,
        });
    }
    if apt::is_debian() {
        apt::install(
            &["rustc-web", "cargo-web", "rust-web-src", "lld"],
            &format!("the active toolchain has no {target}"),
        )?;
        if debian_sources().is_some() {
            return Ok(Bare {
                target,
                source: Source::Debian,
            });
        }
    }
    bail!("no way to build for {target}; install it with: rustup target add {target}");
}

/// Makes sure that `cargo NAME` is there: Debian packs it apart, and rustup lets one leave it out.
///
/// # Errors
/// When it is not and cannot be installed here, with the line that says what to install.
pub fn subcommand(name: &str, debian: &str, rustup: &str) -> Result<()> {
    if command::capture(command::cargo().args([name, "--version"])).is_ok() {
        return Ok(());
    }
    let of_debian =
        std::env::var_os("CARGO").is_some_and(|path| Path::new(&path).starts_with("/usr/bin"));
    if !(of_debian && apt::is_debian()) {
        bail!("there is no `cargo {name}`; install it with: rustup component add {rustup}");
    }
    apt::install(&[debian], &format!("there is no `cargo {name}`"))
}

/// A way to test on this machine what ThreadSanitizer watches.
pub struct Sanitized {
    /// `cargo test --target HOST`, to which the caller adds packages and profile.
    pub cargo: Command,
    /// What every crate is compiled and linked with.
    pub flags: Vec<String>,
}

/// Finds (or installs) a way to test under ThreadSanitizer: Debian's compiler builds the standard
/// library too, so that it is instrumented as the program is, and the runtime is that of the LLVM
/// release that the compiler has inside.
///
/// # Errors
/// When there is none, with the line that says what it takes.
pub fn sanitized() -> Result<Sanitized> {
    const WHY: &str = "ThreadSanitizer needs the sources of the standard library and its runtime";
    if !apt::is_debian() {
        bail!("{WHY}: only on Debian is it known where they are");
    }
    apt::install(
        &["rustc-web", "cargo-web", "rust-web-src", "lld", "gcc"],
        WHY,
    )?;
    if debian_sources().is_none() {
        bail!("{WHY}: rust-web-src brought none");
    }
    let version = command::capture(
        Command::new(DEBIAN_RUSTC)
            .env_remove("LD_LIBRARY_PATH")
            .arg("-vV"),
    )?;
    let line = |key: &str| version.lines().find_map(|line| line.strip_prefix(key));
    let (Some(host), Some(llvm)) = (line("host: "), line("LLVM version: ")) else {
        bail!("{DEBIAN_RUSTC} does not say its host and LLVM version");
    };
    let llvm = llvm.split('.').next().unwrap_or(llvm);
    let arch = host.split('-').next().unwrap_or(host);
    let runtime =
        format!("/usr/lib/llvm-{llvm}/lib/clang/{llvm}/lib/linux/libclang_rt.tsan-{arch}.a");
    if !Path::new(&runtime).is_file() {
        apt::install(&[&format!("libclang-rt-{llvm}-dev")], WHY)?;
    }
    if !Path::new(&runtime).is_file() {
        bail!("{WHY}: libclang-rt-{llvm}-dev has no {runtime}");
    }
    let mut flags = vec!["-Zsanitizer=thread".into(), "-Zexternal-clangrt".into()];
    let link = [
        "-fuse-ld=lld",
        // All of it: nobody names the functions that it intercepts.
        "-Wl,--whole-archive",
        &runtime,
        "-Wl,--no-whole-archive",
        "-Wl,--export-dynamic",
        "-lm",
        "-lresolv",
    ];
    flags.extend(link.map(|part| format!("-Clink-arg={part}")));
    let mut cargo = debian_cargo();
    cargo.args(["test", "--target", host, "-Zbuild-std=std,panic_unwind"]);
    Ok(Sanitized { cargo, flags })
}

/// What runs on this machine with a `usize` of 32 bits.
const NARROW: &str = "i686-unknown-linux-gnu";

/// Finds (or installs) a way to test with a `usize` of 32 bits: `cargo test --target i686-...`, to
/// which the caller adds packages and tests.
///
/// # Errors
/// When there is none, with the line that says what to install.
pub fn narrow() -> Result<Command> {
    const WHY: &str = "tests with a usize of 32 bits are to be linked";
    if apt::is_debian() {
        apt::install(&["gcc", "libc6-dev"], WHY)?;
    }
    if !links_narrow() {
        if !apt::is_debian() {
            bail!(
                "{WHY}: install the 32-bit libraries of C and GCC (glibc-devel.i686, libgcc.i686)"
            );
        }
        // GCC's own 32-bit libraries are packed by its release. `gcc-multilib` would bring them too,
        // but cannot stand beside GCCs for other machines.
        let release = command::capture(Command::new("gcc").arg("-dumpversion"))?;
        let release = release.trim().split('.').next().unwrap_or_default();
        let of_gcc = format!("lib32gcc-{release}-dev");
        apt::install(&["libc6-dev-i386", &of_gcc], WHY)?;
        if !links_narrow() {
            bail!("{WHY}: libc6-dev-i386 and {of_gcc} are not enough for `cc -m32`");
        }
    }
    let mut cargo = if in_sysroot(NARROW) {
        command::cargo()
    } else {
        if !apt::is_debian() {
            bail!("no way to build for {NARROW}; install it with: rustup target add {NARROW}");
        }
        let why = format!("the active toolchain has no {NARROW}");
        apt::install(&["rustc-web", "cargo-web", "rust-web-src"], &why)?;
        if debian_sources().is_none() {
            bail!("{why}, and rust-web-src brought no sources");
        }
        let mut cargo = debian_cargo();
        cargo.arg("-Zbuild-std=std,panic_unwind");
        cargo
    };
    cargo.args(["test", "--target", NARROW]);
    Ok(cargo)
}

/// Tells whether a program of 32 bits can be linked here, as rustc links it.
fn links_narrow() -> bool {
    let linked = || -> Result<bool> {
        let mut cc = Command::new("cc")
            .args(["-m32", "-x", "c", "-", "-lgcc_s", "-o", "/dev/null"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut source) = cc.stdin.take() {
            source.write_all(b"int main(void) { return 0; }")?;
        }
        Ok(cc.wait()?.success())
    };
    linked().unwrap_or(false)
}

impl Bare {
    /// Returns `cargo VERB --target TARGET`, to which the caller adds packages and profile.
    pub fn cargo(&self, verb: &str, std: Std) -> Command {
        let mut cargo = match self.source {
            Source::Sysroot => command::cargo(),
            Source::Debian => debian_cargo(),
        };
        cargo.arg(verb);
        self.name_target(&mut cargo, std);
        cargo
    }

    /// Returns `cargo clippy --target TARGET`, of the same release as the compiler of
    /// [`Bare::cargo`].
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn clippy(&self, std: Std) -> Result<Command> {
        let mut clippy = match self.source {
            Source::Sysroot => command::cargo(),
            Source::Debian => {
                apt::install(&["rust-web-clippy"], "the kernels are to be linted")?;
                let mut clippy = debian(DEBIAN_CLIPPY);
                clippy.env("CARGO", DEBIAN_CARGO);
                clippy
            }
        };
        clippy.arg("clippy");
        self.name_target(&mut clippy, std);
        Ok(clippy)
    }

    fn name_target(&self, cargo: &mut Command, std: Std) {
        cargo.args(["--target", self.target]);
        if matches!(self.source, Source::Debian) {
            // Also where nothing is linked: what was compiled for another linker is compiled anew.
            let linker = self.target.to_uppercase().replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{linker}_LINKER"), "ld.lld");
            cargo.arg(match std {
                Std::Core => "-Zbuild-std=core",
                Std::CoreAlloc => "-Zbuild-std=core,alloc",
            });
        }
    }

    /// Tells whether this way opens the compiler's unstable flags in any case.
    pub fn is_unlocked(&self) -> bool {
        matches!(self.source, Source::Debian)
    }

    /// Says where `core` comes from, for the progress line.
    pub fn describe(&self) -> &'static str {
        match self.source {
            Source::Sysroot => "the toolchain's own",
            Source::Debian => "built from Debian's rust-web-src",
        }
    }
}

fn in_sysroot(target: &str) -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .current_dir(crate::paths::root())
        .args(["--print", "target-libdir", "--target", target]);
    command::capture(&mut rustc).is_ok_and(|dir| holds_core(Path::new(dir.trim())))
}

fn holds_core(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// The compiler that Debian's packages install, whatever else is on the path.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// It finds its driver beside itself.
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

fn debian_sources() -> Option<String> {
    let mut rustc = Command::new(DEBIAN_RUSTC);
    rustc
        .env_remove("LD_LIBRARY_PATH")
        .args(["--print", "sysroot"]);
    let sysroot = command::capture(&mut rustc).ok()?;
    let library = format!("{}/lib/rustlib/src/rust/library", sysroot.trim());
    Path::new(&library).join("core").is_dir().then_some(library)
}

fn debian_cargo() -> Command {
    debian(DEBIAN_CARGO)
}

/// A program of those packages, with the environment that they want.
fn debian(program: &str) -> Command {
    let mut cargo = Command::new(program);
    command::clean(&mut cargo);
    cargo
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("RUSTC", DEBIAN_RUSTC)
        // Opens `-Zbuild-std` of a stable cargo; no language feature is used.
        .env("RUSTC_BOOTSTRAP", "1");
    cargo
}
