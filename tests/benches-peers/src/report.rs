//! The table: ratios against each row's reference, and where we lose.

use crate::measure::{OURS, Row, Score};
use crate::paths::LOCKED;

/// Prints all rows.
pub fn print(rows: &[Row]) {
    println!(
        "ratio: against the row's reference, marked *, in the same run; instr: per operation\n"
    );
    for row in rows {
        print_row(row);
    }
    print_summary(rows);
}

fn print_row(row: &Row) {
    println!("{}   [{}]", row.name, row.unit);
    let reference = value_of(row, row.reference);
    for score in &row.scores {
        let mark = if score.name == row.reference {
            '*'
        } else {
            ' '
        };
        let instructions = match score.instructions {
            Some(n) if n < 100.0 => format!("{n:>9.1}"),
            Some(n) => format!("{n:>9.0}"),
            None => format!("{:>9}", "-"),
        };
        println!(
            "  {mark}{:<34} {:>8.3}x {:>10} {instructions} instr{}",
            score.name,
            score.value / reference,
            number(score.value),
            verdict(row, score),
        );
    }
    println!("   goal: {}\n", row.goal.text);
}

/// Says of one of ours whether the goal is met.
fn verdict(row: &Row, score: &Score) -> String {
    if !is_ours(score) {
        return String::new();
    }
    let missed = missed_by(row, score);
    let mut text = if missed <= 1.0 {
        "   goal met".to_owned()
    } else {
        format!("   MISSED by {missed:.1}x")
    };
    if let (Some(goal), Some(n)) = (row.goal.instructions, score.instructions) {
        if n > goal {
            text += &format!(", {n:.0} instructions of {goal:.0}");
        }
    }
    text
}

/// How many times the goal a score is.
fn missed_by(row: &Row, score: &Score) -> f64 {
    score.value / (value_of(row, row.goal.against) * row.goal.ratio)
}

fn print_summary(rows: &[Row]) {
    println!("where we lose (the best of ours against the best peer, and against the goal):");
    let mut lost = 0;
    for row in rows {
        let ours = best(row, is_ours);
        let theirs = best(row, |s| !is_ours(s) && is_peer(s));
        let Some(ours) = ours else { continue };
        let missed = missed_by(row, ours);
        let beaten = theirs.filter(|t| t.value < ours.value);
        if missed <= 1.0 && beaten.is_none() {
            continue;
        }
        lost += 1;
        let mut text = format!("  {}:", row.name);
        if let Some(peer) = beaten {
            text += &format!(" {:.1}x of {};", ours.value / peer.value, peer.name);
        }
        if missed > 1.0 {
            text += &format!(" goal missed by {missed:.1}x;");
        }
        println!("{}", text.trim_end_matches(';'));
    }
    if lost == 0 {
        println!("  nowhere");
    }
}

fn is_ours(score: &Score) -> bool {
    score.name == OURS || score.name.starts_with("mm ")
}

/// Bounds are no peers: nothing that does the work can reach them.
fn is_peer(score: &Score) -> bool {
    !["raw store", "raw walk", "limit", "128 bytes", LOCKED].contains(&score.name)
}

fn best(row: &Row, which: impl Fn(&Score) -> bool) -> Option<&Score> {
    row.scores
        .iter()
        .filter(|s| which(s))
        .min_by(|a, b| a.value.total_cmp(&b.value))
}

fn value_of(row: &Row, name: &str) -> f64 {
    let score = row.scores.iter().find(|s| s.name == name);
    score.map_or(f64::NAN, |s| s.value)
}

fn number(n: f64) -> String {
    match n {
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 1000.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}
