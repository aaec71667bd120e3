//! How much an image may be and do. Real images stay far below; docs/limits.md has a row for each.

/// Bytes of an index, a manifest or a config: registries refuse more than 4 MiB.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Layers: Docker stops at 127.
pub(super) const MAX_LAYERS: usize = 256;
/// Entries of all layers together, and directories made without an entry: a large language toolchain has a
/// few hundred thousand.
pub(crate) const MAX_ENTRIES: u64 = 2_000_000;
/// Bytes of one file.
pub(crate) const MAX_FILE: u64 = 8 << 30;
/// Bytes of all layers together, unpacked.
pub(super) const MAX_UNPACKED: u64 = 64 << 30;
/// How many times its compressed size a layer may unpack to, once that is more than [`FREE_UNPACKED`].
pub(super) const MAX_EXPANSION: u64 = 200;
/// Bytes that a layer may always unpack to, whatever its compressed size: empty files compress without bound.
pub(super) const FREE_UNPACKED: u64 = 64 << 20;
/// Bytes of one path (`PATH_MAX`, in which a NUL is counted: a link's target has one less).
pub(crate) const MAX_PATH: usize = 4096;
/// Bytes of one component (`NAME_MAX` of every filesystem).
pub(crate) const MAX_NAME: usize = 255;
/// Components of one path: each takes a descriptor while a tree is removed.
pub(crate) const MAX_DEPTH: usize = 128;
/// Bytes of one extended header: it holds two paths, and attributes that we drop.
pub(super) const MAX_EXTENSION: u64 = 1 << 20;
/// Members of an archive that holds a layout: one for each blob.
pub(super) const MAX_MEMBERS: usize = 4096;
/// Bytes of memory that zstd may keep as its window; `zstd --ultra` wants as much.
pub(super) const MAX_WINDOW: u64 = 128 << 20;
/// Address space of the unpacking process, bytes.
pub(crate) const MAX_MEMORY: u64 = 2 << 30;
