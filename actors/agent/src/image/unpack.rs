//! Unpacks a pinned image. The digest verifies the manifest, the manifest the config and the stored layers,
//! the config each layer's plain bytes. Nothing is believed that isn't verified from the pinned digest.

use super::bounds::{FREE_UNPACKED, MAX_EXPANSION, MAX_LAYERS, MAX_UNPACKED};
use super::layer::{self, Tally};
use super::layout::Layout;
use super::oci::{self, Descriptor, Manifest, Pinned};
use super::tree::Tree;
use super::verify::{Size, Verified};
use super::{Digest, ImageError, refused};
use std::os::fd::BorrowedFd;

/// Unpacks into an empty directory; returns a text of what was left out, empty if nothing was.
pub(super) fn unpack(layout: &Layout, pinned: Digest, into: BorrowedFd<'_>) -> Result<String, ImageError> {
    let manifest = manifest(layout, pinned)?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(ImageError::TooMuch { what: "the number of layers".into(), limit: MAX_LAYERS as u64 });
    }
    let config = &manifest.config;
    let config = oci::config(&layout.document(config.digest()?, Some(config.size), "its config")?)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(refused("its config and its manifest tell of different numbers of layers"));
    }
    let mut tally = Tally::default();
    let mut left = MAX_UNPACKED;
    for (number, (descriptor, diff_id)) in manifest.layers.iter().zip(&config.rootfs.diff_ids).enumerate() {
        let name = format!("layer {} of {} ({})", number + 1, manifest.layers.len(), descriptor.digest);
        let size =
            one_layer(layout, descriptor, diff_id.parse()?, (&name, left), Tree::new(into), &mut tally)
                .map_err(|error| name_layer(&name, error))?;
        left = left.saturating_sub(size);
    }
    Ok(match tally.skipped {
        0 => String::new(),
        skipped => format!("{skipped} devices or named pipes of the image were left out"),
    })
}

fn one_layer(
    layout: &Layout,
    descriptor: &Descriptor,
    diff_id: Digest,
    (name, left): (&str, u64),
    tree: Tree<'_>,
    tally: &mut Tally,
) -> Result<u64, ImageError> {
    let mut stored = layout.blob(descriptor.digest()?, Size::Exactly(descriptor.size), name.to_owned())?;
    let most = FREE_UNPACKED.max(descriptor.size.saturating_mul(MAX_EXPANSION)).min(left);
    let decoded = oci_decoder(&descriptor.media_type, &mut stored)?;
    let mut plain = Verified::new(decoded, diff_id, Size::AtMost(most), format!("{name}, unpacked,"));
    let applied = layer::apply(tree, &mut plain, tally);
    // A wrong digest is reported first, whatever errors the changed bytes caused in the archive.
    let plain = plain.finish();
    stored.finish()?;
    applied?;
    plain
}

fn oci_decoder<'a>(
    media_type: &str,
    stored: impl std::io::Read + 'a,
) -> Result<Box<dyn std::io::Read + 'a>, ImageError> {
    super::decode::decoder(media_type, stored)
}

fn name_layer(name: &str, error: ImageError) -> ImageError {
    match error {
        ImageError::Refused(why) if !why.starts_with(name) => refused(format!("{name}: {why}")),
        ImageError::TooMuch { what, limit } => ImageError::TooMuch { what: format!("{name}: {what}"), limit },
        other => other,
    }
}

fn manifest(layout: &Layout, pinned: Digest) -> Result<Manifest, ImageError> {
    match oci::pinned(&layout.document(pinned, None, "the pinned manifest")?)? {
        Pinned::Manifest(manifest) => Ok(manifest),
        Pinned::Index(manifests) => {
            let chosen = oci::for_this_machine(&manifests)?;
            let bytes = layout.document(chosen.digest()?, Some(chosen.size), "its manifest")?;
            match oci::pinned(&bytes)? {
                Pinned::Manifest(manifest) => Ok(manifest),
                Pinned::Index(_) => Err(refused("its index leads to another index")),
            }
        }
    }
}

/// Lists what could be pinned: a line for each image of a layout, or for the one that a tag names now.
pub(super) fn candidates(layout: &Layout, path: &str, tag: Option<&str>) -> Result<String, ImageError> {
    /// Bounds the images listed: a layout of more belongs to a registry, whose operator knows the digest.
    const SHOWN: usize = 16;
    let all = oci::index(&layout.named("index.json")?)?;
    let names = |one: &Descriptor| [one.annotations.name.clone(), one.annotations.full_name.clone()];
    let means = |one: &&Descriptor, tag: &str| {
        names(one).into_iter().flatten().any(|name| name == tag || name.ends_with(&format!(":{tag}")))
    };
    let tagged: Vec<&Descriptor> = all.iter().filter(|one| tag.is_none_or(|tag| means(one, tag))).collect();
    let shown: Vec<&Descriptor> = if tagged.is_empty() { all.iter().collect() } else { tagged };
    let lines: Result<Vec<String>, ImageError> = shown
        .iter()
        .take(SHOWN)
        .map(|one| {
            let name = names(one)
                .into_iter()
                .flatten()
                .next_back()
                .map(|name| format!("   # {}", super::entry::shown(name.as_bytes()).escape_debug()));
            Ok(format!("--root {path}@{}{}", one.digest()?, name.unwrap_or_default()))
        })
        .collect();
    let lines = lines?;
    let typed = tag.map_or(path.to_owned(), |tag| format!("{path}:{tag}"));
    match lines.as_slice() {
        [] => Err(refused(format!("{typed} lists no image in its index.json"))),
        [only] => Ok(format!("{typed} may be another image tomorrow; pin it: {only}")),
        several => Ok(format!("{typed} may be another image tomorrow; pin one:\n  {}", several.join("\n  "))),
    }
}
