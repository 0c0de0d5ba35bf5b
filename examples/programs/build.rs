//! Links the programs at fixed addresses: nothing relocates a program without a C library.

fn main() {
    // Later flags win over the target's `-pie`.
    println!("cargo:rustc-link-arg-bins=--no-pie");
}
