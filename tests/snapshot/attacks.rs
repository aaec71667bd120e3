//! Hostile snapshot files, and the message that each must get.

use std::path::Path;

use tar::EntryType;

use crate::forge::{
    Forged, Lies, Member, a_directory, a_file, archive, bomb, compressed, container, entry, record,
};

/// The name of an attack, its file, and a part of the message that it must get.
type Attack = (&'static str, Vec<u8>, &'static str);

fn members(what: &'static str, workspace: Vec<Member>, said: &'static str) -> Attack {
    (what, Forged::of(workspace).bytes(), said)
}

/// All attacks; `outside` is the directory where they would write.
pub fn attacks(outside: &Path) -> Vec<Attack> {
    let outside = outside.display().to_string();
    let link = |name: &str, target: &str| entry(EntryType::Symlink, name, target, "");
    let hard = |name: &str, target: &str| entry(EntryType::Link, name, target, "");
    let usual = a_file("f", "x").extended();
    let headers =
        |what, before, said| members(what, vec![Member { before: Some(before), ..a_file("f", "x") }], said);
    let mut all = vec![
        members("a name that leads upwards", vec![a_file("../escaped", "x")], "leads upwards"),
        members("one in the middle", vec![a_directory("a"), a_file("a/../../escaped", "x")], "leads upwards"),
        members("an absolute name", vec![a_file("/tmp/escaped", "x")], "absolute"),
        members(
            "a file behind a link",
            vec![link("l", &outside), a_file("l/escaped", "x")],
            "no directory that came before it",
        ),
        members(
            "a directory that is a link by then",
            vec![a_directory("l"), link("l", &outside), a_file("l/escaped", "x")],
            "there twice",
        ),
        members(
            "a hard link outside",
            vec![hard("h", &format!("../../../../..{outside}/canary"))],
            "leads upwards",
        ),
        members("an absolute hard link", vec![hard("h", &format!("{outside}/canary"))], "absolute"),
        members(
            "a hard link to a link",
            vec![link("l", &outside), hard("h", "l")],
            "no file that came before it",
        ),
        members(
            "a hard link to what comes later",
            vec![hard("h", "f"), a_file("f", "x")],
            "no file that came before it",
        ),
        members("a device", vec![entry(EntryType::Char, "null", "", "")], "a device or a pipe"),
        members("a pipe", vec![entry(EntryType::Fifo, "pipe", "", "")], "a device or a pipe"),
        members("a file twice", vec![a_file("f", "one"), a_file("f", "two")], "there twice"),
        members(
            "the same by another spelling",
            vec![a_file("f", "one"), a_file("./f", "two")],
            "there twice",
        ),
        members("no directory", vec![a_file("d/f", "x")], "no directory that came before it"),
        members("the directory itself", vec![a_directory(".")], "the directory itself"),
        members("an unknown kind", vec![entry(EntryType::new(b'Z'), "z", "", "")], "unknown"),
        members(
            "a set-id bit",
            vec![Member { mode: 0o4755, ..a_file("f", "x") }],
            "not written as a snapshot's",
        ),
        members(
            "a name in its own header",
            vec![Member { plain_name: Some("other"), ..a_file("f", "x") }],
            "not written as",
        ),
        headers("no extended header", vec![], "has no extended header"),
        headers("two extended headers", vec![usual.clone(), usual.clone()], "two extended headers"),
        headers(
            "a long name of GNU's behind it",
            vec![usual.clone(), (EntryType::GNULongName, b"other\0".to_vec())],
            "no snapshot has",
        ),
        headers(
            "a long name of GNU's before it",
            vec![(EntryType::GNULongName, b"other\0".to_vec()), usual.clone()],
            "no snapshot has",
        ),
        headers(
            "a long link of GNU's",
            vec![(EntryType::GNULongLink, b"other\0".to_vec()), usual.clone()],
            "no snapshot has",
        ),
        headers(
            "a global header",
            vec![(EntryType::XGlobalHeader, record("path", b"other")), usual.clone()],
            "no snapshot has",
        ),
        headers(
            "a second name",
            vec![(EntryType::XHeader, [record("path", b"other"), usual.1.clone()].concat())],
            "not written as",
        ),
        headers(
            "another key",
            vec![(EntryType::XHeader, [usual.1.clone(), record("hdrcharset", b"BINARY")].concat())],
            "not written as",
        ),
        headers(
            "a size",
            vec![(EntryType::XHeader, [usual.1.clone(), record("size", b"1")].concat())],
            "not written as",
        ),
        headers("no time", vec![(EntryType::XHeader, record("path", b"f"))], "not written as"),
        headers(
            "a long extended header",
            vec![(EntryType::XHeader, record("comment", &[b'x'; 8400]))],
            "an extended header is more than",
        ),
        members("a link that no system takes", vec![link("l", &"x".repeat(4096))], "too long"),
        members("a sparse file of GNU's", vec![entry(EntryType::GNUSparse, "s", "", "")], "sparse"),
    ];
    let state = |what, member: Member, said| {
        (what, Forged { state: vec![member], ..Forged::of(Vec::new()) }.bytes(), said)
    };
    all.extend([
        state("another file of the state directory", a_file("ids", "0\n"), "no place in a snapshot"),
        state("a lock", a_file("lock", ""), "no place in a snapshot"),
        state("a link among the records", link("audit.jsonl", "/etc/passwd"), "records have none"),
        state("approvals that are none", a_file("approvals.json", "{}"), "its approvals can't be read"),
        state(
            "numbers that overflow",
            a_file("approvals.json", r#"{"last_id":18446744073709551615,"questions":{}}"#),
            "ids out of range",
        ),
        state("a directory that is a file", a_directory("approvals.json"), "no place in a snapshot"),
    ]);
    let lies = |what, lies: Lies, said| {
        (what, Forged { lies, ..Forged::of(vec![a_file("f", "content"), a_file("g", "")]) }.bytes(), said)
    };
    all.extend([
        lies(
            "a wrong digest",
            Lies { digest: Some(format!("sha256:{}", "0".repeat(64))), ..Lies::default() },
            "is not what its digest",
        ),
        lies("no digest", Lies { digest: Some("sha256:0".into()), ..Lies::default() }, "no digest"),
        lies(
            "fewer entries said",
            Lies { entries: Some(1), ..Lies::default() },
            "more entries than its manifest says",
        ),
        lies("no entries said", Lies { entries: Some(0), ..Lies::default() }, "larger than what is in it"),
        lies("more entries said", Lies { entries: Some(3), ..Lies::default() }, "its manifest says"),
        lies("fewer bytes said", Lies { bytes: Some(1), ..Lies::default() }, "more than its manifest says"),
        lies(
            "a smaller archive said",
            Lies { archive: Some(512), ..Lies::default() },
            "more than its manifest says",
        ),
    ]);
    let stored = |what, stored: Vec<u8>, lies: Lies, said| {
        (what, Forged { lies, stored: Some(stored), ..Forged::of(vec![a_file("f", "x")]) }.bytes(), said)
    };
    let whole = archive(&[a_file("f", "x")]);
    let behind = [whole.clone(), vec![0; 4096], b"more".to_vec()].concat();
    all.extend([
        stored(
            "a second gzip member",
            [compressed(&whole), compressed(b"")].concat(),
            Lies::default(),
            "behind its compressed archive",
        ),
        stored(
            "something behind the gzip member",
            [compressed(&whole), b"x".to_vec()].concat(),
            Lies::default(),
            "behind its compressed archive",
        ),
        stored("a bomb", bomb(64 << 20), Lies::default(), "hold more than its manifest says"),
        stored(
            "a bomb in its archive",
            bomb(64 << 20),
            Lies { bytes: Some(1 << 30), archive: Some(4096), ..Lies::default() },
            "unpacks to more than its manifest says",
        ),
        stored(
            "a bomb that says so",
            bomb(4 << 20),
            Lies { bytes: Some(1 << 40), archive: Some(1 << 40), ..Lies::default() },
            "raise it with --max-size",
        ),
        stored(
            "one in what pads it",
            bomb(4 << 20),
            Lies { archive: Some(1 << 40), ..Lies::default() },
            "larger than what is in it",
        ),
        stored(
            "something behind the end",
            compressed(&behind),
            Lies { archive: Some(behind.len() as u64), ..Lies::default() },
            "behind the end",
        ),
        stored("no compression", whole.clone(), Lies::default(), "can't be read"),
        stored("half an archive", compressed(&whole[..700]), Lies::default(), "can't be read"),
        stored("nothing", Vec::new(), Lies::default(), "can't be read"),
    ]);
    let good = Forged::of(vec![a_file("f", "x")]).bytes();
    all.extend([
        ("an empty file", Vec::new(), "no snapshot of cofferdam's"),
        ("another file", b"#!/bin/sh\n".repeat(1000), "no snapshot of cofferdam's"),
        ("one that is cut off", good[..good.len() - 512].to_vec(), "cut off"),
        ("one that is cut in a member", good[..900].to_vec(), "cut off"),
        ("something behind it", [good.clone(), vec![b'x'; 512]].concat(), "where it should end"),
        ("zeros behind it", [good.clone(), vec![0; 512]].concat(), "where it should end"),
        (
            "another member",
            container([("evil", b"x".to_vec()), ("manifest.json", b"{}".to_vec())]),
            "has no place in it",
        ),
        (
            "a member twice",
            container([
                ("state.tar.gz", Vec::new()),
                ("state.tar.gz", Vec::new()),
                ("manifest.json", b"{}".to_vec()),
            ]),
            "has no place in it",
        ),
        ("no manifest's text", container([("manifest.json", b"[".to_vec())]), "its manifest"),
        ("a later format", container([("manifest.json", br#"{"format":2}"#.to_vec())]), "of format 2"),
    ]);
    let named = |name: &str| {
        let at = good.windows(6).position(|bytes| bytes == b"forged").expect("its name");
        let mut bytes = good.clone();
        bytes[at..at + 6].copy_from_slice(name.as_bytes());
        bytes
    };
    all.extend([
        ("a name that leads upwards, as the sandbox's", named("../../"), "name"),
        ("a name with a dot", named(".choos"), "name"),
    ]);
    all
}
