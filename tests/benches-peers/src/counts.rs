//! Instruction counts from callgrind.
//!
//! The program starts itself once more under valgrind. There each contender
//! runs one small round; collection is on inside of `measured_region` only, and
//! the program asks callgrind to dump its counters after each. So the n-th
//! dump is the n-th contender that ran.

use crate::measure::Row;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The argument that makes a run the counted one.
pub const PASS: &str = "--count-pass";

/// Asks callgrind, if it is there, to write its counters to the next file and
/// to begin again: `CALLGRIND_DUMP_STATS` of callgrind.h. To the CPU it is four
/// rotations by 128 bits in all, and an exchange of a register with itself.
pub fn dump() {
    let request: [u64; 6] = [u64::from(u32::from_be_bytes(*b"CT\0\0")), 0, 0, 0, 0, 0];
    // SAFETY: without valgrind the instructions change nothing; with it, rdx
    // and memory that valgrind reads through rax, nothing of ours.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") 0u64 => _,
        );
    }
}

/// Runs under callgrind; returns instructions and operations of each counted
/// contender, in order.
pub fn collect(only: Option<&str>) -> Result<Vec<(f64, f64)>, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let dir = std::env::temp_dir().join(format!("mm-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let result = run(&me, &dir, only);
    let _ = fs::remove_dir_all(&dir);
    result
}

fn run(me: &Path, dir: &Path, only: Option<&str>) -> Result<Vec<(f64, f64)>, String> {
    eprint!("counting instructions (callgrind)");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet"])
        .arg("--toggle-collect=*measured_region*")
        .arg(format!(
            "--callgrind-out-file={}",
            dir.join("out").display()
        ))
        .arg(me)
        .arg(PASS)
        .args(only)
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|e| format!("valgrind cannot be started ({e})"))?;
    eprint!("\r\x1b[K");
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("valgrind ended with {}: {text}", output.status));
    }
    let ops = String::from_utf8_lossy(&output.stdout);
    ops.lines()
        .enumerate()
        .map(|(i, ops)| {
            let file = dir.join(format!("out.{}", i + 1));
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let total = text
                .lines()
                .find_map(|line| {
                    line.strip_prefix("summary:")
                        .or(line.strip_prefix("totals:"))
                })
                .and_then(|n| n.trim().parse().ok())
                .ok_or_else(|| format!("{} has no totals", file.display()))?;
            let ops = ops.parse().map_err(|_| format!("not a number: {ops}"))?;
            Ok((total, ops))
        })
        .collect()
}

/// Enters the counts into the rows, which were measured in the same order.
pub fn enter(rows: &mut [Row], counted: &[(f64, f64)]) {
    let scores = rows.iter_mut().flat_map(|row| &mut row.scores);
    for (score, &(instructions, ops)) in scores.filter(|s| s.counted).zip(counted) {
        score.instructions = Some(instructions / ops);
    }
}
