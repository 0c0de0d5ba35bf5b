//! That no function of mm-core calls itself, directly or through others.
//!
//! The calls are read from the disassembly of the kernel, which uses the library's generic code in
//! its real forms: every `call` and every `jmp` to another function is an edge. Calls through a
//! pointer are not seen; mm-core has none but those of `core::fmt`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{capture, say};

type Calls<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Fails when a function of mm-core in the kernel `file` can reach itself.
pub fn check(file: &Path) -> Result<()> {
    let mut objdump = Command::new("objdump");
    let listing = capture(objdump.args(["-d", "--no-show-raw-insn"]).arg(file))?;
    let calls = calls(&listing);
    let ours: Vec<&str> = calls
        .keys()
        .copied()
        .filter(|name| name.contains("mm_core"))
        .collect();
    if ours.is_empty() {
        bail!("{} names no function of mm-core", file.display());
    }
    let cycles: Vec<&str> = ours
        .iter()
        .copied()
        .filter(|name| reaches_itself(&calls, name))
        .collect();
    if !cycles.is_empty() {
        bail!(
            "functions of mm-core that call themselves:\n  {}",
            cycles.join("\n  ")
        );
    }
    say(&format!(
        "{} functions of mm-core, none of which can reach itself",
        ours.len()
    ));
    Ok(())
}

/// Reads who calls whom.
fn calls(listing: &str) -> Calls<'_> {
    let mut calls = Calls::new();
    let mut current = None;
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")) {
            current = Some(name.1);
            calls.entry(name.1).or_default();
            continue;
        }
        let Some((code, target)) = line.split_once(" <") else {
            continue;
        };
        let mut words = code.split_whitespace().skip(1);
        let instruction = words.next().unwrap_or_default();
        let target = target.trim_end_matches('>');
        // `name+0x12` is a jump within a function.
        let entry = !target.contains('+');
        if let (Some(caller), true) = (current, entry) {
            let jump = instruction == "jmp" && target != caller;
            if instruction == "call" || jump {
                calls.entry(caller).or_default().insert(target);
            }
        }
    }
    calls
}

fn reaches_itself(calls: &Calls<'_>, name: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = calls.get(name).into_iter().flatten().copied().collect();
    while let Some(next) = open.pop() {
        if next == name {
            return true;
        }
        if seen.insert(next) {
            open.extend(calls.get(next).into_iter().flatten().copied());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_found_and_a_loop_is_none() {
        let listing = "\
0000000000001000 <mm_core_a>:\n\
    1000:\tcall   2000 <mm_core_b>\n\
    1005:\tjmp    1000 <mm_core_a>\n\
0000000000002000 <mm_core_b>:\n\
    2000:\tjne    2004 <mm_core_b+0x4>\n\
    2004:\tjmp    3000 <other>\n\
0000000000003000 <other>:\n\
    3000:\tcall   2000 <mm_core_b>\n";
        let calls = calls(listing);
        assert!(
            !reaches_itself(&calls, "mm_core_a"),
            "a loop to its own start"
        );
        assert!(reaches_itself(&calls, "mm_core_b"), "through another");
    }
}
