//! How the program is linked: with its relative relocations packed, where this machine's C library can unpack them.
//!
//! It has some 25,000 of them, tables of methods mostly: a list of 600 KiB, or a bitmap of nine (`DT_RELR`), which is read at every
//! execution, and a start executes the program twice. Where things lie stays as random as it was. glibc reads the bitmap since 2.36;
//! the linker notes that in the program (`GLIBC_ABI_DT_RELR`), so that an older one refuses it with words. What is built with an older
//! one, or for another system than this, is linked as ever.

use std::env;
use std::process::Command;

/// The first glibc that reads the bitmap.
const SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_native = env::var("TARGET").is_ok_and(|target| env::var("HOST").is_ok_and(|host| host == target));
    let is_gnu = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|library| library == "gnu");
    if is_native && is_gnu && glibc().is_some_and(|version| version >= SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// This machine's glibc (getconf(1), which comes with it); `None` where that can't be told.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let told = String::from_utf8(told).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
