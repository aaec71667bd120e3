//! What a terminal shows after these bytes were written: knows only the sequences that `term` uses, and fails
//! on all others.

use anyhow::{Result, bail};

/// Rows and columns, with what stands there.
pub struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    /// Whether the alternate screen is shown.
    pub is_other: bool,
    pub cursor_shown: bool,
}

impl Screen {
    /// Interprets all that was written to a terminal of this size.
    pub fn of(written: &str, (rows, columns): (u16, u16)) -> Result<Self> {
        let cells = vec![vec![' '; columns.into()]; rows.into()];
        let mut screen = Self { cells, at: (0, 0), is_other: false, cursor_shown: true };
        let mut rest = written;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\x1b' => match screen.escape(rest)? {
                    Some(after) => rest = after,
                    // Not whole yet.
                    None => break,
                },
                '\r' => screen.at.1 = 0,
                '\n' => screen.at.0 += 1,
                c if c.is_control() => bail!("{c:?} is written to the terminal"),
                c => screen.put(c),
            }
        }
        Ok(screen)
    }

    fn put(&mut self, c: char) {
        if let Some(cell) = self.cells.get_mut(self.at.0).and_then(|row| row.get_mut(self.at.1)) {
            *cell = c;
        }
        self.at.1 += 1;
    }

    fn escape<'t>(&mut self, rest: &'t str) -> Result<Option<&'t str>> {
        let Some(sequence) = rest.strip_prefix('[') else {
            if rest.is_empty() {
                return Ok(None);
            }
            bail!(
                "an escape sequence that `term` has no use for: {:?}",
                rest.chars().take(20).collect::<String>()
            );
        };
        let Some(end) = sequence.find(|c: char| ('@'..='~').contains(&c)) else { return Ok(None) };
        let (parameters, after) = (&sequence[..end], &sequence[end + 1..]);
        match (&sequence[end..=end], parameters) {
            ("H", _) => {
                let mut numbers = parameters.split(';').map(|n| n.parse().unwrap_or(1_usize));
                let mut next = || numbers.next().unwrap_or(1).saturating_sub(1);
                self.at = (next(), next());
            }
            ("J", "2") => self.cells.iter_mut().for_each(|row| row.fill(' ')),
            ("m", _) => {}
            ("h" | "l", "?1049") => self.is_other = &sequence[end..=end] == "h",
            ("h" | "l", "?25") => self.cursor_shown = &sequence[end..=end] == "h",
            ("h" | "l", "?2004") => {}
            (what, _) => bail!("a sequence that `term` has no use for: {parameters:?} {what:?}"),
        }
        Ok(Some(after))
    }

    /// The lines, as a person reads them.
    pub fn text(&self) -> String {
        let lines: Vec<String> =
            self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect();
        lines.join("\n")
    }
}
