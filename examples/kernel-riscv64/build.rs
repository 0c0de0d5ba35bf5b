//! Hands the linker script to the linker, so that a plain `cargo build` links a bootable file.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg-bins=--script={folder}/linker.ld");
    // The kernel runs where it is linked.
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
    println!("cargo:rerun-if-changed=linker.ld");
}
