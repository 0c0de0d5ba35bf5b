//! Judges what a booted kernel printed.
//!
//! The exit status is the kernel's own opinion. Here it is checked against what the host knows:
//!
//! - the summary is there, every number in its lines about leaks is zero, and the counts of
//!   [`MUST_HAPPEN`] are not (a resident initramfs, for one, would make waiting dead code);
//! - a run on several CPUs ran programs on each of them, moved tasks between them, flushed others'
//!   TLBs, and halted each of them when it had nothing to do;
//! - a run that must end in a bug of the kernel's own names that bug and reports failure;
//! - whoever typed at the console got all answers;
//! - every checksum that the script printed is that of the file on the host.
//!
//! What is read from the console:
//!
//! ```text
//!   0123456789abcdef0123456789abcdef  /bin/busybox     a line of md5sum about a file of the initramfs
//!   0123456789abcdef0123456789abcdef  -                about a pipe: must be some file's contents
//!   ... summary ...                                    everything below it is the summary
//!   ... leaked ... 0 ... 0                             all numbers must be zero
//!         12  reads waited for                         must not be zero
//! ```

use std::collections::BTreeMap;

use anyhow::Result;

use crate::boot::{Booted, Ending, describe};
use crate::command;
use crate::cpio::Archive;

/// What a run must show besides its exit status.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The summary; checksums are compared when there are any.
    Summary,
    /// The summary, at least one checksum, and at least one read that was waited for.
    SummaryAndChecksums,
    /// The summary, and that less than half of the pages of this program's file were read: a
    /// loader that copies all of it passes every other test.
    LazyExec(&'static str),
    /// The summary, and that programs ran on this many CPUs, moved between them, and had other CPUs
    /// flush: a kernel that keeps everything on one CPU passes every other test.
    Smp(u32),
    /// No summary: that the kernel says this of itself, once and as the beginning of a line, and
    /// reports failure.
    Bug(&'static str),
}

/// Returns what is wrong with a run; nothing when all is well.
pub fn faults(booted: &Booted, archive: &Archive, expect: Expect) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    if let Expect::Bug(bug) = expect {
        found_out(booted, bug, &mut wrong);
        return Ok(wrong);
    }
    if booted.ending != Ending::Success {
        let last = booted.output.lines().rfind(|line| !line.trim().is_empty());
        let last = last.unwrap_or_default().trim();
        wrong.push(format!("{}, after {last:?}", describe(booted.ending)));
    }
    if let Some(text) = booted.waits_for {
        wrong.push(format!("what was typed was never answered with {text:?}"));
    }
    summary(&booted.output, expect, &mut wrong);
    said_twice(&booted.output, &mut wrong);
    if let Expect::LazyExec(program) = expect {
        lazy(&booted.output, archive, program, &mut wrong);
    }
    if let Expect::Smp(cpus) = expect {
        all_cpus(&booted.output, cpus, &mut wrong);
    }
    let sums = host_sums(archive)?;
    let compared = checksums(&booted.output, &sums, &mut wrong);
    if compared == 0 && expect == Expect::SummaryAndChecksums {
        wrong.push("the script printed no checksum to compare".to_string());
    }
    Ok(wrong)
}

/// A kernel that is wrong about itself must find out, say what it is, and end at once.
fn found_out(booted: &Booted, bug: &str, wrong: &mut Vec<String>) {
    if booted.ending != Ending::Failure {
        wrong.push(format!("after a bug: {}", describe(booted.ending)));
    }
    let said = booted.output.lines().filter(|line| line.starts_with(bug));
    let said = said.count();
    if said != 1 {
        wrong.push(format!("the kernel says {said} times: {bug}"));
    }
    if booted.output.to_lowercase().contains("summary") {
        wrong.push("the kernel went on after a bug".to_string());
    }
}

/// Returns the lines of `output` that are the programs' and the same on every architecture: not
/// the kernel's own, not the machine's name, not checksums (which are compared with the host's).
pub fn programs_output(output: &str) -> Vec<String> {
    let lines = output.lines().skip_while(|line| !line.starts_with("== "));
    let lines = lines.take_while(|line| !line.to_lowercase().contains("summary"));
    lines
        .filter(|line| !line.starts_with("kernel: ") && !line.starts_with("Linux "))
        .filter(|line| checksum(line).is_none())
        .map(str::to_string)
        .collect()
}

/// Splits a line of md5sum into the sum and the path.
fn checksum(line: &str) -> Option<(&str, &str)> {
    let (sum, path) = line.split_once("  ")?;
    let is_sum = sum.len() == 32 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sum.then_some((sum, path))
}

fn summary(output: &str, expect: Expect, wrong: &mut Vec<String>) {
    let lines: Vec<String> = output.lines().map(str::to_lowercase).collect();
    let Some(start) = lines.iter().rposition(|line| line.contains("summary")) else {
        wrong.push("the kernel printed no summary".to_string());
        return;
    };
    let lines = lines.get(start..).unwrap_or_default();
    let leaks: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("leaked"))
        .collect();
    if leaks.iter().all(|line| numbers(line).is_empty()) {
        wrong.push("the summary does not say what leaked".to_string());
    }
    for line in leaks {
        if numbers(line).iter().any(|number| *number != 0) {
            wrong.push(format!("leaks: {line}"));
        }
    }
    if expect == Expect::SummaryAndChecksums {
        for what in MUST_HAPPEN {
            let happened = lines
                .iter()
                .filter(|line| line.contains(what))
                .flat_map(|line| numbers(line));
            if happened.sum::<u64>() == 0 {
                wrong.push(format!(
                    "the summary counts no `{what}`: that code is dead in this run"
                ));
            }
        }
    }
}

/// How the kernel says that it does not have a call, which it does once for each.
const NO_CALL: &str = "kernel: no syscall ";

fn said_twice(output: &str, wrong: &mut Vec<String>) {
    let mut calls: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix(NO_CALL)?.split(' ').next())
        .collect();
    calls.sort_unstable();
    let twice = calls.iter().zip(calls.iter().skip(1)).find(|(a, b)| a == b);
    if let Some((call, _)) = twice {
        wrong.push(format!("the kernel says twice that it has no call {call}"));
    }
}

/// Compares the reads of a run of one program with the pages of its file.
fn lazy(output: &str, archive: &Archive, program: &str, wrong: &mut Vec<String>) {
    let file = archive.files().find(|(path, _)| *path == program);
    let pages = file.map_or(0, |(_, bytes)| bytes.len().div_ceil(4096) as u64);
    let line = output
        .lines()
        .rev()
        .find(|line| line.contains("reads waited for"));
    let reads = line.and_then(|line| numbers(line).into_iter().last());
    match reads {
        Some(reads) if reads > 0 && reads * 2 < pages => {}
        _ => wrong.push(format!(
            "{program} has {pages} pages, and {reads:?} were read: not lazily"
        )),
    }
}

/// What a run on several CPUs cannot do without.
const MUST_HAPPEN_ON_MANY: [&str; 4] = [
    "migrations",
    "tasks moved by the balancer",
    "cpus kicked",
    "flushes of other cpus",
];

/// Looks at what the summary says of each CPU.
fn all_cpus(output: &str, cpus: u32, wrong: &mut Vec<String>) {
    let lines: Vec<String> = output.lines().map(str::to_lowercase).collect();
    let first = |what: &str| {
        let line = lines.iter().rev().find(|line| line.ends_with(what));
        line.and_then(|line| numbers(line).into_iter().next())
            .unwrap_or(0)
    };
    for what in MUST_HAPPEN_ON_MANY {
        if first(what) == 0 {
            wrong.push(format!("the summary counts no `{what}`"));
        }
    }
    let [fast, slow] =
        ["without", "with"].map(|how| first(&format!("faults: {how} the space lock")));
    if fast * 100 < (fast + slow) * 95 {
        wrong.push(format!(
            "only {fast} of {} faults took no space lock",
            fast + slow
        ));
    }
    for cpu in 0..cpus {
        if first(&format!("ticks of user time on cpu {cpu}")) == 0 {
            wrong.push(format!("no program ran on CPU {cpu}"));
        }
        // An interrupt ends a halt: a tick, a kick, or a flush. Ticks of the CPUs differ a little;
        // a CPU that does not halt, but looks again and again, counts millions.
        let ends = first("  ticks") + first("cpus kicked") + first("flushes of other cpus");
        let halts = first(&format!("halts of cpu {cpu}"));
        if halts == 0 || halts > 4 * ends {
            wrong.push(format!(
                "CPU {cpu} halted {halts} times, with {ends} interrupts"
            ));
        }
    }
}

/// What a run of many programs cannot do without; a count of zero means that a shortcut was taken
/// (all memory resident, every page copied at once).
const MUST_HAPPEN: [&str; 7] = [
    "reads waited for",
    "faults: zero page",
    "faults: anonymous",
    "faults: file, cached",
    "copy-on-write: copies",
    "copy-on-write: reuses",
    "forks",
];

/// Returns the decimal numbers in a line that stand as words of their own.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Returns the checksums of the archive's files by path.
fn host_sums(archive: &Archive) -> Result<BTreeMap<String, String>> {
    let mut sums = BTreeMap::new();
    for (path, bytes) in archive.files() {
        let line = command::filter("md5sum", bytes)?;
        let sum = line.split_whitespace().next().unwrap_or_default();
        sums.insert(path.to_string(), sum.to_string());
    }
    Ok(sums)
}

/// Compares the checksums in `output`; returns how many there were.
fn checksums(output: &str, sums: &BTreeMap<String, String>, wrong: &mut Vec<String>) -> usize {
    let mut compared = 0;
    for line in output.lines() {
        let Some((sum, path)) = checksum(line) else {
            continue;
        };
        let right = match sums.get(path) {
            Some(right) => right == sum,
            None => sums.values().any(|right| right == sum),
        };
        compared += 1;
        if !right {
            wrong.push(format!("wrong checksum: {line}"));
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Expect, all_cpus, checksums, found_out, programs_output, said_twice, summary};
    use crate::boot::{Booted, Ending};

    const GOOD: &str = "hello\n--- summary ---\n1  faults: zero page\n2  faults: anonymous\n\
        3  faults: file, cached\n4  copy-on-write: copies\n5  copy-on-write: reuses\n6  forks\n\
        12  reads waited for\nleaked: 0 frames, 0 nodes\n";

    fn complaints(output: &str) -> usize {
        let mut wrong = Vec::new();
        summary(output, Expect::SummaryAndChecksums, &mut wrong);
        wrong.len()
    }

    #[test]
    fn leaks_missing_counts_and_missing_summaries_are_faults() {
        assert_eq!(complaints(GOOD), 0);
        assert_eq!(complaints(&GOOD.replace("0 nodes", "3 nodes")), 1);
        assert_eq!(complaints(&GOOD.replace("leaked", "left")), 1);
        assert_eq!(complaints(&GOOD.replace("12", "0")), 1);
        assert_eq!(
            complaints(&GOOD.replace("5  copy-on-write: reuses\n", "")),
            1
        );
        assert_eq!(complaints("hello\n"), 1);
    }

    #[test]
    fn a_missing_call_is_said_once() {
        let once = "kernel: no syscall 7 (asked by a)\nkernel: no syscall 77 (asked by a)\n";
        let mut wrong = Vec::new();
        said_twice(once, &mut wrong);
        assert_eq!(wrong, [""; 0]);
        said_twice(
            &format!("{once}kernel: no syscall 7 (asked by b)\n"),
            &mut wrong,
        );
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn a_bug_must_be_named_once_and_end_the_run() {
        let complaints = |output: &str, ending| {
            let booted = Booted {
                output: output.to_string(),
                ending,
                waits_for: None,
            };
            let mut wrong = Vec::new();
            found_out(&booted, "stack overflow", &mut wrong);
            wrong.len()
        };
        let good = "kernel panic: panicked at trap.rs\nstack overflow at 0x1\n";
        assert_eq!(complaints(good, Ending::Failure), 0);
        assert_eq!(complaints(good, Ending::Success), 1);
        assert_eq!(complaints(good, Ending::Died(Some(0))), 1);
        assert_eq!(complaints("kernel panic\n", Ending::Failure), 1);
        assert_eq!(complaints(&[good, good].concat(), Ending::Failure), 1);
        assert_eq!(complaints(&[good, GOOD].concat(), Ending::Failure), 1);
    }

    #[test]
    fn every_cpu_must_run_programs() {
        let good = "kernel:  7  migrations\nkernel: 3  tasks moved by the balancer\n\
            kernel: 9  CPUs kicked\nkernel: 2  flushes of other CPUs\n\
            kernel: 5  ticks of user time on CPU 0\nkernel: 6  ticks of user time on CPU 1\n\
            kernel: 20  ticks\nkernel: 30  halts of CPU 0\nkernel: 40  halts of CPU 1\n";
        let complaints = |output: &str| {
            let mut wrong = Vec::new();
            all_cpus(output, 2, &mut wrong);
            wrong.len()
        };
        assert_eq!(complaints(good), 0);
        assert_eq!(complaints(&good.replace(" 6 ", " 0 ")), 1);
        assert_eq!(complaints(&good.replace(" 7 ", " 0 ")), 1);
        assert_eq!(complaints(&good.replace("flushes", "none")), 1);
        assert_eq!(complaints(&good.replace(" 30 ", " 0 ")), 1, "it spins");
        assert_eq!(complaints(&good.replace(" 40 ", " 4000 ")), 1, "so does it");
        assert_eq!(complaints("hello\n"), 8);
    }

    #[test]
    fn what_differs_between_machines_is_left_out() {
        let output = "OpenSBI\nkernel: boot\n== the machine\nLinux mm 1.0 riscv64\nsame\n\
            0123456789abcdef0123456789abcdef  -\nkernel: note\nalso\n--- summary ---\n1 forks\n";
        assert_eq!(programs_output(output), ["== the machine", "same", "also"]);
    }

    #[test]
    fn a_checksum_must_be_the_hosts() {
        let sum = "0123456789abcdef0123456789abcdef";
        let other = "ffffffffffffffffffffffffffffffff";
        let sums = BTreeMap::from([("/bin/busybox".to_string(), sum.to_string())]);
        let mut wrong = Vec::new();
        assert_eq!(
            checksums(
                &format!("{sum}  /bin/busybox\n{sum}  -\nx  y\n"),
                &sums,
                &mut wrong
            ),
            2
        );
        assert!(wrong.is_empty());
        checksums(
            &format!("{other}  /bin/busybox\n{other}  -\n"),
            &sums,
            &mut wrong,
        );
        assert_eq!(wrong.len(), 2);
    }
}
