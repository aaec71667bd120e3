//! How the program is linked: with its relative relocations packed, where this machine's C library can unpack
//! them, and with the unwinder of the compiler's library in it, where that is at hand. A start executes the
//! program twice.
//!
//! It has some 25,000 relocations, tables of methods mostly: a list of 600 KiB, or a bitmap of nine
//! (`DT_RELR`), which is read at every execution. Where things lie stays as random as it was. glibc reads the
//! bitmap since 2.36; the linker notes that in the program (`GLIBC_ABI_DT_RELR`), so that an older one
//! refuses it with words. What is built with an older one, or for another system than this, is linked as
//! ever.
//!
//! `libgcc_s.so` is loaded for the functions that unwind a panic, and for nothing else: an eighth of a
//! millisecond an execution. The same are in `libgcc_eh.a`, which comes with gcc. The standard library names
//! the shared one, so the linker finds a script of that name first.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first glibc that reads the bitmap.
const SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_native = env::var("TARGET").is_ok_and(|target| env::var("HOST").is_ok_and(|host| host == target));
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|library| library == "gnu");
    if !is_native || !is_gnu {
        return;
    }
    if glibc().is_some_and(|version| version >= SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if has_static_unwinder() {
        static_unwinder();
    }
}

/// Whether the linker will find it: the compiler tells an archive's whole path, or its name again if it has
/// none.
fn has_static_unwinder() -> bool {
    let told = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    told.ok()
        .and_then(|told| String::from_utf8(told.stdout).ok())
        .is_some_and(|path| Path::new(path.trim()).is_absolute())
}

/// Stands between the linker and the shared library.
fn static_unwinder() {
    let Some(directory) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    if std::fs::write(directory.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n").is_ok() {
        println!("cargo::rustc-link-search=native={}", directory.display());
    }
}

/// This machine's glibc (getconf(1), which comes with it); `None` where that can't be told.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let told = String::from_utf8(told).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
