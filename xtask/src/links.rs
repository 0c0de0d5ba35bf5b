//! Links between the documents of the repository: each must lead to a file.

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
    use super::targets;

    #[test]
    fn only_links_to_files_count() {
        let text = "[a](b.md) [c](https://x/y) [d](#here) [e](f/g.md#h) `x[i](j k)`";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["b.md", "f/g.md"]);
    }
}
