//! Links GCC's unwinder into the `zdsup` program where it can be had as an archive. As a shared library it takes the
//! dynamic loader 0.15 ms of each start, and `zdsup reload` starts zdsup twice: as the command, and as the process that
//! becomes the service.
//!
//! rustc asks the linker for `libgcc_s` by name, so that is what it finds: a linker script that asks for the archive
//! instead. Only the program is concerned, not those that use the library.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let of_glibc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if env::var_os("CARGO_FEATURE_SUPERVISOR").is_none() || !of_glibc || !has_archive() {
        return;
    }
    let Some(directory) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    if fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh)\n").is_ok() {
        println!("cargo:rustc-link-arg-bin=zdsup=-L{}", directory.display());
    }
}

/// Whether the linker knows where the archive is: GCC and clang answer with its path then, else with the bare name.
fn has_archive() -> bool {
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let answer = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output();
    answer.is_ok_and(|answer| Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_absolute())
}
