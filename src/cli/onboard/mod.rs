//! `cofferdam onboard`: writes a first cofferdam.yaml.
//!
//! ```text
//! may it be written? → can strict start here? → chosen, typed or asked ─→ text ─→ checked as `up` checks it → written whole → what comes next
//! ```
//! Nothing is on disk before the last step, so that a user who leaves early leaves nothing behind.

pub mod agents;
mod file;
mod made;
mod person;
mod providers;
mod settings;
mod typed;
mod write;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};

use agent::doctor::{Verdict, examine};
use serde_json::json;

use self::agents::Way;
use self::file::{Chosen, words};
use self::write::Files;
use crate::cli::args::{OnboardArgs, StartArgs, UpArgs};
use crate::cli::ask::{Person, somebody_is_there};
use crate::cli::{Place, up};
use crate::config::Config;
use crate::console::{LogFormat, Paint, as_word, print, print_json, warn};
use crate::failure::{Failure, Outcome};
use crate::ids;
use crate::kept;
use crate::plan::PolicySource;
use crate::site::policies;
use crate::start::workspace;
use crate::state::Root;

/// Writes the file, and says what to do next.
pub(super) fn onboard(place: &Place, args: &OnboardArgs) -> Outcome {
    // The state directory is only compared with other paths. Without one, no path can be in it.
    let root = place.root().ok();
    let root = root.as_ref();
    let is_asked = !args.non_interactive;
    if is_asked && !somebody_is_there() {
        return Err(Failure::refused(
            "there is nobody to ask, since standard input or standard error is no terminal: say --non-interactive, and what you want \
             (`cofferdam onboard --help`)",
        ));
    }
    if !args.force && args.file.symlink_metadata().is_ok() {
        return Err(write::is_there(&args.file));
    }
    strict_can_start()?;
    let mut person = is_asked.then(|| Person::at_the_terminal("nothing was written"));
    let (chosen, told) = match &mut person {
        Some(person) => person::chosen(person, args)?,
        None => typed::chosen(args)?,
    };
    let mut planned = Planned::of(root, args, chosen)?;
    planned.notes.extend(told);
    if let Some(person) = &mut person {
        planned.confirm(person, &args.file)?;
    }
    let wrote = planned.write(args)?;
    report(args, &planned.chosen, &planned.notes, &wrote, next(root, args, &planned.chosen))
}

/// What will be written, once everything that can be refused was checked.
struct Planned {
    chosen: Chosen,
    /// Notes for the operator that are no reason to refuse.
    notes: Vec<String>,
    /// The workspace's path, from our working directory.
    workspace: Option<PathBuf>,
    /// A known agent's settings: the file, relative to its home, and its text.
    settings: Option<(&'static str, String)>,
    /// Where the sandbox's own policy will be written, if it isn't there already.
    policy: Option<PathBuf>,
}

impl Planned {
    fn of(root: Option<&Root>, args: &OnboardArgs, chosen: Chosen) -> Result<Self, Failure> {
        let workspace = chosen.workspace.as_deref().map(|named| reached(&args.file, named));
        if let Some(workspace) = &workspace {
            fit(root, workspace, &args.file)?;
        }
        let notes = checked(&chosen, &args.file)?;
        let policy = new_policy(&chosen, &args.file)?;
        Ok(Self { notes, workspace, settings: settings(&chosen), policy, chosen })
    }

    /// Returns the path of the agent's settings, from our working directory.
    fn settings_file(&self) -> Option<PathBuf> {
        let (workspace, (file, _)) = self.workspace.as_deref().zip(self.settings.as_ref())?;
        Some(workspace.join(file))
    }

    fn confirm<R: BufRead, W: Write>(&self, person: &mut Person<R, W>, file: &Path) -> Result<(), Failure> {
        let settings = self.settings_file().filter(|file| file.symlink_metadata().is_err());
        let files = [Some(file), self.policy.as_deref(), settings.as_deref()];
        let files: Vec<String> = files.into_iter().flatten().map(as_word).collect();
        person.tell(&format!("\n{}", self.chosen.text_to_show()))?;
        match person.agrees(&format!("Write {}?", files.join(", ")), true)? {
            true => Ok(()),
            false => Err(Failure::refused("nothing was written")),
        }
    }

    fn write(&mut self, args: &OnboardArgs) -> Result<Wrote, Failure> {
        let are_new = write::write(&Files {
            file: &args.file,
            text: &self.chosen.text(),
            policy: self.chosen.policy(),
            force: args.force,
            workspace: self.workspace.as_deref(),
            settings: self.settings.clone().filter(|_| self.workspace.is_some()),
        })?;
        if let Some((file, _)) = self.settings.as_ref().filter(|_| !are_new) {
            self.notes.push(match &self.workspace {
                Some(_) => format!("{file} in the workspace is left as it was: docs/agents.md says what must stand there"),
                None => format!("{file} has to be written into the sandbox's home, too: docs/agents.md says what must stand there"),
            });
        }
        Ok(Wrote { policy: self.policy.clone(), settings: self.settings_file().filter(|_| are_new) })
    }
}

/// The files that were written beside the configuration.
struct Wrote {
    policy: Option<PathBuf>,
    settings: Option<PathBuf>,
}

/// Returns where the sandbox's own policy will be written, if it needs one that isn't there already.
fn new_policy(chosen: &Chosen, file: &Path) -> Result<Option<PathBuf>, Failure> {
    let Some((name, text)) = chosen.policy() else { return Ok(None) };
    let place = file.with_file_name(name);
    if place == file {
        return Err(Failure::refused(format!(
            "{} is what the sandbox's policy is called: name another by --file",
            as_word(file)
        )));
    }
    Ok((!write::policy_stands(&place, &text)?).then_some(place))
}

/// Checks that everything can be enforced here, by the same proof as `doctor`.
fn strict_can_start() -> Result<(), Failure> {
    let trial = ids::trial()?;
    let examination = examine(trial.ids);
    if examination.is_healthy() {
        return Ok(());
    }
    let missing = examination.findings.iter().filter(|it| it.verdict == Verdict::Missing);
    let missing: Vec<&str> = missing.map(|finding| finding.control.as_str()).collect();
    Err(Failure::refused(format!(
        "`enforcement: strict` can't start on this machine, which lacks {}: `cofferdam doctor` says how to mend it",
        missing.join(", ")
    )))
}

/// Converts a path that is relative to the file into one that is relative to our working directory.
fn reached(file: &Path, named: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(named)
}

/// Checks, as a start would, that the directory can be a workspace beside this file. It may exist or not.
fn fit(root: Option<&Root>, place: &Path, file: &Path) -> Result<(), Failure> {
    let shown = as_word(place);
    let real = match place.symlink_metadata() {
        Ok(_) => workspace::check(place, &BTreeSet::new())?,
        Err(_) => {
            let parent = kept::beside(place);
            let parent = fs::canonicalize(parent)
                .map_err(|e| Failure::refused(format!("workspace {shown}: {}: {e}", parent.display())))?;
            parent.join(place.file_name().unwrap_or_default())
        }
    };
    let here = kept::beside(file);
    let here = fs::canonicalize(here).map_err(|e| Failure::refused(format!("{}: {e}", here.display())))?;
    if here.starts_with(&real) {
        return Err(Failure::refused(format!(
            "{} would lie in the workspace {shown}, where the agent could change it: name a directory beside it",
            as_word(file)
        )));
    }
    let state = root.map(|root| fs::canonicalize(root.dir()).unwrap_or_else(|_| root.dir().to_owned()));
    if state.is_some_and(|state| state.starts_with(&real) || real.starts_with(&state)) {
        return Err(Failure::refused(format!(
            "workspace {shown} holds state of cofferdam's, or lies in it: name a directory elsewhere, or none"
        )));
    }
    Ok(())
}

/// Checks the file with `up`'s own reader, as far as possible without a start. Returns notes for the
/// operator.
fn checked(chosen: &Chosen, file: &Path) -> Result<Vec<String>, Failure> {
    let start = StartArgs {
        enforcement: None,
        quiet: true,
        log_format: LogFormat::Text,
        allow_fault_injection: false,
    };
    let args = UpArgs { file: file.to_owned(), metrics: None, start };
    Config::of_text(&chosen.text(), file)?;
    let mut wanted = up::wanted(Config::of_text(&chosen.text_to_check(), file)?, &args)?;
    if let Some((name, text)) = chosen.policy() {
        wanted.policy = PolicySource { name, text, ..wanted.policy };
    }
    policies::check(&wanted.policy, true)?;
    let Some(inference) = &wanted.inference else {
        return Ok(vec![
            "no provider is named, so `inference.local` answers nothing: docs/providers.md".into(),
        ]);
    };
    inference.check().map_err(|faults| Failure::refused(faults.to_string()))?;
    let unresolved = inference.references().filter_map(|reference| reference.resolve().err());
    Ok(inference.warnings().chain(unresolved.map(|why| why.to_string())).collect())
}

/// Returns the settings file of a known agent, and its text.
fn settings(chosen: &Chosen) -> Option<(&'static str, String)> {
    let known = chosen.agent.known()?;
    let model = chosen.model_for(known).unwrap_or_default();
    Some((known.settings, (known.text)(&model, &chosen.token)))
}

/// Makes a token for the agent that can't be guessed.
fn token() -> Result<String, Failure> {
    let mut bytes = [0; 24];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn report(args: &OnboardArgs, chosen: &Chosen, notes: &[String], wrote: &Wrote, next: Next) -> Outcome {
    if args.json {
        let names: Vec<&str> = chosen.providers.iter().map(|offer| offer.name.as_str()).collect();
        let commands: Vec<String> = next.first.into_iter().chain([next.up]).chain([next.beside]).collect();
        print_json(&json!({
            "file": args.file, "name": chosen.name.as_str(), "agent": chosen.agent.name().as_str(),
            "command": chosen.agent.command(), "presets": chosen.presets, "providers": names,
            "workspace": chosen.workspace, "policy": wrote.policy, "settings": wrote.settings, "notes": notes,
            "next": commands,
        }))?;
        return Ok(0);
    }
    notes.iter().for_each(|note| warn(note));
    let paint = Paint::stdout();
    let mut text = format!("{} {}\n", paint.good("wrote"), as_word(&args.file));
    let mut also = |file: &Option<PathBuf>, what: &str| {
        if let Some(file) = file {
            text.push_str(&format!("{} {}, which {what}\n", paint.good("wrote"), as_word(file)));
        }
    };
    also(&wrote.policy, "shows the agent's own file besides the default's");
    also(&wrote.settings, "tells the agent where its model is");
    text.push_str(&format!("\n{}\n", paint.bold("next")));
    next.first.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
    text.push_str(&format!("  {}\n", next.up));
    text.push_str(&format!("{}\n  {}\n", paint.dim("while that runs, in another terminal"), next.beside));
    print(&text)?;
    Ok(0)
}

/// The commands to run next. Each works as it is printed.
struct Next {
    /// Commands to run first, one after the other.
    first: Vec<String>,
    /// The command that starts the sandbox; it stays in the foreground.
    up: String,
    /// The command to run while that one runs.
    beside: String,
}

fn next(root: Option<&Root>, args: &OnboardArgs, chosen: &Chosen) -> Next {
    let mut first = Vec::new();
    if let Some((policy, _)) = chosen.policy() {
        first.push(format!("cofferdam policy check {}", as_word(&args.file.with_file_name(policy))));
    }
    let (file, name) = (as_word(&args.file), &chosen.name);
    if !chosen.providers.is_empty() {
        first.push(format!("cofferdam provider test -f {file}"));
    }
    let cofferdam = match root.filter(|root| !is_usual(root)) {
        None => "cofferdam".to_owned(),
        Some(root) => format!("cofferdam --state {}", as_word(root.dir())),
    };
    let beside = match chosen.agent.known().map(|known| known.way) {
        Some(Way::Terminal) => format!("exec -it {name} -- {}", words(&chosen.agent.command())),
        _ => format!("logs {name} -f"),
    };
    Next { first, up: format!("{cofferdam} up -f {file}"), beside: format!("{cofferdam} {beside}") }
}

/// Whether a command without `--state` would use this state directory too.
fn is_usual(root: &Root) -> bool {
    let usual = std::env::var_os("COFFERDAM_STATE").map(PathBuf::from);
    Root::locate(usual.as_deref()).is_ok_and(|usual| usual.dir() == root.dir())
}
