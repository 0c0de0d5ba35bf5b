//! Where things stand in the repository and where the products go.

use std::path::{Path, PathBuf};

/// The libraries: what is published, in the order in which they depend on each other.
pub const LIBRARIES: [&str; 5] = ["mm-core", "mm-x86_64", "mm-arm", "mm-riscv", "mm-elf"];

/// Packages of their own, outside the workspace, that run and are tested on the host.
pub const OUTSIDE_HOST: [&str; 2] = ["examples/kernel", "examples/kernel-virt"];

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Returns the directory of a product under `target/`, which is made when it is not there.
pub fn product(name: &str) -> std::io::Result<PathBuf> {
    let dir = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
        .join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Returns every file below `dir` whose name ends in `.rs`, sorted.
pub fn rust_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
