//! The strings that a process was started with: its arguments, and the environment behind them
//! (proc_pid_cmdline(5)).

use std::io;

/// Overwrites every byte of this process's arguments and environment, with `title` as its whole command line;
/// from then on it has no environment. Copies that the caller made of either stay valid. Not even the
/// arguments' length can be seen afterwards.
///
/// # Errors
/// If the process has more than one thread, since another might be reading them; without a readable `/proc`,
/// or if that names no such strings.
pub(crate) fn overwrite(title: &str) -> io::Result<()> {
    super::process::require_one_thread("overwrite its own title")?;
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/self/stat");
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let place = place(&stat).ok_or_else(unknown)?;
    // SAFETY: one thread, as was just seen, hence nobody reads `environ` meanwhile.
    if unsafe { libc::clearenv() } != 0 {
        return Err(io::Error::last_os_error());
    }
    let last = place.end - 1;
    // If the last byte of the arguments isn't zero, /proc shows one string up to its first zero
    // (setproctitle(3bsd)): the title without padding.
    let mark = place.arguments_end - 1;
    for (n, address) in (place.first..place.end).enumerate() {
        let byte = match title.as_bytes().get(n) {
            _ if address == last && address != mark => 0,
            Some(_) if address == last => 0,
            Some(byte) => *byte,
            None if address == mark && n > title.len() => b'.',
            None => 0,
        };
        // SAFETY: the kernel says that this range holds our own strings: it lies in the writable mapping of
        // the first stack, above every frame; nobody else runs, and nobody keeps a reference into it, since
        // `std::env` gives copies.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) };
    }
    Ok(())
}

/// Where the strings are: the arguments, and right behind them the environment.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    first: usize,
    arguments_end: usize,
    end: usize,
}

/// Reads fields 48 to 51 of proc_pid_stat(5). `None` unless arguments and environment follow each other.
fn place(stat: &str) -> Option<Place> {
    // The command's name may hold anything; the third field follows its last parenthesis.
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let ends: Vec<usize> = fields.skip(45).take(4).map(str::parse).collect::<Result<_, _>>().ok()?;
    match ends[..] {
        [first, arguments_end, environment, end]
            if first > 0 && first < arguments_end && arguments_end == environment && environment <= end =>
        {
            Some(Place { first, arguments_end, end })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strings_are_found_whatever_the_process_is_called() {
        let fields: Vec<String> =
            (3..=52).map(|n| if n < 48 { "0".into() } else { (n * 10).to_string() }).collect();
        let stat = |name: &str| format!("7 ({name}) {}", fields.join(" ")).replace("490 500", "490 490");
        for name in ["sh", "a) R 1 (b"] {
            assert_eq!(
                place(&stat(name)),
                Some(Place { first: 480, arguments_end: 490, end: 510 }),
                "{name}"
            );
        }
        assert_eq!(place(&format!("7 (sh) {}", fields.join(" "))), None, "a gap between them");
        assert_eq!(place("7 (sh) R 1"), None);
    }
}
