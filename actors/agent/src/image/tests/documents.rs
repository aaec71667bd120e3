use super::super::layout::Layout;
use super::super::{ImageError, Wanted, unpack};
use super::build::*;
use std::path::Path;

fn plain(name: &str) -> Vec<u8> {
    tar(&[file(name, "content")])
}

#[test]
fn a_changed_byte_anywhere_is_refused_naming_what_changed() {
    let whole = Image::of(&[plain("a"), plain("b")], Stored::Gzip);
    Ground::new().unpack(&whole).unwrap();
    for (blob, name) in [(0, "layer 1 of 2"), (1, "layer 2 of 2"), (2, "config"), (3, "manifest")] {
        for at in [0, 20] {
            let mut image = Image::of(&[plain("a"), plain("b")], Stored::Gzip);
            image.blobs[blob].1[at] ^= 1;
            let said = Ground::new().unpack(&image).unwrap_err().to_string();
            assert!(said.contains(name), "{name}: {said}");
        }
    }
}

#[test]
fn sizes_and_plain_digests_are_verified_too() {
    let grown = Image::described(&[plain("a")], Stored::Gzip, |d| {
        let size = d.manifest["layers"][0]["size"].as_u64().unwrap();
        d.manifest["layers"][0]["size"] = (size + 1).into();
    });
    assert!(Ground::new().unpack(&grown).unwrap_err().to_string().contains("layer 1 of 1"));
    let shrunk =
        Image::described(&[plain("a")], Stored::Gzip, |d| d.manifest["layers"][0]["size"] = 10.into());
    assert!(Ground::new().unpack(&shrunk).unwrap_err().to_string().contains("layer 1 of 1"));
    let other = Image::described(&[plain("a")], Stored::Gzip, |d| {
        d.config["rootfs"]["diff_ids"][0] = digest(b"another").into();
    });
    let said = Ground::new().unpack(&other).unwrap_err().to_string();
    assert!(said.contains("unpacked") && said.contains("digest"), "{said}");
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    type Change = fn(&mut Described);
    let cases: [(&str, Change); 7] = [
        ("different numbers of layers", |d| d.config["rootfs"]["diff_ids"] = serde_json::json!([])),
        ("this machine is linux", |d| d.config["architecture"] = "m68k".into()),
        ("this machine is linux", |d| d.config["os"] = "windows".into()),
        ("can't be unpacked", |d| d.manifest["layers"][0]["mediaType"] = "application/x-other".into()),
        ("is no digest", |d| d.manifest["layers"][0]["digest"] = "sha512:00".into()),
        ("is no digest", |d| d.manifest["layers"][0]["digest"] = "../../../etc/passwd".into()),
        ("neither an image index nor", |d| d.manifest["manifests"] = serde_json::json!([])),
    ];
    for (why, change) in cases {
        let image = Image::described(&[plain("a")], Stored::Plain, change);
        let said = Ground::new().unpack(&image).unwrap_err().to_string();
        assert!(said.contains(why), "{why}: {said}");
    }
    let many = vec![tar(&[]); super::super::bounds::MAX_LAYERS + 1];
    let said = Ground::new().unpack(&Image::of(&many, Stored::Plain)).unwrap_err().to_string();
    assert!(said.contains("number of layers"), "{said}");
}

#[test]
fn an_index_leads_to_the_image_for_this_machine() {
    let mut image = Image::of(&[plain("ours")], Stored::Plain);
    let other =
        Image::described(&[plain("other")], Stored::Plain, |d| d.config["architecture"] = "m68k".into());
    let size = |image: &Image| image.blobs.last().unwrap().1.len();
    let one = |image: &Image, arch: &str| {
        serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.pinned,
            "size": size(image), "platform": { "os": "linux", "architecture": arch } })
    };
    let ours = one(&image, super::super::oci::architecture());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [one(&other, "m68k"), ours] });
    let bytes = index.to_string().into_bytes();
    image.blobs.extend(other.blobs);
    image.pinned = digest(&bytes);
    image.blobs.push((image.pinned.clone(), bytes));
    let ground = Ground::new();
    ground.unpack(&image).unwrap();
    assert!(ground.read("ours").is_some() && ground.read("other").is_none());
}

#[test]
fn an_archive_that_names_a_blob_twice_is_refused() {
    let image = Image::of(&[plain("a")], Stored::Plain);
    let mut bytes = image.archive();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(tar(&[file("index.json", "{}")]));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("i"), bytes).unwrap();
    let said = Layout::of(std::fs::File::open(dir.path().join("i")).unwrap()).err().unwrap();
    assert!(said.to_string().contains("twice"), "{said}");
}

#[test]
fn the_digest_to_pin_is_told() {
    let image = Image::of(&[plain("a")], Stored::Plain);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("i"), image.archive()).unwrap();
    let layout = Layout::of(std::fs::File::open(dir.path().join("i")).unwrap()).unwrap();
    let said = unpack::candidates(&layout, "i", Some("latest")).unwrap();
    assert!(
        said.starts_with("i:latest may") && said.contains(&format!("pin it: --root i@{}", image.pinned)),
        "{said}"
    );
}

#[test]
fn what_is_typed_is_a_directory_or_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("image.tar"), "").unwrap();
    std::fs::create_dir(path("layout")).unwrap();
    std::fs::write(path("layout/oci-layout"), "{}").unwrap();
    assert_eq!(Wanted::parse(dir.path()).unwrap(), Wanted::Directory(dir.path().into()));
    for mutable in ["image.tar", "layout", "image.tar:latest", "layout:1.2"] {
        assert!(matches!(Wanted::parse(&path(mutable)).unwrap(), Wanted::Mutable { .. }), "{mutable}");
    }
    let hex = "0123456789abcdef".repeat(4);
    assert!(matches!(Wanted::parse(&path(&format!("image.tar@sha256:{hex}"))).unwrap(), Wanted::Image(_)));
    for wrong in [
        format!("image.tar@sha256:{}", hex.to_uppercase()),
        format!("image.tar@sha256:{}", &hex[1..]),
        format!("image.tar@sha512:{hex}"),
        "image.tar@latest".into(),
        "image.tar@".into(),
    ] {
        assert!(matches!(Wanted::parse(&path(&wrong)), Err(ImageError::Digest(_))), "{wrong}");
    }
    assert!(matches!(Wanted::parse(Path::new("/nowhere/image:tag")), Err(ImageError::Absent(_))));
}
