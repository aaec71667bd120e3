//! Tests trees that change while they are read, and the parts of this module. Hostile files are tested with
//! the whole program (`tests/snapshot`).

use super::*;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const ALL: Select<'static> = Select { kinds: Kinds::All, belongs: &|_, _| true };
const ROOM: Room = Room { most: 1 << 30, taken: 0 };

fn packed(dir: &Path, progress: Progress<'_>) -> (Packed, Vec<u8>) {
    let mut out = Vec::new();
    let packed = pack(File::open(dir).unwrap().as_fd(), ALL, ROOM, &mut out, progress).unwrap();
    (packed, out)
}

fn filled(out: &[u8], amount: Amount) -> tempfile::TempDir {
    let into = tempfile::tempdir().unwrap();
    let dir = File::open(into.path()).unwrap();
    fill(out, Some(dir.as_fd()), ALL, amount, &[], &mut |_| {}).unwrap();
    into
}

/// Bytes that nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_tree_is_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = [noise(5 << 20), vec![0; 3 << 20], b"text ".repeat(1 << 20)].concat();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/large"), &content).unwrap();
    fs::set_permissions(dir.path().join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    let (packed, out) = packed(dir.path(), &mut |_| {});
    assert_eq!(packed.left_out, LeftOut::default());
    assert_eq!((packed.amount.entries, packed.amount.bytes), (2, content.len() as u64));
    assert!(out.len() < content.len() && packed.amount.archive > content.len() as u64);
    let again = filled(&out, packed.amount);
    assert!(fs::read(again.path().join("sub/large")).unwrap() == content);
    for dir in [again.path(), dir.path()] {
        assert_eq!(fs::metadata(dir.join("sub")).unwrap().mode() & 0o777, 0o555);
        fs::set_permissions(dir.join("sub"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_file_that_shrinks_or_grows_meanwhile_has_the_size_that_was_said_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    for length in [200_000, 900_000] {
        fs::write(&path, vec![b'x'; 400_000]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let (packed, out) = packed(dir.path(), &mut |_| file.set_len(length).unwrap());
        assert_eq!((packed.amount.bytes, packed.left_out.changed), (400_000, 1));
        let again = fs::read(filled(&out, packed.amount).path().join("file")).unwrap();
        assert_eq!(again.len(), 400_000);
        assert_eq!(again.contains(&0), length < 400_000);
    }
}

/// Written over as a database does, and as somebody does who hides it: the modification time is set back.
#[test]
fn a_file_that_is_written_over_meanwhile_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, vec![b'x'; 400_000]).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    let (still, _) = packed(dir.path(), &mut |_| {});
    assert_eq!(still.left_out, LeftOut::default(), "the control");
    // The clock by which the kernel stamps files moves in steps: wait for the next.
    let stamp = |file: &File| file.metadata().map(|found| (found.ctime(), found.ctime_nsec())).unwrap();
    let other = tempfile::tempfile_in(dir.path()).unwrap();
    while stamp(&other) <= stamp(&file) {
        std::thread::sleep(std::time::Duration::from_millis(1));
        other.set_modified(long_ago).unwrap();
    }
    let (packed, _) = packed(dir.path(), &mut |_| {
        std::os::unix::fs::FileExt::write_all_at(&file, b"other", 399_000).unwrap();
        file.set_modified(long_ago).unwrap();
    });
    assert_eq!((packed.amount.bytes, packed.left_out.changed), (400_000, 1));
}

#[test]
fn what_is_there_already_is_never_written_to_nor_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "new").unwrap();
    let (packed, out) = packed(dir.path(), &mut |_| {});
    let (into, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "as it was").unwrap();
    for plant in [true, false] {
        let _before = fs::remove_file(into.path().join("file"));
        match plant {
            true => std::os::unix::fs::symlink(&victim, into.path().join("file")).unwrap(),
            false => fs::hard_link(&victim, into.path().join("file")).unwrap(),
        }
        let dir = File::open(into.path()).unwrap();
        let refused = fill(out.as_slice(), Some(dir.as_fd()), ALL, packed.amount, &[], &mut |_| {});
        assert!(refused.unwrap_err().to_string().contains("exists"));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
    }
}

#[test]
fn a_container_has_one_way_to_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut writer = container::Writer::new(&file);
    let write = |bytes: &'static [u8]| {
        let file = &file;
        move || {
            let mut file = file;
            io::Write::write_all(&mut file, bytes).map_err(system("test"))
        }
    };
    let (one, ()) = writer.part("one", write(b"first")).unwrap();
    writer.part("two", write(&[b'x'; 512])).unwrap();
    writer.finish(b"{}").unwrap();
    let read = |names: &[&str]| container::Container::open(&file, names).map(|it| it.manifest.clone());
    assert_eq!(read(&["one", "two"]).unwrap(), b"{}");
    for names in [&["two", "one"] as &[&str], &["one"], &[]] {
        assert!(read(names).unwrap_err().to_string().contains("no place in it"));
    }
    let container = container::Container::open(&file, &["one", "two"]).unwrap();
    let all = |bytes: &mut dyn io::Read| {
        let mut read = Vec::new();
        bytes.read_to_end(&mut read).map(|_| read).map_err(system("test"))
    };
    assert_eq!(container.read("one", &one, all).unwrap(), b"first");
    let other = container::Part { digest: format!("sha256:{}", "0".repeat(64)), ..one.clone() };
    assert!(container.read("one", &other, all).unwrap_err().to_string().contains("digest"));
    assert!(container.read("one", &container::Part { size: 4, ..one }, all).is_err());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let parts = [512..517, 1536..2048, 2560..2562];
        if parts.iter().any(|part| part.contains(&at)) {
            continue;
        }
        fs::write(&path, &changed).unwrap();
        assert!(read(&["one", "two"]).is_err(), "byte {at}");
    }
}

/// Whatever a byte of an archive is changed to, nothing is made outside the directory.
#[test]
fn a_changed_archive_makes_nothing_elsewhere() {
    const CHANGES: usize = 3000;
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let canary = elsewhere.path().join("canary");
    fs::write(&canary, "as it was").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), "content").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
    fs::hard_link(dir.path().join("sub/file"), dir.path().join("second")).unwrap();
    let (packed, out) = packed(dir.path(), &mut |_| {});
    let mut plain = Vec::new();
    io::Read::read_to_end(&mut press::Plain::new(out.as_slice()), &mut plain).unwrap();
    assert_eq!(plain.len() as u64, packed.amount.archive);
    let (mut refused, noise) = (0, noise(8 * CHANGES));
    for change in noise.chunks_exact(8) {
        let mut changed = plain.clone();
        // Two bytes: where the text is, most of the time.
        for pair in change.chunks_exact(4) {
            let at = usize::from(pair[0]) << 8 | usize::from(pair[1]);
            let end = changed.len();
            changed[at % end] =
                if pair[2] < 128 { b"./\0 01725xLgK="[usize::from(pair[3] % 14)] } else { pair[3] };
        }
        let mut bytes = Vec::new();
        let mut press = press::Press::new(&mut bytes);
        io::Write::write_all(&mut press, &changed).unwrap();
        press.finish().unwrap();
        let into = tempfile::tempdir().unwrap();
        let open = File::open(into.path()).unwrap();
        refused += u32::from(
            fill(bytes.as_slice(), Some(open.as_fd()), ALL, packed.amount, &[], &mut |_| {}).is_err(),
        );
        assert_eq!(fs::read_to_string(&canary).unwrap(), "as it was");
        assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }
    assert!(refused > 500, "{refused}");
}
