//! What a path is to servers for which names have more spellings than their letters: names on NTFS with the
//! stream that is read anyhow, letters that fold into ASCII, characters that are not seen.
//!
//! For deny rules alone: such a reading must never let anything through. Never here: readings that ASCII has.

/// A lenient reading without streams, with letters folded and unseen characters left out. None where that is
/// the same text, as of most.
pub(crate) fn bare(reading: &str) -> Option<String> {
    let visible = if reading.contains('%') { visible(reading) } else { None };
    let cut = without_streams(visible.as_deref().unwrap_or(reading));
    cut.or(visible)
}

/// `a::$DATA` is `a`, and `a:$I30:$INDEX_ALLOCATION` the directory `a`. What stands behind a colon in other
/// paths (`/models/x:generate`) has no such type, and is a part of the name.
fn without_streams(reading: &str) -> Option<String> {
    if !reading.contains(":$") {
        return None;
    }
    let name = |segment: &'_ str| match segment.find(':') {
        Some(end @ 1..) if segment.contains(":$") => end,
        _ => segment.len(),
    };
    let names: Vec<&str> =
        reading.split('/').map(|segment| segment.get(..name(segment)).unwrap_or(segment)).collect();
    let out = names.join("/");
    (out != reading).then_some(out)
}

/// Escapes in small letters, as a lenient reading has them.
fn visible(reading: &str) -> Option<String> {
    let mut out = String::with_capacity(reading.len());
    let mut rest = reading;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (character, length) = escaped(after).unwrap_or(('%', 0));
        match character {
            // The long s, and Kelvin's sign: the only ones that fold into ASCII.
            '\u{17f}' => out.push('s'),
            '\u{212a}' => out.push('k'),
            unseen if is_ignorable(unseen) => {}
            _ => {
                out.push('%');
                out.push_str(after.get(..length).unwrap_or_default());
            }
        }
        rest = after.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    (out.len() < reading.len()).then_some(out)
}

/// The character beyond ASCII whose escapes follow a first `%`, and their length without it.
fn escaped(after: &str) -> Option<(char, usize)> {
    let byte = |at: usize| u8::from_str_radix(after.get(at..at + 2)?, 16).ok();
    let mut bytes = [byte(0)?, 0, 0, 0];
    let count = match bytes {
        [0xc2..=0xdf, ..] => 2,
        [0xe0..=0xef, ..] => 3,
        [0xf0..=0xf4, ..] => 4,
        _ => return None,
    };
    for (n, slot) in bytes.iter_mut().enumerate().take(count).skip(1) {
        *slot = after.get(3 * n - 1..)?.starts_with('%').then(|| byte(3 * n))??;
    }
    let text = std::str::from_utf8(bytes.get(..count)?).ok()?;
    Some((text.chars().next()?, 3 * count - 1))
}

/// Unicode's `Default_Ignorable_Code_Point`.
fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_or_read_anyhow_is_left_out() {
        for (reading, wanted) in [
            ("/a/b", None),
            ("/models/x:generate", None),
            ("/a:b:c/$d", None),
            ("/:$data", None),
            ("/a%20b/%c3%a9/%25", None),
            ("/secrets.txt::$data", Some("/secrets.txt")),
            ("/admin:$i30:$index_allocation/x:y", Some("/admin/x:y")),
            ("/%c5%bfecrets/%e2%84%aaey", Some("/secrets/key")),
            ("/se%e2%80%8cc%c2%adrets%f3%a0%81%81", Some("/secrets")),
            ("/a%e2%80%8b:%ef%bb%bf$data/%c3%a9", Some("/a/%c3%a9")),
        ] {
            assert_eq!(bare(reading).as_deref(), wanted, "{reading}");
        }
    }

    #[test]
    fn broken_escapes_stand() {
        for reading in ["/%", "/%e2", "/%e2%80", "/%e2%80%zz", "/%f3%a0%81", "/%80", "/%e2x80%8c", "/%+2%a"] {
            assert_eq!(bare(reading), None, "{reading}");
        }
    }
}
