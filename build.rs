//! How the program is linked, so that executing it costs little: a start does it twice.
//!
//! - **Its relative relocations are packed** where this machine's C library can unpack them. There are some
//!   25,000, tables of methods mostly: a list of 600 KiB, or a bitmap of nine (`DT_RELR`), which is read at
//!   every execution. Where things lie stays as random as it was. glibc reads the bitmap since 2.36; the
//!   linker notes that in the program (`GLIBC_ABI_DT_RELR`), so that an older one refuses it with words.
//! - **Its file is written at once**, not through a mapping, where the linker is LLD, as rustc's own is. The
//!   kernel keeps a file in memory in pieces as large as it was written in, and maps a large piece for little
//!   more than the price of a page, which is a seventh of a start (docs/performance.md). The file stays the
//!   same, byte for byte.
//! - **The unwinder of the compiler's library is in it**, where that is at hand. `libgcc_s.so` is loaded for
//!   the functions that unwind a panic, and for nothing else: an eighth of a millisecond an execution. The
//!   same are in `libgcc_eh.a`, which comes with gcc. The standard library names the shared one, so the
//!   linker finds a script of that name first.
//!
//! What is built for another system than this, or by a linker that knows none of it, is linked as ever.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first glibc that reads the bitmap.
const SINCE: (u32, u32) = (2, 36);
/// Writes the output by write(2). Since LLD 21 this option and its opposite have exchanged their meaning
/// (LLVM issue 207459); wherever it means what it says, it is the default, and changes nothing.
const WRITTEN_AT_ONCE: &str = "-Wl,--mmap-output-file";

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
    if links_with(WRITTEN_AT_ONCE) {
        println!("cargo::rustc-link-arg-bins={WRITTEN_AT_ONCE}");
    }
    if has_static_unwinder() {
        static_unwinder();
    }
}

/// Whether the linker that this program will get takes the argument: tried on a program that does nothing.
fn links_with(argument: &str) -> bool {
    let (Some(rustc), Some(directory)) = (env::var_os("RUSTC"), env::var_os("OUT_DIR").map(PathBuf::from))
    else {
        return false;
    };
    let source = directory.join("nothing.rs");
    if std::fs::write(&source, "fn main() {}\n").is_err() {
        return false;
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut command = Command::new(rustc);
    command.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut told = std::ffi::OsString::from("linker=");
        told.push(linker);
        command.arg("-C").arg(told);
    }
    command
        .arg("-C")
        .arg(format!("link-arg={argument}"))
        .arg(&source)
        .arg("-o")
        .arg(directory.join("nothing"));
    command.output().is_ok_and(|done| done.status.success())
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
