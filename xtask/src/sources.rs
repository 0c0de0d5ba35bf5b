//! Rules about the text of the sources that no compiler checks.
//!
//! - mm-core's imports go down only, along [`LAYERS`];
//! - `mm-core/src/sync` is the only place that names spin, loom or `core::sync::atomic`;
//! - mm-core knows no architecture: no `target_arch`;
//! - `unsafe` stands only in the files of [`UNSAFE_FILES`];
//! - no library links `alloc` or `std`;
//! - no place names what [`BOUNDARIES`] keeps from it;
//! - no package has syntax that is younger than the compiler that it promises ([`LET_CHAINS`]);
//! - nothing is left for later under [`FORBIDDEN`].
//!
//! Comments, strings and test code are taken out first ([`strip`]), so prose may say what it likes.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::paths;

/// mm-core's modules from the bottom up; a module imports from its own row or from rows below.
///
/// The library's root (`lib.rs`) names every module and is not checked.
const LAYERS: &[&[&str]] = &[
    &["addr", "range", "prot", "error", "stats", "sync"],
    &["format"],
    &["platform"],
    &["page"],
    &["cx"],
    &["pool", "tree"],
    &["tlb"],
    &["table"],
    &["vma", "rmap", "object", "swap", "mm"],
    &["reclaim", "ksm"],
    &["fault"],
    &["space", "validate"],
];

/// The imports that go up all the same, and why each must.
const UPWARD: &[(&str, &str, &str)] = &[
    (
        "platform",
        "page",
        "the platform hands out records, whose type it must name",
    ),
    (
        "platform",
        "pool",
        "the platform hands out slabs of nodes, whose type it must name",
    ),
    (
        "page",
        "pool",
        "what each CPU keeps lies in slabs of nodes, whose trait it must name",
    ),
    (
        "platform",
        "object",
        "the platform is told the key of a finished ticket",
    ),
    (
        "platform",
        "tlb",
        "the platform keeps the tags of spaces, which would not fit into a frame of the stack",
    ),
    (
        "tlb",
        "table",
        "the gather owns what a table gave up, by the table's own types",
    ),
];

/// The files in which `unsafe` may stand, and why each needs it.
const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "mm-core/src/format/mod.rs",
        "a format is believed: the trait is unsafe to implement",
    ),
    (
        "mm-core/src/format/tiny.rs",
        "implements the format's trait, for models and tests",
    ),
    (
        "mm-core/src/pool/heap.rs",
        "hands raw memory to the kernel's `alloc`",
    ),
    (
        "mm-core/src/platform/mem.rs",
        "the casts from a physical address to a reference",
    ),
    (
        "mm-core/src/platform/mod.rs",
        "a platform is believed: the trait is unsafe to implement",
    ),
    (
        "mm-core/src/space/active.rs",
        "which root a CPU has loaded is the kernel's word",
    ),
    ("mm-arm/src/armv7/native.rs", "instructions"),
    ("mm-arm/src/armv7/short.rs", "implements the format's trait"),
    ("mm-riscv/src/native.rs", "instructions"),
    ("mm-riscv/src/paging.rs", "implements the format's trait"),
    ("mm-x86_64/src/legacy/", "implements the format's trait"),
    (
        "mm-arm/src/aarch64/mod.rs",
        "a change of root has a condition",
    ),
    ("mm-arm/src/aarch64/native.rs", "instructions"),
    (
        "mm-arm/src/aarch64/paging.rs",
        "implements the format's trait",
    ),
    (
        "mm-arm/src/aarch64/tlb.rs",
        "a change of root has a condition",
    ),
    ("mm-arm/src/lpae.rs", "implements the format's trait"),
    ("mm-x86_64/src/native.rs", "instructions"),
    ("mm-x86_64/src/paging.rs", "implements the format's trait"),
];

/// What the code of one place may not name, and why.
const BOUNDARIES: &[(&[&str], &[&str], &str)] = &[
    (
        &["tests/src/mmu/", "tests/src/tlb.rs"],
        &["mm_x86_64", "mm_arm", "mm_riscv", "PageTableFormat"],
        "the software MMU is written from the manual, not from the code that it checks",
    ),
    (
        &["tests/src/mmu/"],
        &["mm_core::format::tiny"],
        "the same, for the tiny format",
    ),
    (
        &["tests/src/oracle.rs"],
        &[
            "mm_core::vma",
            "mm_core::tree",
            "mm_core::table",
            "AddressSpace",
        ],
        "the oracle is a map of pages: it shares no code with what it checks",
    ),
    (
        &["mm-x86_64/src", "mm-arm/src", "mm-riscv/src"],
        &[
            "mm_core::vma",
            "mm_core::space",
            "mm_core::fault",
            "mm_core::object",
            "mm_core::rmap",
            "mm_core::table",
            "mm_core::pool",
        ],
        "an architecture knows bits and instructions only",
    ),
    (
        &["examples/kernel"],
        &["mm_testkit", "feature = ", "doc(hidden)"],
        "a kernel uses the public interface only",
    ),
    (
        &[
            "mm-core/src",
            "mm-x86_64/src",
            "mm-arm/src",
            "mm-riscv/src",
            "mm-elf/src",
        ],
        &["doc(hidden)"],
        "what is public is documented: no back doors",
    ),
];

/// What may stand in no source file of ours.
const FORBIDDEN: &[(&str, &str)] = &[
    ("todo!(", "unfinished"),
    ("unimplemented!(", "unfinished"),
    ("dbg!(", "left from debugging"),
    ("# [ignore", "a test that does not run"),
];

/// Checks every rule over the tree at `root` and returns one line per breach.
pub fn breaches(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for library in paths::LIBRARIES {
        for (name, code) in read(root, &format!("{library}/src"))? {
            no_std(&name, &code, &mut found);
            unsafe_place(&name, &code, &mut found);
            for line in lines_with(&code, "::*;") {
                found.push(format!("{name}:{line}: glob import"));
            }
            if let Some(inner) = name.strip_prefix("mm-core/src/") {
                core_rules(&name, inner, &code, &mut found);
            }
        }
    }
    for dir in [
        "mm-core",
        "mm-x86_64",
        "mm-arm",
        "mm-riscv",
        "mm-elf",
        "tests",
        "examples",
        "xtask",
    ] {
        for path in paths::rust_files(&root.join(dir))? {
            let code = blank(&std::fs::read_to_string(&path)?);
            let name = shown(root, &path);
            boundaries(&name, &code, &mut found);
            if oldest_compiler(root, &path)? < LET_CHAINS {
                let_chains(&name, &code, &mut found);
            }
            for (text, why) in FORBIDDEN {
                let text = text.replace("# [", "#[");
                for line in lines_with(&code, &text) {
                    found.push(format!("{name}:{line}: `{text}`: {why}"));
                }
            }
        }
    }
    manifests(root, &mut found)?;
    Ok(found)
}

/// A kernel takes the libraries as they are published: what is open to tests alone is closed to it.
fn manifests(root: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(root.join("examples"))? {
        let path = entry?.path().join("Cargo.toml");
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let name = shown(root, &path);
        let at = |line| format!("{name}:{line}: a feature of a library, in an example");
        found.extend(features_of_libraries(&text).map(at));
    }
    Ok(())
}

/// Returns the lines that switch a feature of one of the libraries on.
fn features_of_libraries(manifest: &str) -> impl Iterator<Item = usize> {
    let numbered = manifest.lines().enumerate();
    let of_library = |line: &str| paths::LIBRARIES.iter().any(|name| line.starts_with(name));
    numbered
        .filter(move |(_, line)| of_library(line) && line.contains("features"))
        .map(|(at, _)| at + 1)
}

/// Returns the files below `dir` with comments, strings and tests taken out.
fn read(root: &Path, dir: &str) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for path in paths::rust_files(&root.join(dir))? {
        let name = shown(root, &path);
        if name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.contains("/tests/") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| name.clone())?;
        files.push((name, strip(&text)));
    }
    Ok(files)
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

fn no_std(name: &str, code: &str, found: &mut Vec<String>) {
    for text in [
        "extern crate alloc",
        "extern crate std",
        "use alloc::",
        "use std::",
    ] {
        for line in lines_with(code, text) {
            found.push(format!("{name}:{line}: `{text}` in a library"));
        }
    }
}

/// The minor version of Rust 1 that let chains came with; neither `rust-version` nor clippy's
/// `incompatible_msrv` sees syntax.
const LET_CHAINS: u32 = 88;

/// Returns the minor version of the oldest Rust 1 that the package of a source file promises to
/// compile with: what the nearest manifest above that says one says.
fn oldest_compiler(root: &Path, source: &Path) -> Result<u32> {
    let within = source.ancestors().take_while(|dir| dir.starts_with(root));
    for manifest in within.map(|dir| dir.join("Cargo.toml")) {
        let text = std::fs::read_to_string(&manifest).unwrap_or_default();
        if let Some(minor) = promised(&text) {
            return Ok(minor);
        }
    }
    bail!(
        "no manifest above {} names a rust-version",
        source.display()
    )
}

fn promised(manifest: &str) -> Option<u32> {
    let line = |line: &str| {
        line.strip_prefix("rust-version = \"1.")?
            .strip_suffix('"')?
            .parse()
            .ok()
    };
    manifest.lines().find_map(line)
}

fn let_chains(name: &str, code: &str, found: &mut Vec<String>) {
    for (line, word) in words(code) {
        if word != "if" && word != "while" {
            continue;
        }
        let start = word.as_ptr() as usize - code.as_ptr() as usize;
        if is_let_chain(&code[start + word.len()..]) {
            found.push(format!("{name}:{line}: a let chain needs Rust 1.88"));
        }
    }
}

/// Whether a condition, up to its block, has `let` and `&&` outside of brackets.
fn is_let_chain(condition: &str) -> bool {
    let (mut depth, mut ands, mut lets, mut before) = (0, false, false, ' ');
    for (at, c) in condition.char_indices() {
        let begins = !std::mem::replace(&mut before, c).is_alphanumeric();
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' | ';' if depth == 0 => break,
            // A match arm's guard.
            '=' if depth == 0 && condition[at..].starts_with("=> ") => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            '&' if depth == 0 => ands |= condition[at..].starts_with("&& "),
            'l' if depth == 0 && begins => lets |= condition[at..].starts_with("let "),
            _ => {}
        }
    }
    ands && lets
}

fn unsafe_place(name: &str, code: &str, found: &mut Vec<String>) {
    if UNSAFE_FILES
        .iter()
        .any(|(place, _)| name.starts_with(place))
    {
        return;
    }
    for line in words(code)
        .filter(|(_, word)| *word == "unsafe")
        .map(|(line, _)| line)
    {
        found.push(format!(
            "{name}:{line}: `unsafe` outside the files listed in {}",
            file!()
        ));
    }
}

fn boundaries(name: &str, code: &str, found: &mut Vec<String>) {
    for (places, texts, why) in BOUNDARIES {
        if !places.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for text in *texts {
            for line in lines_with(code, text) {
                found.push(format!("{name}:{line}: `{text}`: {why}"));
            }
        }
    }
}

fn core_rules(name: &str, inner: &str, code: &str, found: &mut Vec<String>) {
    let module = inner.split(['/', '.']).next().unwrap_or(inner);
    if module != "sync" {
        for text in [
            "core::sync::atomic",
            "spin::",
            "loom::",
            "use spin",
            "use loom",
        ] {
            for line in lines_with(code, text) {
                found.push(format!("{name}:{line}: `{text}` outside mm-core/src/sync"));
            }
        }
    }
    for line in lines_with(code, "target_arch") {
        found.push(format!("{name}:{line}: mm-core names an architecture"));
    }
    if inner == "lib.rs" {
        return;
    }
    let Some(own) = layer(module) else {
        found.push(format!(
            "{name}: module `{module}` has no row in LAYERS of {}",
            file!()
        ));
        return;
    };
    for (line, used) in imports(code) {
        match layer(&used) {
            Some(row) if row > own && !goes_up(module, &used) => found.push(format!(
                "{name}:{line}: `{module}` (row {own}) imports `{used}` (row {row}): imports go down only"
            )),
            _ => {}
        }
    }
}

fn goes_up(module: &str, used: &str) -> bool {
    UPWARD
        .iter()
        .any(|(from, to, _)| *from == module && *to == used)
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Returns the modules that `code` names after `crate::`, with their lines.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut rest = code;
    let mut line = 1;
    while let Some(at) = rest.find("crate::") {
        let (before, after) = rest.split_at(at);
        line += before.matches('\n').count();
        rest = &after["crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_heads(group).into_iter().map(|head| (line, head)));
        } else {
            found.push((line, identifier(rest)));
        }
    }
    found.retain(|(_, name)| name.chars().next().is_some_and(char::is_lowercase));
    found
}

/// Returns the first identifiers of the items of a `{a::b, c::{d, e}}` group.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && !letter.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn lines_with(code: &str, text: &str) -> Vec<usize> {
    let boundary = text.starts_with(|c: char| c.is_alphanumeric());
    code.lines()
        .enumerate()
        .filter(|(_, line)| {
            line.match_indices(text).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !(boundary && before.is_some_and(|c| c.is_alphanumeric() || c == '_'))
            })
        })
        .map(|(at, _)| at + 1)
        .collect()
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(at, line)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .map(move |word| (at + 1, word))
    })
}

/// Takes comments, strings and what follows `#[cfg(test)]` out of a source; lines keep their number.
pub fn strip(text: &str) -> String {
    without_tests(&blank(text))
}

/// Blanks comments and the contents of strings and character literals.
fn blank(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let get = |at: usize| letters.get(at).copied().unwrap_or('\0');
    while at < letters.len() {
        let end = match (get(at), get(at + 1)) {
            ('/', '/') => find(&letters, at, |rest| rest.starts_with(&['\n'])),
            ('/', '*') => block_comment(&letters, at),
            ('"', _) => string(&letters, at),
            ('r', '"' | '#') if !before_is_word(&letters, at) => raw_string(&letters, at),
            ('\'', '\\') => find(&letters, at + 3, |rest| rest.starts_with(&['\''])) + 1,
            ('\'', _) if get(at + 2) == '\'' => at + 3,
            _ => at,
        };
        if end > at {
            let skipped = letters.get(at..end.min(letters.len())).unwrap_or(&[]);
            out.extend(skipped.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(get(at));
            at += 1;
        }
    }
    out
}

fn find(letters: &[char], from: usize, hit: impl Fn(&[char]) -> bool) -> usize {
    (from..letters.len())
        .find(|at| letters.get(*at..).is_some_and(&hit))
        .unwrap_or(letters.len())
}

fn block_comment(letters: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < letters.len() {
        let rest = letters.get(at..).unwrap_or(&[]);
        if rest.starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest.starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string(letters: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(letter) = letters.get(at) {
        match letter {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Returns the end of a raw string, or `from` when this is a raw identifier.
fn raw_string(letters: &[char], from: usize) -> usize {
    let hashes = letters
        .iter()
        .skip(from + 1)
        .take_while(|c| **c == '#')
        .count();
    if letters.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    find(letters, from + hashes + 2, |rest| rest.starts_with(&close)) + close.len()
}

fn before_is_word(letters: &[char], at: usize) -> bool {
    at.checked_sub(1)
        .and_then(|before| letters.get(before))
        .is_some_and(|c| c.is_alphanumeric() || *c == '_')
}

/// Blanks each item that stands behind a `#[cfg(..)]` which names `test` and does not negate it.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(") {
        let (before, item) = rest.split_at(at);
        out.push_str(before);
        let attribute = item.find(")]").map_or(item.len(), |end| end + 2);
        let condition = &item[..attribute];
        let tests =
            words(condition).any(|(_, word)| word == "test") && !condition.contains("not(test");
        let end = if tests { item_end(item) } else { attribute };
        if tests {
            out.extend(
                item[..end]
                    .chars()
                    .map(|c| if c == '\n' { '\n' } else { ' ' }),
            );
        } else {
            out.push_str(condition);
        }
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in item.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// Returns the breaches as one text for an error.
pub fn listed(breaches: &[String]) -> String {
    let mut text = String::new();
    for breach in breaches {
        let _ = writeln!(text, "  {breach}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        boundaries, core_rules, features_of_libraries, imports, let_chains, promised, strip,
        unsafe_place,
    };

    #[test]
    fn a_manifest_promises_a_compiler_or_leaves_it_to_the_workspace() {
        assert_eq!(promised("[package]\nrust-version = \"1.88\"\n"), Some(88));
        assert_eq!(promised("rust-version.workspace = true\n"), None);
    }

    #[test]
    fn a_feature_of_a_library_is_found_in_a_manifest() {
        let text = "spin = { features = [] }\nmm-core = { path = \"p\", features = [\"validate\"] }\n\
                    mm-elf = { path = \"q\" }\n";
        assert_eq!(features_of_libraries(text).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn prose_and_strings_are_not_code() {
        let code = strip(
            "// unsafe\n/* unsafe /* nested */ unsafe */ let a = \"unsafe \\\" unsafe\";\n\
             let b = r#\"unsafe \" \"#; let c = '\"'; fn f<'a>(x: &'a str) { unsafe {} }",
        );
        assert_eq!(code.matches("unsafe").count(), 1, "{code}");
        assert_eq!(code.lines().count(), 3);
    }

    #[test]
    fn test_modules_are_not_library_code() {
        let code = strip("fn a() {}\n#[cfg(test)]\nmod tests { fn b() { {} } }\nfn c() {}\n");
        assert!(!code.contains("fn b"));
        assert!(code.contains("fn a") && code.contains("fn c"));
        assert!(!strip("#[cfg(test)]\nmod tests;\nfn d() {}").contains("mod tests"));
        let code = strip(
            "#[cfg(all(test, not(loom)))]\nmod t { fn e() {} }\n#[cfg(not(test))]\nfn f() {}",
        );
        assert!(!code.contains("fn e") && code.contains("fn f"));
    }

    #[test]
    fn imports_are_found_in_groups_and_in_paths() {
        let found: Vec<String> = imports(
            "use crate::{addr::VirtAddr, table::{Cursor, node}};\nlet x = crate::space::y();",
        )
        .into_iter()
        .map(|(_, name)| name)
        .collect();
        assert_eq!(found, ["addr", "table", "space"]);
    }

    #[test]
    fn the_software_mmu_may_not_ask_the_code_it_checks() {
        let mut found = Vec::new();
        boundaries("tests/src/mmu/pae.rs", "use mm_x86_64::Paging;", &mut found);
        boundaries("tests/src/world.rs", "use mm_x86_64::Paging;", &mut found);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn upward_imports_and_foreign_atomics_are_breaches() {
        let mut found = Vec::new();
        core_rules(
            "mm-core/src/table/walk.rs",
            "table/walk.rs",
            "use crate::vma::Vma;",
            &mut found,
        );
        core_rules(
            "mm-core/src/vma/mod.rs",
            "vma/mod.rs",
            "use crate::table::X;",
            &mut found,
        );
        assert_eq!(found.len(), 1, "{found:?}");
        core_rules(
            "mm-core/src/vma/mod.rs",
            "vma/mod.rs",
            "use core::sync::atomic::X;",
            &mut found,
        );
        core_rules("mm-core/src/nosuch.rs", "nosuch.rs", "", &mut found);
        assert_eq!(found.len(), 3, "{found:?}");
        unsafe_place("mm-elf/src/lib.rs", "fn f() { unsafe { g() } }", &mut found);
        unsafe_place("mm-elf/src/lib.rs", "#![deny(unsafe_code)]", &mut found);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn let_chains_are_breaches_and_other_conditions_are_not() {
        for (code, chain) in [
            ("if let Some(a) = b && c { d }", true),
            ("while a < b\n    && let Some(c) = d() { e }", true),
            ("if let Some(a) = f(|x| x && y) { d }", false),
            ("if let Some(a) = b.filter(|x| { x && y }) { d }", false),
            ("if a && b { let c = d; }", false),
            ("if outlet && b { d }", false),
            ("a if b && c => d, _ => e }; let f = g;", false),
        ] {
            let mut found = Vec::new();
            let_chains("a.rs", code, &mut found);
            assert_eq!(!found.is_empty(), chain, "{code}: {found:?}");
        }
    }
}
