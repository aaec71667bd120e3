//! The documents of an OCI image, as far as unpacking one reads them (image-spec v1.1: image-layout.md,
//! image-index.md, manifest.md, config.md). Our own structures instead of a crate's: there are eight, and a
//! field that isn't read can't mislead.

use super::refused;
use super::{Digest, ImageError};
use serde::Deserialize;

/// Points at a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) annotations: Annotations,
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    pub(super) fn digest(&self) -> Result<Digest, ImageError> {
        self.digest.parse()
    }
}

/// The name that a layout's index gives an image.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Annotations {
    #[serde(rename = "org.opencontainers.image.ref.name")]
    pub(super) name: Option<String>,
    #[serde(rename = "io.containerd.image.name")]
    pub(super) full_name: Option<String>,
}

/// The machine that a manifest in an index is for.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// An index or a manifest: its members tell which.
#[derive(Debug, Deserialize)]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// What a pinned digest may lead to.
pub(super) enum Pinned {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// An image's config and layers, lowest first.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// The parts of an image's config that are read: the machine that it is for, and the digests of its
/// uncompressed layers.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) rootfs: Rootfs,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rootfs {
    pub(super) diff_ids: Vec<String>,
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| refused(format!("{what} is not what it should be: {error}")))
}

pub(super) fn pinned(bytes: &[u8]) -> Result<Pinned, ImageError> {
    let document: Document = parse(bytes, "the pinned document")?;
    match (document.manifests, document.config, document.layers) {
        (Some(manifests), None, None) => Ok(Pinned::Index(manifests)),
        (None, Some(config), Some(layers)) => Ok(Pinned::Manifest(Manifest { config, layers })),
        _ => Err(refused("the pinned document is neither an image index nor an image manifest")),
    }
}

pub(super) fn index(bytes: &[u8]) -> Result<Vec<Descriptor>, ImageError> {
    let document: Document = parse(bytes, "index.json")?;
    document.manifests.ok_or_else(|| refused("index.json lists no manifests"))
}

pub(super) fn config(bytes: &[u8]) -> Result<Config, ImageError> {
    let config: Config = parse(bytes, "the image's config")?;
    if config.os != "linux" || config.architecture != architecture() {
        return Err(refused(format!(
            "it is for {}/{}, and this machine is linux/{}",
            config.os,
            config.architecture,
            architecture()
        )));
    }
    Ok(config)
}

/// Returns the first manifest of an index that is for this machine.
pub(super) fn for_this_machine(manifests: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let mut ours = manifests.iter().filter(|one| one.platform.as_ref().is_some_and(Platform::is_ours));
    let found = ours.next().or(match manifests {
        // The only manifest of an index need not name a platform: the image's config does.
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    });
    found.ok_or_else(|| refused(format!("its index has no image for linux/{}", architecture())))
}

/// This machine's architecture as images name it (Go's names).
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
