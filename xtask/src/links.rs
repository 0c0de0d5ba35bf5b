//! What the documents of the repository name: links must lead to a file, names of tests and
//! functions to one.

use std::path::Path;

use anyhow::Result;

use crate::paths;

/// Returns one line per link in a document that leads nowhere in the tree at `root`.
pub fn broken(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for dir in [""].into_iter().chain(paths::LIBRARIES) {
        for entry in std::fs::read_dir(root.join(dir))? {
            let path = entry?.path();
            if path.extension().is_none_or(|ext| ext != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            for target in targets(&text) {
                let below = path.parent().unwrap_or(root).join(target);
                if !below.exists() {
                    let name = path.strip_prefix(root).unwrap_or(&path).display();
                    found.push(format!("{name}: the link to `{target}` leads nowhere"));
                }
            }
        }
    }
    Ok(found)
}

/// The documents that say which test shows what.
const EVIDENCE: [&str; 2] = ["ARCHITECTURE.md", "LOCKING.md"];

/// Returns one line per name in those documents that no function and no mutant has.
pub fn unknown_names(root: &Path) -> Result<Vec<String>> {
    let mut sources = String::new();
    for dir in paths::LIBRARIES
        .into_iter()
        .chain(["tests", "examples", "xtask"])
    {
        for path in paths::rust_files(&root.join(dir))? {
            sources.push_str(&std::fs::read_to_string(path)?);
        }
    }
    let mut found = Vec::new();
    for document in EVIDENCE {
        let text = std::fs::read_to_string(root.join(document))?;
        for name in names(&text) {
            let function = format!("fn {name}(");
            let generic = format!("fn {name}<");
            let mutant = format!("mm_mutant = \"{name}\"");
            if ![function, generic, mutant]
                .iter()
                .any(|is| sources.contains(is))
            {
                found.push(format!("{document}: nothing is called `{name}`"));
            }
        }
    }
    Ok(found)
}

/// Returns the words between backquotes that have the form of a test's name: words of small
/// letters, three at least.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|name| {
        let is_of_names = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.chars().all(is_of_names) && name.matches('_').count() >= 2
    })
}

/// Returns the targets of `[text](target)` that are files, without their `#fragment`.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| {
            !target.is_empty() && !target.contains("://") && !target.contains(char::is_whitespace)
        })
}

#[cfg(test)]
mod tests {
    use super::{names, targets};

    #[test]
    fn names_are_words_between_backquotes() {
        let text = "`a_b_c` and d_e_f\n`g::h_i_j` `K_L_M` `n_o` | `p_q_2`";
        assert_eq!(names(text).collect::<Vec<_>>(), ["a_b_c", "p_q_2"]);
    }

    #[test]
    fn only_links_to_files_count() {
        let text = "[a](b.md) [c](https://x/y) [d](#here) [e](f/g.md#h) `x[i](j k)`";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["b.md", "f/g.md"]);
    }
}
