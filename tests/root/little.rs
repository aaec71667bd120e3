//! A root made of a few programs, and an image of it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bed::Stage;
use sha2::{Digest, Sha256};

/// The whole of the little root's `/usr/bin`.
pub const PROGRAMS: &[&str] = &["sh", "cat", "ls", "touch", "mkdir", "sleep"];

/// A root made of a few of this machine's programs and their libraries; nothing else of `/usr` is in it.
pub fn tree(stage: &Stage) -> Result<PathBuf> {
    let tree = stage.dir().join("tree");
    for dir in ["usr/bin", "usr/share", "etc/ssl/certs", "opt"] {
        std::fs::create_dir_all(tree.join(dir))?;
    }
    for program in PROGRAMS {
        let Some(path) = bed::stage::program(program) else { bed::skip!("no {program} on this machine") };
        let path = std::fs::canonicalize(path)?;
        std::fs::copy(&path, tree.join("usr/bin").join(program))?;
        let listed = std::process::Command::new("ldd").arg(&path).output();
        let Ok(listed) = listed else { bed::skip!("no ldd on this machine") };
        for library in
            String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|w| w.starts_with('/'))
        {
            let to = tree.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().context("a library below /")?)?;
            std::fs::copy(library, to)?;
        }
    }
    std::os::unix::fs::symlink("usr/bin", tree.join("bin"))?;
    std::fs::write(tree.join("usr/share/in-root"), "in the root")?;
    std::fs::write(tree.join("etc/shadow"), "root:secret")?;
    std::fs::write(tree.join("etc/os-release"), "NAME=little\n")?;
    Ok(tree)
}

#[derive(Clone, Copy, PartialEq)]
pub enum Stored {
    Gzip,
    Zstd,
}

/// An OCI layout of the tree in two layers, as a directory and as an archive, and its digest.
pub struct Image {
    pub layout: PathBuf,
    pub archive: PathBuf,
    pub digest: String,
    pub layers: Vec<String>,
}

pub fn image(stage: &Stage, stored: Stored, ballast: usize) -> Result<Image> {
    let tree = tree(stage)?;
    let mut first = tar::Builder::new(Vec::new());
    first.follow_symlinks(false);
    first.append_dir_all(".", &tree)?;
    let mut second = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        Ok(second.append_data(&mut header, name, bytes)?)
    };
    add("usr/share/second", b"of the second layer")?;
    add("usr/share/.wh.in-root", b"")?;
    if ballast > 0 {
        // Random bytes, which can't be compressed, so that unpacking takes its time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(ballast / 8)
        .flatten()
        .collect();
        add("opt/ballast", &noise)?;
    }
    let layout = stage.dir().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256"))?;
    let blob = |bytes: &[u8]| -> Result<String> {
        let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(layout.join("blobs/sha256").join(&hex), bytes)?;
        Ok(format!("sha256:{hex}"))
    };
    let (mut layers, mut descriptors, mut diff_ids) = (Vec::new(), Vec::new(), Vec::new());
    for plain in [first.into_inner()?, second.into_inner()?] {
        diff_ids.push(format!(
            "sha256:{}",
            Sha256::digest(&plain).iter().map(|b| format!("{b:02x}")).collect::<String>()
        ));
        let (bytes, kind) = match stored {
            Stored::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&plain)?;
                (encoder.finish()?, "gzip")
            }
            Stored::Zstd => {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                (ruzstd::encoding::compress_to_vec(plain.as_slice(), level), "zstd")
            }
        };
        let digest = blob(&bytes)?;
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{kind}");
        descriptors
            .push(serde_json::json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }));
        layers.push(digest);
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({ "os": "linux", "architecture": architecture,
        "rootfs": { "type": "layers", "diff_ids": diff_ids } })
    .to_string();
    let manifest = serde_json::json!({ "schemaVersion": 2, "layers": descriptors, "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(config.as_bytes())?, "size": config.len() } })
    .to_string();
    let digest = blob(manifest.as_bytes())?;
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{ "digest": digest, "size": manifest.len(),
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "annotations": { "org.opencontainers.image.ref.name": "latest" } }] });
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = stage.dir().join("image.tar");
    pack(&layout, &archive)?;
    Ok(Image { layout, archive, digest, layers })
}

pub fn pack(layout: &Path, archive: &Path) -> Result<()> {
    let mut builder = tar::Builder::new(std::fs::File::create(archive)?);
    builder.append_dir_all(".", layout)?;
    builder.finish()?;
    Ok(())
}

pub fn pinned(path: &Path, image: &Image) -> String {
    format!("{}@{}", path.display(), image.digest)
}

/// The names in the store that are not locks.
pub fn stored(stage: &Stage) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(stage.state().join(".images")) else { return BTreeSet::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".lock")).collect()
}
