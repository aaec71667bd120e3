//! Builds layers byte by byte, and layouts around them.

use super::super::layout::Layout;
use super::super::{Digest, ImageError, oci, unpack};
use sha2::{Digest as _, Sha256};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// How a layer is stored.
#[derive(Clone, Copy, PartialEq)]
pub enum Stored {
    Plain,
    Gzip,
    Zstd,
}

/// One header with its content. Nothing is checked, so that every malformed entry can be built.
pub fn entry(name: &[u8], kind: u8, target: &[u8], mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, format!("{:011o}\0", 1_700_000_000).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn file(name: &str, content: &str) -> Vec<u8> {
    entry(name.as_bytes(), b'0', b"", 0o644, content.as_bytes())
}

pub fn dir(name: &str) -> Vec<u8> {
    entry(name.as_bytes(), b'5', b"", 0o755, b"")
}

pub fn link(name: &str, target: &str) -> Vec<u8> {
    entry(name.as_bytes(), b'2', target.as_bytes(), 0o777, b"")
}

pub fn hard(name: &str, target: &str) -> Vec<u8> {
    entry(name.as_bytes(), b'1', target.as_bytes(), 0o644, b"")
}

/// A pax extended header.
pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while format!("{length}{body}").len() != length {
        length += 1;
    }
    entry(b"pax", b'x', b"", 0o644, format!("{length}{body}").as_bytes())
}

/// The bytes of an archive, with its end.
pub fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layout's blobs.
#[derive(Default)]
pub struct Image {
    pub blobs: Vec<(String, Vec<u8>)>,
    pub index: String,
    pub pinned: String,
}

impl Image {
    /// An image of these plain layers.
    pub fn of(layers: &[Vec<u8>], stored: Stored) -> Self {
        Self::described(layers, stored, |_| {})
    }

    /// The same, with its documents changed before their digests are taken.
    pub fn described(layers: &[Vec<u8>], stored: Stored, change: impl Fn(&mut Described)) -> Self {
        let mut image = Self::default();
        let mut described = Described {
            config: serde_json::json!({
                "os": "linux", "architecture": oci::architecture(),
                "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| digest(l)).collect::<Vec<_>>() },
            }),
            manifest: serde_json::json!({ "schemaVersion": 2, "layers": [] }),
        };
        for plain in layers {
            let (bytes, suffix) = match stored {
                Stored::Plain => (plain.clone(), ""),
                Stored::Gzip => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(plain).unwrap();
                    (encoder.finish().unwrap(), "+gzip")
                }
                Stored::Zstd => {
                    // Two frames and one to be skipped, as parallel writers make them.
                    let (one, two) = plain.split_at(plain.len() / 2);
                    let pack = |part: &[u8]| {
                        ruzstd::encoding::compress_to_vec(part, ruzstd::encoding::CompressionLevel::Fastest)
                    };
                    let skipped = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc".to_vec();
                    ([pack(one), skipped, pack(two)].concat(), "+zstd")
                }
            };
            let descriptor = serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                "digest": digest(&bytes), "size": bytes.len(),
            });
            described.manifest["layers"].as_array_mut().unwrap().push(descriptor);
            image.blobs.push((digest(&bytes), bytes));
        }
        change(&mut described);
        let config = described.config.to_string().into_bytes();
        described.manifest["config"] = serde_json::json!({
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len(),
        });
        let manifest = described.manifest.to_string().into_bytes();
        image.pinned = digest(&manifest);
        image.index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.pinned, "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }]})
        .to_string();
        image.blobs.push((digest(&config), config));
        image.blobs.push((image.pinned.clone(), manifest));
        image
    }

    /// As one archive.
    pub fn archive(&self) -> Vec<u8> {
        let mut entries =
            vec![file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", &self.index)];
        let blobs: std::collections::BTreeMap<_, _> = self.blobs.iter().cloned().collect();
        for (name, bytes) in &blobs {
            let name = format!("blobs/sha256/{}", name.trim_start_matches("sha256:"));
            entries.push(entry(name.as_bytes(), b'0', b"", 0o644, bytes));
        }
        tar(&entries)
    }
}

pub struct Described {
    pub config: serde_json::Value,
    pub manifest: serde_json::Value,
}

/// A directory with a victim beside the root that is filled.
pub struct Ground {
    pub dir: tempfile::TempDir,
}

impl Ground {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/victim"), "untouched").unwrap();
        Self { dir }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn unpack(&self, image: &Image) -> Result<String, ImageError> {
        let path = self.dir.path().join("image.tar");
        std::fs::write(&path, image.archive()).unwrap();
        let layout = Layout::of(std::fs::File::open(path).unwrap())?;
        let root = std::fs::File::open(self.root()).unwrap();
        let pinned: Digest = image.pinned.parse()?;
        unpack::unpack(&layout, pinned, root.as_fd())
    }

    pub fn layers(&self, layers: &[Vec<Vec<u8>>]) -> Result<String, ImageError> {
        let layers: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
        self.unpack(&Image::of(&layers, Stored::Plain))
    }

    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root().join(name)).ok()
    }

    /// Nothing outside the root has changed.
    pub fn assert_untouched(&self) {
        assert_eq!(std::fs::read_to_string(self.dir.path().join("outside/victim")).unwrap(), "untouched");
        let outside: Vec<_> = std::fs::read_dir(self.dir.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(self.dir.path().join("outside/victim")).unwrap().nlink(), 1);
    }
}

/// Unpacks one layer that must be refused, and gives what was said.
#[track_caller]
pub fn refused(entries: Vec<Vec<u8>>) -> String {
    let ground = Ground::new();
    // The living control: the same image without the last entry is taken.
    let (_, before) = entries.split_last().unwrap();
    ground.layers(&[before.to_vec()]).unwrap();
    let again = Ground::new();
    let said = again.layers(&[entries]).unwrap_err().to_string();
    again.assert_untouched();
    said
}
