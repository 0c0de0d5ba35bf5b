//! Fetches Debian's unmodified static programs, for any architecture, without touching the system.
//!
//! A *private apt directory* below `target/` has its own source list, lists, cache and status, so
//! this needs no root and the machine's apt does not notice. Where to download from is read from
//! the machine's own Debian sources; nothing is written down here. Versions roll, so nothing is
//! pinned: the checksum of what was used is printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, say};
use crate::{apt, paths};

/// A static program of a Debian package.
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// The package.
    pub package: &'static str,
    /// Where the package may hold it; suites differ.
    inner: &'static [&'static str],
}

/// glibc, fixed addresses: a shell and its tools.
pub const BUSYBOX: Program = Program {
    name: "busybox",
    package: "busybox-static",
    inner: &["usr/bin/busybox", "bin/busybox"],
};

/// klibc, fixed addresses, no thread-local storage, the old system calls.
pub const MKSH: Program = Program {
    name: "mksh",
    package: "mksh",
    inner: &["usr/lib/klibc/bin/mksh"],
};

/// glibc, static and position-independent.
pub const LDCONFIG: Program = Program {
    name: "ldconfig",
    package: "libc-bin",
    inner: &["usr/sbin/ldconfig", "sbin/ldconfig"],
};

/// Returns the path of `program` for the Debian architecture `arch`.
///
/// # Errors
/// When this is no Debian, or the package cannot be downloaded.
pub fn fetch(program: &Program, arch: &str) -> Result<PathBuf> {
    let Program {
        name,
        package,
        inner,
    } = program;
    let dir = paths::product("debian")?.join(arch);
    let file = dir.join(name);
    if !file.is_file() {
        if !apt::is_debian() {
            bail!("only Debian's apt can fetch the package {package}, and this is no Debian");
        }
        say(&format!(
            "fetching Debian's {package} for {arch} through a private apt directory"
        ));
        let archive = download(&dir, arch, package)?;
        let tree = dir.join("tree").join(package);
        fs::create_dir_all(&tree)?;
        command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree))?;
        let found = inner
            .iter()
            .map(|inner| tree.join(inner))
            .find(|path| path.is_file())
            .with_context(|| format!("the package {package} holds no {name}"))?;
        // Renamed at the end, so that a run that was stopped leaves nothing half copied.
        let copy = dir.join(format!("{name}.new"));
        fs::copy(found, &copy)?;
        fs::rename(&copy, &file)?;
    }
    let sum = command::capture(Command::new("sha256sum").arg(&file))?;
    let sum = sum.split_whitespace().next().unwrap_or_default();
    say(&format!(
        "{name} ({arch}): {} bytes, sha256 {sum}",
        fs::metadata(&file)?.len()
    ));
    Ok(file)
}

/// Returns the names of busybox' applets, for the links in `/bin`.
///
/// They are read from the binary, which may be another architecture's: the table of names is one
/// run of zero-terminated strings that starts with `[` and `[[`.
///
/// # Errors
/// When the binary holds no such table.
pub fn applets(busybox: &Path) -> Result<Vec<String>> {
    let names = applet_table(&fs::read(busybox)?);
    if !names.iter().any(|name| name == "sh") {
        bail!("{} names no applet `sh`", busybox.display());
    }
    Ok(names)
}

fn applet_table(binary: &[u8]) -> Vec<String> {
    const START: &[u8] = b"[\0[[\0";
    let Some(at) = binary.windows(START.len()).position(|bytes| bytes == START) else {
        return Vec::new();
    };
    let names = binary
        .get(at..)
        .unwrap_or_default()
        .split(|byte| *byte == 0);
    let letters = |name: &&[u8]| {
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"[_-.+".contains(byte);
        !name.is_empty() && name.iter().all(letter)
    };
    names
        .take_while(letters)
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// The suite that has an architecture which older ones lack.
fn younger_suite(arch: &str, codename: &str) -> Option<&'static str> {
    let old = ["bullseye", "bookworm"].contains(&codename);
    (arch == "riscv64" && old).then_some("trixie")
}

fn download(dir: &Path, arch: &str, package: &str) -> Result<PathBuf> {
    let packages = dir.join("packages");
    if !dir.join("updated").is_file() {
        for inner in ["state/lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(dir.join(inner))?;
        }
        fs::write(dir.join("status"), "")?;
        fs::write(dir.join("sources.list"), source_list(arch)?)?;
        fs::write(dir.join("apt.conf"), configuration(dir, arch))?;
        // One suite that cannot be reached is not yet a failure: the download decides.
        match command::run(apt_get(dir).arg("update")) {
            Ok(()) => fs::write(dir.join("updated"), "")?,
            Err(error) => say(&format!("{error:#}; trying the download all the same")),
        }
    }
    if command::run(
        apt_get(dir)
            .current_dir(&packages)
            .args(["download", package]),
    )
    .is_err()
    {
        // The lists may be older than the archive: once more, with fresh ones.
        command::run(apt_get(dir).arg("update"))?;
        command::run(
            apt_get(dir)
                .current_dir(&packages)
                .args(["download", package]),
        )?;
    }
    let start = format!("{package}_");
    fs::read_dir(&packages)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&start))
        .map(|entry| entry.path())
        .with_context(|| format!("apt-get download left no {package}"))
}

fn apt_get(dir: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("-c").arg(dir.join("apt.conf")).arg("-q");
    apt
}

/// Returns the configuration that keeps apt inside `dir`.
fn configuration(dir: &Path, arch: &str) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"{arch}\";\n\
         APT::Architectures \"{arch}\";\n\
         APT::Sandbox::User \"\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Retries \"3\";\n"
    )
}

/// One suite of a Debian archive, as the machine's sources name it.
#[derive(Debug, PartialEq, Eq)]
struct Suite {
    uri: String,
    suite: String,
    signed_by: Option<String>,
}

/// Returns a source list with the machine's own Debian suites, for `arch`.
fn source_list(arch: &str) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_string())
        .context("/etc/os-release names no suite")?;
    let mut suites = Vec::new();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|ext| ext.to_str()) {
            Some("list") => suites.extend(one_line_style(&text)),
            Some("sources") => suites.extend(deb822_style(&text)),
            _ => {}
        }
    }
    let ours = ["", "-updates", "-security", "/updates"].map(|tail| format!("{codename}{tail}"));
    suites.retain(|suite| ours.contains(&suite.suite) && !suite.uri.starts_with("cdrom:"));
    if let Some(younger) = younger_suite(arch, &codename) {
        suites.retain(|suite| suite.suite == codename);
        suites
            .iter_mut()
            .for_each(|suite| suite.suite = younger.to_string());
    }
    if suites.is_empty() {
        bail!("the sources of this machine's apt name no archive of {codename}");
    }
    Ok(suites
        .iter()
        .map(
            |Suite {
                 uri,
                 suite,
                 signed_by,
             }| {
                let key = signed_by
                    .as_ref()
                    .map(|key| format!(" signed-by={key}"))
                    .unwrap_or_default();
                format!("deb [arch={arch}{key}] {uri} {suite} main\n")
            },
        )
        .collect())
}

/// Reads `deb [options] URI suite component...` lines (sources.list(5)).
fn one_line_style(text: &str) -> Vec<Suite> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        if words.any(|component| component == "main") {
            found.push(Suite {
                uri: uri.to_string(),
                suite: suite.to_string(),
                signed_by: options
                    .split_whitespace()
                    .find_map(|option| option.strip_prefix("signed-by="))
                    .map(str::to_string),
            });
        }
    }
    found
}

/// Reads stanzas of `Field: values` (the deb822 style of sources.list(5)).
fn deb822_style(text: &str) -> Vec<Suite> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut found = Vec::new();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            let mut inside = false;
            let mut values = String::new();
            for line in stanza {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        values.push_str(line);
                    }
                } else if let Some((key, value)) = line.split_once(':') {
                    inside = key.eq_ignore_ascii_case(name);
                    if inside {
                        values.push_str(value);
                    }
                }
            }
            values
                .split_whitespace()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        let has = |name: &str, value: &str| field(name).iter().any(|word| word == value);
        if !has("Types", "deb") || !has("Components", "main") || has("Enabled", "no") {
            continue;
        }
        // A key written into the file itself cannot be named in a one-line source.
        let signed_by = field("Signed-By")
            .into_iter()
            .next()
            .filter(|key| key.starts_with('/'));
        for uri in field("URIs") {
            for suite in field("Suites") {
                found.push(Suite {
                    uri: uri.clone(),
                    suite,
                    signed_by: signed_by.clone(),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{applet_table, deb822_style, one_line_style};

    #[test]
    fn the_table_of_applets_ends_where_the_names_end() {
        let binary = b"x\0[\0no\x80[\0[[\0ash\0run-parts\0\0Usage: %s\0";
        assert_eq!(applet_table(binary), ["[", "[[", "ash", "run-parts"]);
        assert!(applet_table(b"nothing").is_empty());
    }

    #[test]
    fn both_styles_of_sources_are_read() {
        let old = one_line_style(
            "# deb http://comment/debian x main\n\
             deb-src http://a/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm main contrib\n\
             deb http://b/other stable other\n",
        );
        assert_eq!(old.len(), 1);
        assert_eq!(old[0].uri, "http://a/debian");
        assert_eq!(old[0].signed_by.as_deref(), Some("/k.gpg"));

        let new = deb822_style(
            "Types: deb deb-src\n# a comment\nURIs: http://a/debian\n\
             Suites: bookworm bookworm-updates\nComponents: main\n non-free\nSigned-By: /k.gpg\n\n\
             Types: deb\nURIs: http://b/\nSuites: bookworm\nComponents: main\nEnabled: no\n",
        );
        assert_eq!(new.len(), 2);
        assert_eq!(new[1].suite, "bookworm-updates");
        assert_eq!(new[1].signed_by.as_deref(), Some("/k.gpg"));
    }
}
