//! How an entry of an archive is written: an extended header with all of its name and time, then a header
//! that has neither (POSIX, pax Interchange Format). There is no other form: the reader writes each header
//! again, and compares.

use super::MAX_PATH;
use tar::{EntryType, Header};

/// Bytes of a tar block.
pub(super) const BLOCK: u64 = 512;
/// Bytes of the longest extended header: two paths, and what little stands beside them.
pub(super) const MAX_RECORDS: u64 = 2 * MAX_PATH as u64 + 128;
/// The most bytes that an entry takes in an archive beside its content: headers and padding.
pub(super) const MOST_AN_ENTRY: u64 = 2 * BLOCK + MAX_RECORDS.next_multiple_of(BLOCK) + BLOCK;
/// Zero bytes at an archive's end.
pub(super) const END: u64 = 2 * BLOCK;

/// The header of an entry whose name is in the extended header before it.
pub(super) fn block(kind: EntryType, mode: u32, size: u64) -> [u8; BLOCK as usize] {
    let mut header = Header::new_ustar();
    if let Some(name) = header.as_old_mut().name.first_mut() {
        *name = b'-';
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    *header.as_bytes()
}

/// The header of an extended header of so many bytes.
pub(super) fn extension(length: u64) -> [u8; BLOCK as usize] {
    block(EntryType::XHeader, 0o600, length)
}

/// The records of an extended header: the name, a link's target, the modification time (seconds, and
/// nanoseconds after them).
pub(super) fn records(path: &[u8], target: Option<&[u8]>, modified: (i64, u32)) -> Vec<u8> {
    let target = target.map(|target| record("linkpath", target)).unwrap_or_default();
    [record("path", path), target, record("mtime", time(modified).as_bytes())].concat()
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Seconds with a fraction, as a decimal number.
fn time((seconds, nanoseconds): (i64, u32)) -> String {
    match (seconds, nanoseconds) {
        (..0, 1..) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
        _ => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        for n in 0..2000 {
            let record = record("path", &vec![b'a'; n]);
            let said = record.split(|b| *b == b' ').next().unwrap();
            assert_eq!(String::from_utf8_lossy(said), record.len().to_string());
        }
    }

    #[test]
    fn a_time_before_1970_is_one_number() {
        assert_eq!(time((1, 5)), "1.000000005");
        assert_eq!(time((-5, 0)), "-5.000000000");
        assert_eq!(time((-5, 100_000_000)), "-4.900000000");
        assert_eq!(time((-1, 100_000_000)), "-0.900000000");
    }

    #[test]
    fn the_longest_extended_header_is_no_longer_than_is_said() {
        let longest = records(&[b'a'; MAX_PATH], Some(&[b'b'; MAX_PATH]), (i64::MIN + 1, 999_999_999));
        assert!(longest.len() as u64 <= MAX_RECORDS, "{}", longest.len());
    }
}
