//! The agents that cofferdam knows how to run, and the search for their programs on this machine.
//!
//! `tests/agents` proves the settings that each agent needs (docs/agents.md). Only data and a search of the
//! disk; nothing is started here.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use agent::environment::PATH;
use gateway::config::Kind;
use policy::Policy;

use super::settings;
use crate::console::as_word;
use crate::failure::Failure;
use crate::site::policies;
use crate::start::outside;

/// How an agent is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As a service that is always on. The port and the URL are where it answers, so that it can be reached
    /// from outside and watched.
    Service { port: u16, health: &'static str },
    /// By a person at a terminal, so in a sandbox that is kept running for it.
    Terminal,
}

/// A known agent.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its name, and its program's.
    pub name: &'static str,
    /// Its arguments.
    pub args: &'static [&'static str],
    /// How it is run.
    pub way: Way,
    /// The protocol that its model must speak.
    pub speaks: Kind,
    /// The settings file that tells it where its model is, relative to its home.
    pub settings: &'static str,
    /// Makes the content of that file.
    pub text: settings::Text,
    /// Whether that file names a model.
    pub names_model: bool,
}

/// Where OpenClaw's gateway answers.
pub const OPENCLAW_PORT: u16 = 18789;

/// All known agents.
pub const KNOWN: [Known; 5] = [
    Known {
        name: "claude",
        args: &[],
        way: Way::Terminal,
        speaks: Kind::Anthropic,
        settings: ".claude.json",
        text: settings::claude,
        names_model: false,
    },
    Known {
        name: "codex",
        // Its own sandbox needs namespaces, which no process may make inside.
        args: &["--dangerously-bypass-approvals-and-sandbox"],
        way: Way::Terminal,
        speaks: Kind::Openai,
        settings: ".codex/config.toml",
        text: settings::codex,
        names_model: true,
    },
    Known {
        name: "opencode",
        args: &[],
        way: Way::Terminal,
        speaks: Kind::Openai,
        settings: "opencode.json",
        text: settings::opencode,
        names_model: true,
    },
    Known {
        name: "openclaw",
        args: &["gateway", "run"],
        way: Way::Service { port: OPENCLAW_PORT, health: "http://127.0.0.1:18789/" },
        speaks: Kind::Openai,
        settings: ".openclaw/openclaw.json",
        text: settings::openclaw,
        names_model: true,
    },
    Known {
        name: "hermes",
        args: &["gateway", "run"],
        way: Way::Service { port: 8642, health: "http://127.0.0.1:8642/health" },
        speaks: Kind::Openai,
        settings: ".hermes/config.yaml",
        text: settings::hermes,
        names_model: true,
    },
];

/// Returns the known agents' names, for messages.
pub fn names() -> String {
    KNOWN.map(|known| known.name).join(", ")
}

/// Where a program is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// A sandbox shows it, and this is what it is called inside.
    Inside(String),
    /// In a place that no sandbox shows, such as a home directory.
    Outside(PathBuf),
    /// Nowhere in `PATH`.
    Nowhere,
}

/// A program that can be run inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program that a sandbox shows, by its name or path inside.
    Inside(String),
    /// This file, which a policy made for it shows.
    Shown(PathBuf),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside(program) => f.write_str(program),
            Self::Shown(file) => write!(f, "{}", file.display()),
        }
    }
}

impl Known {
    /// Returns the known agent of this name.
    ///
    /// # Errors
    /// There is none; the message lists those that there are.
    pub fn named(name: &str) -> Result<&'static Self, Failure> {
        KNOWN.iter().find(|known| known.name == name).ok_or_else(|| {
            Failure::refused(format!(
                "no agent is known as '{name}': there are {}; any other by its command, behind --",
                names()
            ))
        })
    }

    /// Returns its program. A program in a place that no sandbox shows is accepted if it is a single file and
    /// `show` allows showing it.
    ///
    /// # Errors
    /// It can't be run; the message says how to mend that.
    pub fn program(&self, path: &OsStr, shown: &[PathBuf], show: bool) -> Result<Program, Failure> {
        let name = self.name;
        match whereabouts(name, path, shown) {
            Whereabouts::Inside(program) => Ok(Program::Inside(program)),
            Whereabouts::Outside(file) => match alone(&file) {
                Some(real) if show => Ok(Program::Shown(real)),
                Some(_) => Err(Failure::refused(format!(
                    "{name} is at {}, which no sandbox shows: --show-program has that one file shown, read-only; or install it under \
                     /usr/local or /opt",
                    as_word(&file)
                ))),
                None => Err(Failure::refused(format!(
                    "{name} is at {}, which no sandbox shows, and is more than one file: install it under /usr/local or /opt, or name a \
                     policy with its directory under `read_only` in a cofferdam.yaml of your own (docs/agents.md)",
                    as_word(&file)
                ))),
            },
            Whereabouts::Nowhere => Err(Failure::refused(format!(
                "{name} is not in PATH: install it under /usr/local or /opt first, or give another agent's command behind --"
            ))),
        }
    }
}

/// The real path of a program that is one file by itself (ELF). `None` for a script, which needs its
/// interpreter and what it loads.
pub fn alone(program: &Path) -> Option<PathBuf> {
    let real = program.canonicalize().ok()?;
    real.to_str()?;
    let mut magic = [0; 4];
    policy::open_regular(&real).ok()?.read_exact(&mut magic).ok()?;
    (&magic == b"\x7fELF").then_some(real)
}

/// Finds a program by its name: first as a sandbox searches for it, then in the caller's own `path`.
pub fn whereabouts(name: &str, path: &OsStr, shown: &[PathBuf]) -> Whereabouts {
    let inside = outside::find(name.as_ref(), PATH.as_ref()).map(|program| located(program, name, shown));
    match inside {
        Some(inside @ Whereabouts::Inside(_)) => inside,
        _ => match outside::find(name.as_ref(), path) {
            Some(program) => located(program, name, shown),
            None => inside.unwrap_or(Whereabouts::Nowhere),
        },
    }
}

/// Returns whether a sandbox shows this file, and what it is called inside.
fn located(program: PathBuf, name: &str, shown: &[PathBuf]) -> Whereabouts {
    let is_shown = |file: &Path| shown.iter().any(|dir| file.starts_with(dir));
    // A link's target must be shown too.
    let real = program.canonicalize().unwrap_or_else(|_| program.clone());
    match is_shown(&program) && is_shown(&real) {
        false => Whereabouts::Outside(program),
        true if inside_path(&program) => Whereabouts::Inside(name.to_owned()),
        true => Whereabouts::Inside(program.display().to_string()),
    }
}

/// Whether the program is found inside by its name alone.
fn inside_path(program: &Path) -> bool {
    program.parent().is_some_and(|dir| PATH.split(':').any(|it| dir == Path::new(it)))
}

/// Returns which of this machine's paths a policy shows.
pub fn shown(policy: &Policy) -> Vec<PathBuf> {
    policies::paths(policy).read_only.into_iter().map(|rule| rule.path).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn an_agent_counts_where_it_and_what_it_leads_to_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for made in ["opt/bin", "home/bin"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        for file in ["opt/real", "home/real", "home/bin/codex"] {
            std::fs::write(at(file), "").unwrap();
            std::fs::set_permissions(at(file), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink(at("opt/real"), at("opt/bin/hermes")).unwrap();
        symlink(at("home/real"), at("opt/bin/claude")).unwrap();
        let path = std::env::join_paths([at("opt/bin"), at("home/bin")]).unwrap();
        let shown = [dir.path().canonicalize().unwrap().join("opt"), at("opt")];
        let place = |name: &str| whereabouts(name, &path, &shown);
        assert_eq!(place("hermes"), Whereabouts::Inside(at("opt/bin/hermes").display().to_string()));
        assert_eq!(place("claude"), Whereabouts::Outside(at("opt/bin/claude")));
        assert_eq!(place("codex"), Whereabouts::Outside(at("home/bin/codex")));
        assert_eq!(place("openclaw"), Whereabouts::Nowhere);
        // A sandbox's search path counts first, whatever comes first in the caller's.
        std::fs::write(at("home/bin/sh"), "").unwrap();
        std::fs::set_permissions(at("home/bin/sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let usual = ["/usr", "/bin", "/lib"].map(PathBuf::from);
        assert_eq!(whereabouts("sh", &path, &usual), Whereabouts::Inside("sh".to_owned()));
        let why = |show| Known::named("codex").unwrap().program(&path, &shown, show).unwrap_err().message;
        assert!(why(true).contains("which no sandbox shows, and is more than one file"), "{}", why(true));
        std::fs::write(at("home/bin/codex"), b"\x7fELF\x02").unwrap();
        assert!(why(false).contains("--show-program"), "{}", why(false));
        let taken = Known::named("codex").unwrap().program(&path, &shown, true).unwrap();
        assert_eq!(taken, Program::Shown(at("home/bin/codex").canonicalize().unwrap()));
        assert!(Known::named("gpt").unwrap_err().message.contains("claude, codex"));
    }
}
