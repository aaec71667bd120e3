//! The attack suite: every script of `inside/`, run in the sandbox as the agent, while its targets really
//! exist outside.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::harness::say;
use bed::stage::{PATIENCE, finish};

use crate::common::{self, program, workspace};
use crate::native;
use crate::verdict::{AtLeast, judge};

/// The module that every script imports; it refuses to run outside a cage. Never start a script outside a
/// sandbox.
const LIBRARY: &str = include_str!("inside/probe.py");

/// One script.
#[derive(Debug)]
pub struct Theme {
    name: &'static str,
    text: &'static str,
    at_least: AtLeast,
}

macro_rules! theme {
    ($constant:ident, $name:literal, $attacks:literal, $controls:literal) => {
        /// The script of this name.
        pub const $constant: Theme = Theme {
            name: $name,
            text: include_str!(concat!("inside/", $name, ".py")),
            at_least: AtLeast { attacks: $attacks, controls: $controls },
        };
    };
}

theme!(FILES, "files", 130, 10);
theme!(KERNEL, "kernel", 100, 6);
theme!(PRIVILEGES, "privileges", 30, 5);
theme!(PROCESSES, "processes", 130, 20);
theme!(SOCKETS, "sockets", 90, 12);
theme!(TERMINALS, "terminals", 14, 4);

theme!(BESIDE, "beside", 45, 4);
theme!(APART, "apart", 20, 2);
theme!(WINDOW, "window", 1, 1);

/// The themes that need nothing prepared outside.
pub const PLAIN: &[&Theme] = &[&KERNEL, &PRIVILEGES, &PROCESSES, &TERMINALS];

impl Theme {
    /// Puts the script into the workspace, and returns the command that runs it, with these facts about the
    /// outside.
    pub fn place(&self, stage: &Stage, facts: &[String]) -> Result<Vec<String>> {
        let python = program("python3")?;
        stage.script("probe.py", LIBRARY)?;
        let script = format!("{}.py", self.name);
        stage.script(&script, self.text)?;
        let mut command =
            vec![python, "-B".into(), format!("/sandbox/{script}"), format!("mode={}", stage.mode())];
        command.extend_from_slice(facts);
        Ok(command)
    }

    /// Judges the script's output.
    pub fn judge(&self, printed: &str) -> Result<()> {
        let counted = judge(self.name, printed, self.at_least)?;
        say(&format!("    {}: {counted}", self.name));
        Ok(())
    }

    /// Runs it as the agent of a sandbox of its own.
    fn run(&self, stage: &Stage, options: &[&str], facts: &[String]) -> Result<()> {
        let command = self.place(stage, facts)?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let workspace = workspace(stage);
        let done = stage.run(&[&["--workspace", &workspace], options].concat(), &command)?.expect_code(0)?;
        self.judge(&done.out())
    }
}

/// A directory outside `/tmp` (which is the sandbox's own inside), removed when dropped.
pub struct Outside(PathBuf);

impl Outside {
    /// Makes the directory, or skips the case where there is no place for it.
    pub fn make(stage: &Stage) -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let above = if root { Some("/srv".into()) } else { std::env::var_os("HOME") };
        let Some(above) = above.filter(|dir| !Path::new(dir).starts_with("/tmp")) else {
            bed::skip!("no directory outside /tmp to show")
        };
        let dir = Path::new(&above).join(stage.marker());
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A policy that also shows this directory, for reading.
fn showing(stage: &Stage, dir: &Path) -> Result<String> {
    let text = common::policy("").replace("    - /etc ", &format!("    - {}\n    - /etc ", dir.display()));
    Ok(stage.write("showing.yaml", text)?.display().to_string())
}

fn open_to_all(path: &Path, mode: u32) -> Result<()> {
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

/// Files: what isn't visible, what can't be written, and the ways across that boundary.
pub fn files(stage: &Stage) -> Result<()> {
    let secret = stage.write("home/secret", "the operator's")?;
    let outside = Outside::make(stage)?;
    let (lent, hidden) = (outside.path().join("lent"), outside.path().join("hidden"));
    for dir in [&lent, &lent.join("sub"), &hidden] {
        std::fs::create_dir_all(dir)?;
        open_to_all(dir, 0o777)?;
    }
    for dir in [&lent, &hidden] {
        std::fs::write(dir.join("file"), "lent")?;
        open_to_all(&dir.join("file"), 0o666)?;
    }
    // The control: outside, every user can write there.
    let mut writes = stage.command("sh");
    writes.args(["-c", "echo x > \"$0/sub/outside\" && : >> \"$0/file\"", &lent.display().to_string()]);
    finish(writes, PATIENCE)?.expect_code(0)?;

    let policy = showing(stage, &lent)?;
    let fact = |key: &str, path: &Path| format!("{key}={}", path.display());
    let facts = [
        fact("home", secret.parent().unwrap()),
        fact("state", &stage.state()),
        fact("stage", stage.dir()),
        fact("workspace", &stage.workspace()),
        fact("lent", &lent),
    ];
    FILES.run(stage, &["--policy", &policy], &facts)?;
    ensure!(std::fs::read_to_string(lent.join("file"))? == "lent", "what was lent has changed");
    let names = std::fs::read_dir(lent.join("sub"))?.count();
    ensure!(names == 1, "{names} files in the lent directory");
    Ok(())
}

/// Every system call that the filter refuses; the operator's shared memory segment really exists.
pub fn kernel(stage: &Stage) -> Result<()> {
    let segment = Segment::make(stage)?;
    KERNEL.run(stage, &[], &segment.0.iter().map(|id| format!("shm={id}")).collect::<Vec<_>>())
}

/// A System V shared memory segment of the operator's, removed when dropped; `None` where this machine has no
/// program to make one.
struct Segment(Option<String>);

impl Segment {
    fn make(stage: &Stage) -> Result<Self> {
        if bed::stage::program("ipcmk").is_none() {
            say("    kernel: no ipcmk on this machine: the operator's shared memory is not tried");
            return Ok(Self(None));
        }
        let mut make = stage.command("ipcmk");
        make.args(["--shmem", "4096", "--mode", "0666"]);
        let said = finish(make, PATIENCE)?.expect_code(0)?.out();
        let id = said.split_whitespace().last().context("ipcmk names no segment")?;
        Ok(Self(Some(id.to_owned())))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(id) = &self.0 {
            let _ = Command::new("ipcrm").args(["--shmem-id", id]).status();
        }
    }
}

/// No privilege, whatever is run: the host's set-id programs, and some that the operator left in the
/// workspace.
pub fn privileges(stage: &Stage) -> Result<()> {
    let mut facts = Vec::new();
    let outside = Outside::make(stage)?;
    open_to_all(outside.path(), 0o755)?;
    if nix::unistd::geteuid().is_root() {
        for (name, mode) in [("suid-id", 0o4755), ("sgid-id", 0o2755)] {
            facts.extend(left_behind(stage, name, "id", mode)?);
        }
        facts.extend(with_capabilities(stage, &outside)?);
    } else {
        say("    privileges: only root can leave set-id programs in the workspace: not tried");
    }
    let policy = showing(stage, outside.path())?;
    PRIVILEGES.run(stage, &["--policy", &policy], &facts)
}

/// A copy of a program in the workspace that belongs to root and has this mode. The control: outside, an
/// ordinary user gains privileges by it.
fn left_behind(stage: &Stage, name: &str, of: &str, mode: u32) -> Result<Option<String>> {
    let path = stage.workspace().join(name);
    std::fs::copy(program(of)?, &path)?;
    std::os::unix::fs::chown(&path, Some(0), Some(0))?;
    open_to_all(&path, mode)?;
    let mut outside = stage.command(&path);
    outside.arg(if mode & 0o4000 != 0 { "-u" } else { "-g" });
    as_an_ordinary_user(&mut outside);
    let gains = finish(outside, PATIENCE)?.expect_code(0)?.out().trim() == "0";
    if !gains {
        say(&format!("    privileges: {name} gains nothing outside either (nosuid?): not tried"));
    }
    Ok(gains.then(|| format!("{name}=yes")))
}

fn as_an_ordinary_user(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.uid(54321).gid(54321);
}

/// A copy of `cat` that may read everything by its file capability, and a file for root alone.
fn with_capabilities(stage: &Stage, outside: &Outside) -> Result<Option<String>> {
    let Ok(setcap) = which("setcap") else {
        say("    privileges: no setcap on this machine: file capabilities are not tried");
        return Ok(None);
    };
    let path = stage.workspace().join("caps-cat");
    std::fs::copy(program("cat")?, &path)?;
    std::os::unix::fs::chown(&path, Some(0), Some(0))?;
    open_to_all(&path, 0o755)?;
    // Not in the workspace, which is shown as the agent's own even if it belongs to root.
    let secret = outside.path().join("roots-own");
    std::fs::write(&secret, "root's own")?;
    open_to_all(&secret, 0o600)?;
    let set = Command::new(setcap).arg("cap_dac_override=ep").arg(&path).status()?.success();
    let mut reading = stage.command(&path);
    reading.arg(&secret);
    as_an_ordinary_user(&mut reading);
    let gains = set && finish(reading, PATIENCE)?.out() == "root's own";
    if !gains {
        say("    privileges: file capabilities do nothing outside either: not tried");
    }
    Ok(gains.then(|| format!("caps-cat={}", secret.display())))
}

fn which(name: &str) -> Result<PathBuf> {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|p| p.exists());
    found.with_context(|| format!("no {name}"))
}

/// Init, the machine's processes, /proc, /sys, control groups.
pub fn processes(stage: &Stage) -> Result<()> {
    // Another sandbox: its heart, supervisor and init are targets as good as the agent's own.
    let mut other =
        common::Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let heart = other.heart().pid();
    let supervisor = other.status()?["supervisor_pid"].as_i64().context("no supervisor")?;
    PROCESSES.run(stage, &[], &[format!("heart={heart}"), format!("supervisor={supervisor}")])
}

/// Sockets: which can be made, which peers they reach, and whether one can impersonate a peer.
pub fn sockets(stage: &Stage) -> Result<()> {
    let name = stage.marker();
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    // The controls: from outside, each of those is reachable.
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name)?)?;
    std::net::TcpStream::connect(("93.184.215.14", 443))?;
    std::net::TcpStream::connect(("127.0.0.1", 8000))?;
    let other = common::Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let control = stage.state().join(&other.name).join("control.sock");
    ensure!(control.exists(), "no control socket at {}", control.display());
    let mark = stage.marker();
    SOCKETS.run(
        stage,
        &[],
        &[format!("abstract={name}"), format!("mark={mark}"), format!("control={}", control.display())],
    )?;
    let arrived = stage.world().recorder().with_marker(&mark);
    ensure!(arrived.is_empty(), "something arrived: {arrived:?}");
    Ok(())
}

/// Terminals, without one of its own.
pub fn terminals(stage: &Stage) -> Result<()> {
    TERMINALS.run(stage, &[], &[])
}

/// The scripts refuse to try anything where one sign of the cage is missing.
pub fn the_attacks_guard_themselves(stage: &Stage) -> Result<()> {
    native::compile(stage)?;
    let command = KERNEL.place(stage, &[])?.join(" ");
    let workspace = workspace(stage);
    for command in [command.as_str(), "/sandbox/native"] {
        // Still inside, but not where the agent is started.
        let script = format!("cd /tmp && exec {command}");
        let done = stage.run(&["--workspace", &workspace], &["sh", "-c", &script])?.expect_code(99)?;
        ensure!(done.out().is_empty(), "it tried something: {}", done.out());
        ensure!(done.err().contains("refusing to try anything"), "{}", done.err());
    }
    Ok(())
}
