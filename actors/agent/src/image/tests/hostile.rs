use super::super::bounds::*;
use super::super::layer::{self, Tally};
use super::super::tree::Tree;
use super::build::*;
use std::os::fd::AsFd;

#[test]
fn names_that_lead_away_are_refused() {
    for name in ["/etc/passwd", "../outside/victim", "a/../../outside/victim", "a/.."] {
        let said = refused(vec![dir("a"), file(name, "evil")]);
        assert!(said.contains("absolute") || said.contains("upwards"), "{name}: {said}");
    }
    // The same by the long names of both kinds.
    for long in [pax("path", "../outside/victim"), entry(b"L", b'L', b"", 0o644, b"../outside/victim\0")] {
        let layer = tar(&[long, file("short", "evil")]);
        let ground = Ground::new();
        assert!(ground.unpack(&Image::of(&[layer], Stored::Plain)).is_err());
        ground.assert_untouched();
    }
}

#[test]
fn names_with_control_bytes_or_nul_are_refused() {
    for name in ["a\nb", "a\x1b[2Jb", "a\x7fb"] {
        assert!(refused(vec![dir("x"), file(name, "")]).contains("control"), "{name:?}");
    }
    let ground = Ground::new();
    let layer = vec![pax("path", "a\0b"), file("short", "")];
    assert!(ground.layers(&[layer]).unwrap_err().to_string().contains("control"));
}

#[test]
fn nothing_is_written_through_a_link() {
    for target in ["../outside", "/etc", "usr", "."] {
        let said = refused(vec![dir("usr"), link("way", target), file("way/victim", "evil")]);
        assert!(said.contains("leads through a link"), "{target}: {said}");
    }
    // Over a link: the link is replaced, its target isn't touched. Also by a lower layer's link.
    let ground = Ground::new();
    ground.layers(&[vec![link("victim", "../outside/victim")], vec![file("victim", "evil")]]).unwrap();
    ground.assert_untouched();
    assert_eq!(ground.read("victim").unwrap(), "evil");
    // A whiteout through a link, of a whole directory and of one name.
    for whiteout in ["way/.wh.victim", "way/.wh..wh..opq"] {
        let ground = Ground::new();
        let said = ground.layers(&[vec![link("way", "../outside")], vec![file(whiteout, "")]]).unwrap_err();
        assert!(said.to_string().contains("leads through a link"), "{said}");
        ground.assert_untouched();
    }
    // A directory over a link, then into it.
    let ground = Ground::new();
    ground
        .layers(&[vec![link("way", "../outside")], vec![dir("way"), file("way/victim", "inside")]])
        .unwrap();
    ground.assert_untouched();
}

/// Each whiteout looks through all that its layer keeps: ten thousand times ten thousand names would take the
/// better part of an hour.
#[test]
fn a_crowd_of_whiteouts_of_one_place_is_one() {
    let ground = Ground::new();
    let files = (0..10_000).map(|n| file(&format!("d/{n}"), ""));
    let whiteouts = (0..10_000)
        .flat_map(|_| [file("d/.wh..wh..opq", ""), file("./d//.wh..wh..opq", ""), file(".wh.d", "")]);
    ground.layers(&[vec![file("d/old", "")], files.chain(whiteouts).collect()]).unwrap();
    assert_eq!(std::fs::read_dir(ground.root().join("d")).unwrap().count(), 10_000);
}

#[test]
fn hard_links_lead_only_to_files_of_the_image() {
    for target in ["../outside/victim", "/etc/passwd", "not-there", "dir", "soft", "soft-dir/victim", "."] {
        let said = refused(vec![
            dir("dir"),
            link("soft", "../outside/victim"),
            link("soft-dir", "../outside"),
            hard("mine", target),
        ]);
        assert!(
            ["no file of this image", "absolute", "upwards", "through a link"]
                .iter()
                .any(|why| said.contains(why)),
            "{target}: {said}"
        );
    }
}

#[test]
fn whiteouts_of_parents_are_refused() {
    for name in [".wh...", ".wh..", ".wh.", "a/.wh...", ".wh.a/b"] {
        assert!(refused(vec![dir("a"), file(name, "")]).contains("whiteout"), "{name}");
    }
    // Opaque at the top: all of the lower layers goes, and nothing beside the root.
    let ground = Ground::new();
    ground.layers(&[vec![file("a", "1"), file("d/b", "1")], vec![file(".wh..wh..opq", "")]]).unwrap();
    assert_eq!(std::fs::read_dir(ground.root()).unwrap().count(), 0);
    ground.assert_untouched();
}

#[test]
fn the_root_stays_a_directory() {
    for (name, kind) in [("./", b'2'), (".", b'2'), (".", b'0'), ("", b'0')] {
        let said = refused(vec![dir("a"), entry(name.as_bytes(), kind, b"../outside", 0o644, b"")]);
        assert!(said.contains("root"), "{name:?}: {said}");
    }
}

#[test]
fn sparse_unknown_and_two_sized_entries_are_refused() {
    assert!(refused(vec![dir("a"), entry(b"s", b'S', b"", 0o644, b"")]).contains("sparse"));
    assert!(refused(vec![dir("a"), pax("GNU.sparse.major", "1")]).contains("sparse"));
    assert!(refused(vec![dir("a"), entry(b"v", b'V', b"", 0o644, b"")]).contains("type"));
    assert!(refused(vec![dir("a"), entry(b"d", b'5', b"", 0o755, b"content")]).contains("content"));
    // What another reader would skip as content, this one would read as entries, or the other way about.
    let smuggled = tar(&[file("smuggled", "evil")]);
    let layer = [pax("size", "0"), entry(b"carrier", b'0', b"", 0o644, &smuggled)];
    let ground = Ground::new();
    assert!(ground.layers(&[layer.to_vec()]).unwrap_err().to_string().contains("another size"));
    assert_eq!(ground.read("smuggled"), None);
    let exact = [pax("size", "4"), file("right", "four")];
    Ground::new().layers(&[exact.to_vec()]).unwrap();
}

#[test]
fn malformed_archives_are_refused() {
    let whole = tar(&[file("a", "1")]);
    let mut bad_sum = whole.clone();
    bad_sum[0] = b'b';
    let cut = entry(b"cut", b'0', b"", 0o644, &[b'x'; 2000])[..1024].to_vec();
    let mut huge = entry(b"huge", b'0', b"", 0o644, b"");
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let dangling = tar(&[pax("path", "nothing-follows")]);
    for (name, layer) in [("sum", bad_sum), ("cut", cut), ("huge", huge), ("dangling", dangling)] {
        let ground = Ground::new();
        assert!(ground.unpack(&Image::of(&[layer], Stored::Plain)).is_err(), "{name}");
        ground.assert_untouched();
    }
    for record in ["", "x", "5 a=", "99 a=b\n", "6 ab\n\n", "-1 a=b\n", "99999999999999999999 a=b\n"] {
        let layer = vec![entry(b"pax", b'x', b"", 0o644, format!("{record} ").as_bytes()), file("a", "")];
        assert!(Ground::new().layers(&[layer]).is_err(), "{record:?}");
    }
}

#[test]
fn names_are_bounded_in_length_and_depth() {
    let deep = ["a"; MAX_DEPTH].join("/");
    let fits = vec![pax("path", &deep), file("short", "in")];
    let ground = Ground::new();
    ground.layers(&[fits]).unwrap();
    assert_eq!(ground.read(&deep).unwrap(), "in");
    for long in [format!("{deep}/a"), "a".repeat(MAX_NAME + 1), ["a".repeat(MAX_NAME).as_str(); 17].join("/")]
    {
        let said =
            Ground::new().layers(&[vec![pax("path", &long), file("short", "")]]).unwrap_err().to_string();
        assert!(said.contains("too long") || said.contains("too deep"), "{said}");
    }
    // A whiteout takes the deepest away again.
    ground.layers(&[vec![file(".wh.a", "")]]).unwrap();
}

#[test]
fn directories_that_no_entry_makes_are_counted() {
    let ground = Ground::new();
    let root = std::fs::File::open(ground.root()).unwrap();
    // One header of 512 bytes can make more than a hundred: uncounted, two million entries would be 250
    // million inodes.
    let layer = tar(&["a", "b"].map(|first| file(&format!("{}f", format!("{first}/").repeat(48)), "")));
    let from = |entries| {
        let mut tally = Tally { entries, skipped: 0 };
        layer::apply(Tree::new(root.as_fd()), &mut layer.as_slice(), &mut tally).map(|()| tally.entries)
    };
    let said = from(MAX_ENTRIES - 60).unwrap_err().to_string();
    assert!(said.contains("entries"), "{said}");
    assert!(ground.root().join("a").exists() && ground.read(&format!("{}f", "b/".repeat(48))).is_none());
    assert_eq!(from(0).unwrap(), 2 + 48 - 10, "those that are there aren't made again");
}

#[test]
fn an_extended_header_is_bounded() {
    let content = vec![b'x'; MAX_EXTENSION as usize + 1];
    let layer = vec![entry(b"L", b'L', b"", 0o644, &content), file("short", "")];
    assert!(Ground::new().layers(&[layer]).unwrap_err().to_string().contains("more than"));
}

#[test]
fn a_bomb_stops_at_its_bound() {
    // Far more zeros than the stored bytes may become, in one file.
    let size = (FREE_UNPACKED + (8 << 20)) as usize;
    let layer = tar(&[entry(b"bomb", b'0', b"", 0o644, &vec![0; size])]);
    for stored in [Stored::Gzip, Stored::Zstd] {
        let ground = Ground::new();
        let image = Image::of(std::slice::from_ref(&layer), stored);
        let stored_size = image.blobs[0].1.len() as u64;
        assert!(stored_size * MAX_EXPANSION < size as u64, "the control: {stored_size}");
        let said = ground.unpack(&image).unwrap_err().to_string();
        assert!(said.contains("larger than"), "{said}");
        let written = std::fs::metadata(ground.root().join("bomb")).unwrap().len();
        assert!(written <= FREE_UNPACKED.max(stored_size * MAX_EXPANSION), "{written}");
    }
    // Plain, the same bytes are what they say, and fit.
    Ground::new().unpack(&Image::of(&[layer], Stored::Plain)).unwrap();
}

/// What a layer may grow to is counted from what is stored, not from what its descriptor says of it.
#[test]
fn a_layer_that_is_not_as_long_as_it_says_is_not_unpacked() {
    let size = (FREE_UNPACKED + (8 << 20)) as usize;
    let layer = tar(&[entry(b"bomb", b'0', b"", 0o644, &vec![0; size])]);
    for stored in [Stored::Gzip, Stored::Zstd] {
        for (said, way) in [(size as u64, "longer"), (1, "shorter")] {
            let ground = Ground::new();
            let image = Image::described(std::slice::from_ref(&layer), stored, |d| {
                d.manifest["layers"][0]["size"] = said.into();
            });
            let refused = ground.unpack(&image).unwrap_err().to_string();
            assert!(refused.contains(&format!("its descriptor says {said}")), "{way}: {refused}");
            assert!(!ground.root().join("bomb").exists(), "{way}: something was unpacked");
        }
    }
}
