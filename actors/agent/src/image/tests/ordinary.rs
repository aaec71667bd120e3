use super::build::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn every_way_of_storing_a_layer_gives_the_same_tree() {
    for stored in [Stored::Plain, Stored::Gzip, Stored::Zstd] {
        let ground = Ground::new();
        let long = format!("{}/end", ["deep"; 40].join("/"));
        let layer = tar(&[
            dir("./"),
            dir("./etc/"),
            file("./etc/a", &"text".repeat(10_000)),
            link("lib", "usr/lib"),
            hard("etc/b", "etc/a"),
            pax("path", &long),
            file("short", "long"),
            entry(b"././@LongLink", b'L', b"", 0o644, format!("{long}2\0").as_bytes()),
            file("short", "longer"),
            file("etc/empty", ""),
        ]);
        assert_eq!(ground.unpack(&Image::of(&[layer], stored)).unwrap(), "");
        assert_eq!(ground.read("etc/a").unwrap(), "text".repeat(10_000));
        assert_eq!(ground.read(&long).unwrap(), "long");
        assert_eq!(ground.read(&format!("{long}2")).unwrap(), "longer");
        assert_eq!(ground.read("etc/empty").unwrap(), "");
        assert_eq!(std::fs::read_link(ground.root().join("lib")).unwrap().to_str(), Some("usr/lib"));
        let (a, b) = (ground.root().join("etc/a"), ground.root().join("etc/b"));
        assert_eq!(std::fs::metadata(&a).unwrap().ino(), std::fs::metadata(b).unwrap().ino());
        assert_eq!(std::fs::metadata(a).unwrap().mtime(), 1_700_000_000);
    }
}

#[test]
fn modes_lose_set_id_and_stay_usable() {
    let ground = Ground::new();
    let with = |name: &str, kind: u8, mode: u32| entry(name.as_bytes(), kind, b"", mode, b"");
    ground
        .layers(&[vec![
            with("su", b'0', 0o6755),
            with("shut", b'0', 0),
            with("closed", b'5', 0o1000),
            file("closed/in", "it"),
        ]])
        .unwrap();
    let mode =
        |name: &str| std::fs::metadata(ground.root().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("su"), mode("shut"), mode("closed")), (0o755, 0o400, 0o700));
}

#[test]
fn whiteouts_take_away_what_lower_layers_brought() {
    let ground = Ground::new();
    ground
        .layers(&[
            vec![
                file("a", "1"),
                file("d/x", "1"),
                file("d/y", "1"),
                file("t/deep/er/z", "1"),
                file("o/old", "1"),
            ],
            vec![
                file("d/new", "2"),
                file(".wh.a", ""),
                file("d/.wh.x", ""),
                file(".wh.t", ""),
                file("o/young", "2"),
                file("o/.wh..wh..opq", ""),
                file(".wh.never-there", ""),
                file("nowhere/.wh.x", ""),
                dir(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2", ""),
            ],
        ])
        .unwrap();
    for gone in ["a", "d/x", "t", "o/old", "nowhere", ".wh.a", ".wh..wh.plnk"] {
        assert!(!ground.root().join(gone).exists(), "{gone}");
    }
    assert_eq!(ground.read("d/y").unwrap(), "1");
    assert_eq!(ground.read("d/new").unwrap(), "2");
    assert_eq!(ground.read("o/young").unwrap(), "2");
}

#[test]
fn a_whiteout_leaves_what_its_own_layer_makes_before_or_after() {
    let ground = Ground::new();
    ground
        .layers(&[
            vec![file("early", "1"), file("late", "1"), file("dir/old", "1")],
            vec![
                file("early", "2"),
                file(".wh.early", ""),
                file(".wh.late", ""),
                file("late", "2"),
                file("dir/sub/kept", "2"),
                file(".wh.dir", ""),
            ],
        ])
        .unwrap();
    assert_eq!(ground.read("early").unwrap(), "2");
    assert_eq!(ground.read("late").unwrap(), "2");
    assert_eq!(ground.read("dir/sub/kept").unwrap(), "2");
    assert_eq!(ground.read("dir/old"), None);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_any_kind() {
    let ground = Ground::new();
    ground
        .layers(&[
            vec![
                file("a", "1"),
                hard("twin", "a"),
                file("dir/in", "1"),
                link("link", "a"),
                file("file", "1"),
            ],
            vec![
                file("a", "2"),
                file("a", "3"),
                file("dir", "now a file"),
                dir("link"),
                dir("file"),
                file("file/in", "2"),
            ],
        ])
        .unwrap();
    // Replaced, not written through: the other name keeps the old content.
    assert_eq!(ground.read("a").unwrap(), "3");
    assert_eq!(ground.read("twin").unwrap(), "1");
    assert_eq!(ground.read("dir").unwrap(), "now a file");
    assert!(ground.root().join("link").symlink_metadata().unwrap().is_dir());
    assert_eq!(ground.read("file/in").unwrap(), "2");
}

#[test]
fn devices_and_pipes_are_left_out_and_told() {
    let ground = Ground::new();
    let special = |name: &str, kind: u8| entry(name.as_bytes(), kind, b"", 0o666, b"");
    let said = ground
        .layers(&[
            vec![file("pipe", "a lower layer's"), file("dev/mem", "")],
            vec![file("a", "1"), special("dev/sda", b'4'), special("dev/mem", b'3'), special("pipe", b'6')],
        ])
        .unwrap();
    assert!(said.contains("3 devices or named pipes"), "{said}");
    assert_eq!(ground.read("a").unwrap(), "1");
    // Nor is what a lower layer has in their place.
    assert!(!ground.root().join("pipe").exists() && !ground.root().join("dev/mem").exists());
}

#[test]
fn what_lies_behind_the_end_is_hashed_and_never_applied() {
    let ground = Ground::new();
    let mut layer = tar(&[file("a", "1")]);
    layer.extend(tar(&[file("behind", "2")]));
    ground.unpack(&Image::of(&[layer], Stored::Gzip)).unwrap();
    assert_eq!(ground.read("a").unwrap(), "1");
    assert_eq!(ground.read("behind"), None);
}
