//! `cargo xtask loom`: the concurrency models.
//!
//! A model is a test target whose file stands in `tests/loom`. The models need the whole family compiled with
//! `--cfg loom`, which swaps the primitives behind `mm_core::sync`; so they have a target
//! directory of their own, and run optimised because loom explores many interleavings.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, listen};
use crate::paths;
use crate::suites::{Counts, Suites, count};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Runs only the model of this name; all when absent.
    name: Option<String>,
    /// Runs each mutant against the model that must catch it, instead of the library as it is.
    #[arg(long)]
    mutants: bool,
}

/// Preemptions that are enough to catch every mutant.
const MUTANT_PREEMPTIONS: &str = "2";

/// What `cfg(mm_mutant = "...")` breaks, and the target and test that notice: a model, or another
/// test target of `tests`.
const MUTANTS: &[(&str, &str, &str)] = &[
    ("mark_without_wait", "loom_fault", "fault_and_unmap"),
    ("no_recheck", "vma_mark", ""),
    ("change_what_is_busy", "loom_fault", "unmap_and_fork"),
    ("replaced_is_gone", "loom_fault", "fault_and_fixed_map"),
    (
        "last_put_without_acquire",
        "loom_page",
        "the_last_put_is_one",
    ),
    (
        "finder_revives",
        "loom_page",
        "a_finder_gets_a_reference_or_none",
    ),
    ("refused_map_counts", "loom_page", "a_full_count_is_refused"),
    (
        "claim_without_exchange",
        "loom_page",
        "a_double_free_is_one_error",
    ),
    ("full_magazine_is_lost", "loom_front", "alloc_and_free"),
    ("transfers_unseen", "loom_front", "the_last_frame"),
    ("drain_unlocked", "loom_front", "the_last_frame"),
    ("full_node_magazine_is_lost", "loom_nodes", "alloc_and_free"),
    ("drained_magazine_stays", "loom_nodes", "alloc_and_drain"),
    ("pin_without_fence", "loom_pool", "a_reader_is_waited_for"),
    ("grace_without_fence", "loom_pool", "a_reader_is_waited_for"),
    (
        "drain_without_grace",
        "loom_pool",
        "a_stale_handle_reads_a_node",
    ),
    (
        "wake_before_unlock",
        "loom_cache",
        "one_reads_and_all_get_it",
    ),
    (
        "locked_without_second_look",
        "loom_cache",
        "one_reads_and_all_get_it",
    ),
    (
        "found_without_second_look",
        "loom_cache",
        "who_looks_gets_the_page_or_none",
    ),
    (
        "lookup_unpinned",
        "loom_cache",
        "an_index_is_not_drained_under_a_reader",
    ),
    (
        "inserted_past_the_end",
        "loom_cache",
        "nothing_is_read_in_past_the_end",
    ),
    ("walk_without_lock", "loom_rmap", "walk_and_unlink"),
    ("owner_without_second_look", "loom_rmap", "walk_and_last"),
    ("mark_without_wait", "loom_fault", "fault_and_protect"),
    ("no_second_look", "loom_fault", "fault_and_fault"),
    ("exclusive_after_fork", "loom_fault", "fault_and_fork"),
    ("unmark_before_flush", "loom_fault", "cow_and_fork"),
    ("exchange_without_look", "loom_fault", "cow_and_cow"),
    (
        "copy_without_reference",
        "loom_fault",
        "cow_and_drop_shared",
    ),
    ("reuse_without_lock", "loom_fault", "cow_and_drop"),
    ("grow_without_look", "loom_space", "stack_and_map"),
    ("users_counted_in_two_steps", "loom_space", "fault_and_exec"),
    ("unmap_before_size", "loom_object", "load_and_truncate"),
    ("unmark_before_rewrite", "loom_space", "protect_and_protect"),
    ("user_copy_without_lock", "loom_space", "copy_and_protect"),
    ("user_copy_without_lock", "loom_space", "copy_and_drop"),
    ("map_past_the_end", "loom_object", "load_and_truncate"),
    ("map_past_the_end", "loom_object", "copy_and_truncate"),
    ("map_what_was_dropped", "loom_object", "load_and_regrow"),
    ("pass_over_freed_table", "loom_object", "fork_and_truncate"),
    ("publish_without_fence", "loom_table", "activate_and_flush"),
    ("activate_without_fence", "loom_table", "activate_and_flush"),
    ("switch_without_fence", "loom_tags", "flush_and_rollover"),
    (
        "missed_cpus_are_not_noted",
        "loom_tags",
        "shootdown_and_lazy",
    ),
    (
        "missed_flush_is_forgotten",
        "loom_tags",
        "shootdown_and_switch",
    ),
    ("generation_without_flush", "loom_tags", "asid_rollover"),
    ("running_tags_are_given_out", "loom_tags", "asid_rollover"),
    ("generation_is_not_looked_at", "loom_tags", "asid_rollover"),
];

/// Runs the models and prints the table.
pub fn command(options: &Options) -> Result<()> {
    let mut suites = Suites::default();
    if options.mutants {
        for (mutant, target, test) in MUTANTS {
            if options.name.as_ref().is_none_or(|only| only == mutant) {
                suites.run(&format!("mutant {mutant}"), || caught(mutant, target, test));
            }
        }
        return suites.finish();
    }
    for name in models()? {
        if options.name.as_ref().is_none_or(|only| *only == name) {
            suites.run(&format!("loom {name}"), || model(&name));
        }
    }
    suites.finish()
}

/// Runs all models as one suite.
pub fn all() -> Result<Counts> {
    let mut command = cargo_test()?;
    for name in models()? {
        command.arg("--test").arg(name);
    }
    Ok(count(&listen(&mut command)?))
}

/// Runs one model.
fn model(name: &str) -> Result<Counts> {
    Ok(count(&listen(cargo_test()?.arg("--test").arg(name))?))
}

/// Breaks one line, and fails unless the model does.
fn caught(mutant: &str, target: &str, test: &str) -> Result<Counts> {
    // Through the compiler's wrapper for this workspace alone: what it depends on is built once for all mutants.
    let wrapper = paths::product("loom")?.join(format!("rustc-{mutant}"));
    let cfg = format!("mm_mutant=\"{mutant}\"");
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec \"$@\" --cfg '{cfg}'\n"))?;
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
    let is_model = models()?.iter().any(|name| name == target);
    let broken = || -> Result<_> {
        let mut command = if is_model {
            cargo_test()?
        } else {
            plain_test()?
        };
        command
            .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
            .env("LOOM_MAX_PREEMPTIONS", MUTANT_PREEMPTIONS)
            .args(["--test", target]);
        Ok(command)
    };
    // That it does not compile would prove nothing.
    command::run(broken()?.arg("--no-run"))?;
    // A panic may end in an abort, which counts no test.
    if listen(broken()?.arg(test))?.success {
        bail!("the mutant {mutant} passes {target} {test}");
    }
    Ok(Counts {
        passed: 1,
        ..Counts::default()
    })
}

/// Tests of `tests` as they are, in a directory of their own.
fn plain_test() -> Result<std::process::Command> {
    let mut command = command::cargo();
    command
        .args(["test", "--package", "mm-testkit", "--target-dir"])
        .arg(paths::product("mutants")?);
    Ok(command)
}

fn cargo_test() -> Result<std::process::Command> {
    let mut command = command::cargo();
    command
        .env("RUSTFLAGS", "--cfg loom")
        // Optimised, yet with every assertion: lock ranks are checked in the models too.
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        // Whole verbs look at more than loom expects of a model.
        .env("LOOM_MAX_BRANCHES", "20000")
        .env(
            "LOOM_MAX_PREEMPTIONS",
            std::env::var("LOOM_MAX_PREEMPTIONS").unwrap_or("3".into()),
        )
        .args([
            "test",
            "--release",
            "--package",
            "mm-testkit",
            "--no-fail-fast",
        ])
        .arg("--target-dir")
        .arg(paths::product("loom")?);
    Ok(command)
}

/// Returns the names of the models: the test targets of `tests/Cargo.toml` that stand in `loom/`.
///
/// # Errors
/// When a file of `tests/loom` is neither a target nor a module of one: it would never run.
pub fn models() -> Result<Vec<String>> {
    let tests = paths::root().join("tests");
    let manifest = std::fs::read_to_string(tests.join("Cargo.toml"))?;
    let targets = targets(&manifest);
    if !tests.join("loom").is_dir() {
        return Ok(Vec::new());
    }
    let mut sources = String::new();
    let mut files = Vec::new();
    for path in paths::rust_files(&tests.join("loom"))? {
        sources.push_str(&std::fs::read_to_string(&path)?);
        if let Some(stem) = path.file_stem() {
            files.push(stem.to_string_lossy().into_owned());
        }
    }
    for file in files {
        let is_target = targets.iter().any(|(_, path)| *path == file);
        if !is_target && !sources.contains(&format!("mod {file};")) {
            bail!("tests/loom/{file}.rs is no [[test]] of tests/Cargo.toml, so it never runs");
        }
    }
    Ok(targets.into_iter().map(|(name, _)| name).collect())
}

/// Returns the name of each `[[test]]` whose path is `loom/FILE.rs`, with that `FILE`.
fn targets(manifest: &str) -> Vec<(String, String)> {
    let value = |section: &str, key: &str| {
        section.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim().trim_matches('"').to_string())
        })
    };
    manifest
        .split("[[")
        .skip(1)
        .filter_map(|section| {
            let path = value(section, "path")?;
            let file = path.strip_prefix("loom/")?.strip_suffix(".rs")?;
            Some((value(section, "name")?, file.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::targets;

    #[test]
    fn models_are_the_targets_of_the_folder() {
        let manifest = "[package]\nname = \"x\"\n\n[[test]]\nname = \"loom_a\"\npath = \"loom/a.rs\"\n\n\
                        [[test]]\nname = \"b\"\npath = \"tests/b.rs\"\n[lints]\nworkspace = true\n";
        assert_eq!(targets(manifest), [("loom_a".to_string(), "a".to_string())]);
    }
}
