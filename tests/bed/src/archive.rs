//! Packages made in memory: a ZIP, a gzipped tar and an ar archive whose files are stored, not compressed.
//!
//! Only what package managers need; names are short, files are small.

/// A ZIP file (PKWARE APPNOTE 4.3) of stored entries.
pub fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in files {
        let offset = le32(out.len());
        // Version 2.0, no flags, stored, 1 January 1980.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc32(data).to_le_bytes());
        common.extend(le32(data.len()));
        common.extend(le32(data.len()));
        common.extend(le16(name.len()));
        common.extend([0, 0]);

        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*data);

        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        // Comment, disk, internal and external attributes.
        directory.extend([0u8; 10]);
        directory.extend(offset);
        directory.extend(name.as_bytes());
    }
    let start = le32(out.len());
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(le16(files.len()));
    out.extend(le16(files.len()));
    out.extend(le32(directory.len()));
    out.extend(start);
    out.extend([0, 0]);
    out
}

/// A gzipped tar (ustar).
pub fn tgz(files: &[(&str, &[u8])]) -> Vec<u8> {
    gzip(&tar(files))
}

/// An ar archive, as dpkg reads it (deb(5)).
pub fn ar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, data) in files {
        out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, data.len()).bytes());
        out.extend(*data);
        if data.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, data) in files {
        let mut header = Vec::with_capacity(512);
        field(&mut header, name, 100);
        field(&mut header, "0000644", 8);
        field(&mut header, "0000000", 8);
        field(&mut header, "0000000", 8);
        field(&mut header, &format!("{:011o}", data.len()), 12);
        field(&mut header, "00000000000", 12);
        // The checksum is taken with its own field as spaces.
        header.extend(b"        ");
        header.push(b'0');
        field(&mut header, "", 100);
        header.extend(b"ustar\x0000");
        header.resize(512, 0);
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
        out.extend(header);
        out.extend(*data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend([0u8; 1024]);
    out
}

fn field(header: &mut Vec<u8>, text: &str, width: usize) {
    let end = header.len() + width;
    header.extend(text.bytes().take(width));
    header.resize(end, 0);
}

/// RFC 1952 around stored blocks of RFC 1951.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = data.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = le16(block.len());
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length);
        out.extend(length.map(|b| !b));
        out.extend(block);
    }
    out.extend(crc32(data).to_le_bytes());
    out.extend(le32(data.len()));
    out
}

fn crc32(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// The low 16 bits, little end first: archives here are far smaller.
fn le16(n: usize) -> [u8; 2] {
    (n as u16).to_le_bytes()
}

fn le32(n: usize) -> [u8; 4] {
    (n as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_tar_is_whole_blocks() {
        assert_eq!(tar(&[("a", b"x")]).len(), 512 + 512 + 1024);
    }
}
