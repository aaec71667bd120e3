//! Asks a person at a terminal: one line for the question, one for the answer.
//!
//! Nothing is stored, and nothing is printed but the questions. The caller must have made the shown text
//! harmless.

use std::io::{self, BufRead, IsTerminal, StderrLock, StdinLock, Write};

use crate::failure::Failure;

/// Bytes of an answer at most.
const LINE_MAX: u64 = 4096;
/// How many invalid answers to a question are allowed.
const TRIES: usize = 20;

/// The person who answers.
pub struct Person<R, W> {
    from: R,
    to: W,
    /// What follows where no answer can be had, as the rest of a sentence.
    otherwise: String,
}

/// Whether somebody is there to ask: standard input and standard error are terminals.
pub fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

impl Person<StdinLock<'static>, StderrLock<'static>> {
    /// The person at the terminal. `otherwise` says what follows where no answer can be had.
    pub fn at_the_terminal(otherwise: impl Into<String>) -> Self {
        Self::new(io::stdin().lock(), io::stderr().lock(), otherwise)
    }
}

impl<R: BufRead, W: Write> Person<R, W> {
    /// The person whose answers are read from `from`, and who reads `to`.
    pub fn new(from: R, to: W, otherwise: impl Into<String>) -> Self {
        Self { from, to, otherwise: otherwise.into() }
    }

    fn gives_up(&self, why: &str) -> Failure {
        Failure::refused(format!("{why}; {}", self.otherwise))
    }

    /// Prints a line.
    ///
    /// # Errors
    /// It can't be printed.
    pub fn tell(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.to, "{text}")?)
    }

    /// Asks until `take` accepts the answer. An empty answer stands for `default`.
    ///
    /// # Errors
    /// The answers have ended, or too many were invalid.
    pub fn ask<T>(
        &mut self,
        question: &str,
        default: &str,
        mut take: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        for _ in 0..TRIES {
            match default {
                "" => write!(self.to, "{question}: ")?,
                default => write!(self.to, "{question} [{default}]: ")?,
            }
            self.to.flush()?;
            let line = self.line()?;
            match take(if line.is_empty() { default } else { &line }) {
                Ok(taken) => return Ok(taken),
                Err(why) => self.tell(&format!("  {why}"))?,
            }
        }
        Err(self.gives_up("too many invalid answers"))
    }

    /// Asks for yes or no. An empty answer stands for `default`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn agrees(&mut self, question: &str, default: bool) -> Result<bool, Failure> {
        self.ask(question, if default { "yes" } else { "no" }, |answer| {
            match answer.to_lowercase().as_str() {
                "y" | "yes" => Ok(true),
                "n" | "no" => Ok(false),
                _ => Err("yes or no".into()),
            }
        })
    }

    /// Asks for one of several, by number or by name. Returns its position.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn one_of(&mut self, question: &str, names: &[String], told: &[String]) -> Result<usize, Failure> {
        self.list(names, told)?;
        self.ask(question, "1", |answer| position(answer, names))
    }

    /// Asks for any number of several, by numbers or names separated by commas. Returns their positions in
    /// the order in which they were named. `default` is written as it would be typed.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn some_of(
        &mut self,
        question: &str,
        default: &str,
        names: &[String],
        told: &[String],
    ) -> Result<Vec<usize>, Failure> {
        self.list(names, told)?;
        self.ask(question, default, |answer| {
            if answer == "none" {
                return Ok(Vec::new());
            }
            let parts = answer.split([',', ' ']).filter(|part| !part.is_empty());
            let mut all: Vec<usize> = Vec::new();
            for part in parts {
                let at = position(part, names)?;
                if !all.contains(&at) {
                    all.push(at);
                }
            }
            Ok(all)
        })
    }

    fn list(&mut self, names: &[String], told: &[String]) -> Result<(), Failure> {
        let width = names.iter().map(String::len).max().unwrap_or(0);
        for (n, (name, told)) in names.iter().zip(told).enumerate() {
            self.tell(format!("  {:>2}  {name:width$}  {told}", n + 1).trim_end())?;
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        let read = io::Read::take(&mut self.from, LINE_MAX).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Err(self.gives_up("the answers ended before the last question"));
        }
        if line.pop() != Some(b'\n') {
            return Err(self.gives_up("an answer is longer than a line can be"));
        }
        let line = String::from_utf8(line).map_err(|_| self.gives_up("an answer is not UTF-8"))?;
        Ok(line.trim().to_owned())
    }
}

fn position(answer: &str, names: &[String]) -> Result<usize, String> {
    let number = answer.parse::<usize>().ok().and_then(|n| n.checked_sub(1)).filter(|n| *n < names.len());
    let found = number.or_else(|| names.iter().position(|name| name == answer));
    found.ok_or_else(|| format!("a number from 1 to {}, or a name", names.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(answers: &str) -> Person<&[u8], Vec<u8>> {
        Person::new(answers.as_bytes(), Vec::new(), "all stays")
    }

    #[test]
    fn answers_are_numbers_names_or_nothing() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let told = [const { String::new() }; 3];
        let mut it = person("\n2\nc\n9\n0\nx\nb\n");
        let mut one = || it.one_of("which", &names, &told).unwrap();
        assert_eq!([one(), one(), one(), one()], [0, 1, 2, 1]);
        let mut it = person("3, a,3\nnone\n\n");
        let mut some = || it.some_of("which", "2", &names, &told).unwrap();
        assert_eq!([some(), some(), some()], [vec![2, 0], vec![], vec![1]]);
        assert!(person("no\n").agrees("well", true).is_ok_and(|yes| !yes));
    }

    #[test]
    fn who_goes_away_or_never_answers_ends_it() {
        let ask =
            |answers: &str| person(answers).ask("q", "", |_| Err::<(), _>("no".into())).unwrap_err().message;
        assert_eq!(ask(""), "the answers ended before the last question; all stays");
        assert!(ask(&"x\n".repeat(TRIES)).contains("too many invalid answers"));
        assert!(ask(&"x".repeat(5000)).contains("longer than a line"));
    }
}
