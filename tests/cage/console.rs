//! A person at a terminal: runs the command under test on a pseudo-terminal of the test's, as its controlling
//! terminal.

#![allow(dead_code, reason = "each suite uses its part of this")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bed::Stage;
use bed::stage::{PATIENCE, poll};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

/// The terminal and the command that runs on it. The command is killed on drop.
pub struct Console {
    keyboard: File,
    /// Kept open, so that output which arrives after the command's end can still be read.
    device: OwnedFd,
    /// The terminal's modes before anything ran on it.
    before: Termios,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    read: usize,
}

impl Console {
    /// Starts `cofferdam ARGS…` on a terminal of this size.
    pub fn start(stage: &Stage, size: (u16, u16), args: &[&str]) -> Result<Self> {
        Self::with(stage, size, &stage.cofferdam(args))
    }

    /// Starts a shell's script there, to which `cofferdam` is `$0`.
    pub fn shell(stage: &Stage, size: (u16, u16), shell: &str, script: &str) -> Result<Self> {
        let mut command = stage.command(shell);
        command.args(["-c", script]).arg(stage.binary());
        copy_environment(&stage.cofferdam([""; 0]), &mut command);
        Self::with(stage, size, &command)
    }

    fn with(stage: &Stage, size: (u16, u16), what: &Command) -> Result<Self> {
        // `setsid` makes it the controlling terminal, which a test without unsafe code can't.
        let Some(setsid) = bed::stage::program("setsid") else { bed::skip!("no setsid on this machine") };
        let pty = openpty(None, None)?;
        tcsetwinsize(&pty.slave, winsize(size))?;
        let mut command = stage.command(setsid);
        command.arg("--ctty").arg(what.get_program()).args(what.get_args());
        copy_environment(what, &mut command);
        Self::on(pty, command)
    }

    fn on(pty: nix::pty::OpenptyResult, mut command: Command) -> Result<Self> {
        // A terminal belongs to its user, and the mode's user may be another than the test's.
        let device = &pty.slave;
        let before = tcgetattr(device)?;
        nix::sys::stat::fchmod(device, nix::sys::stat::Mode::from_bits_truncate(0o666))?;
        command.stdin(device.try_clone()?).stdout(device.try_clone()?).stderr(device.try_clone()?);
        let child = command.spawn().context("starting on a terminal")?;
        drop(command);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (theirs, mut screen) = (Arc::clone(&shown), File::from(pty.master.try_clone()?));
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut chunk) {
                theirs.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..read]);
            }
        });
        Ok(Self { keyboard: File::from(pty.master), device: pty.slave, before, child, shown, read: 0 })
    }

    /// Everything shown so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until a text is shown after what was waited for before.
    pub fn see(&mut self, text: &str) -> Result<()> {
        let (shown, from) = (Arc::clone(&self.shown), self.read);
        let found = poll(&format!("{text:?} on the terminal"), PATIENCE, || {
            let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = shown.get(from..)?;
            rest.windows(text.len()).position(|window| window == text.as_bytes())
        });
        self.read += found.with_context(|| format!("it shows {:?}", self.screen()))? + text.len();
        Ok(())
    }

    /// Types bytes: `\x03` is Ctrl-C, `\x1a` Ctrl-Z.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// Reads the next typed line, as a shell would that has the terminal meanwhile.
    pub fn read_line(&self) -> Result<String> {
        let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        let within = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        anyhow::ensure!(nix::poll::poll(&mut fds, within)? > 0, "somebody else reads what is typed");
        let mut line = [0; 256];
        // Opened anew, since the command shares the flags of this one: whoever else took the line meanwhile
        // must not leave the test waiting.
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let device = format!("/proc/self/fd/{}", self.device.as_raw_fd());
        let device = File::options().read(true).custom_flags(flags).open(device)?;
        let read = nix::unistd::read(&device, &mut line).context("somebody else reads what is typed")?;
        Ok(String::from_utf8_lossy(line.get(..read).unwrap_or_default()).into_owned())
    }

    /// Resizes the window; the kernel signals the foreground process group.
    pub fn resize(&self, size: (u16, u16)) -> Result<()> {
        Ok(tcsetwinsize(&self.keyboard, winsize(size))?)
    }

    /// The command's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Whether the command is stopped (proc_pid_stat(5)).
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    /// Kills the command, without a chance to restore the terminal.
    pub fn kill(&mut self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGKILL)?)
    }

    /// Waits for the command's end.
    pub fn end(&mut self) -> Result<ExitStatus> {
        let shown = Arc::clone(&self.shown);
        let child = &mut self.child;
        poll("the command's end", PATIENCE, || child.try_wait().ok().flatten()).with_context(|| {
            format!(
                "it shows {:?}",
                String::from_utf8_lossy(&shown.lock().unwrap_or_else(PoisonError::into_inner))
            )
        })
    }

    /// Whether the terminal is in cooked mode again: gives whole lines, and turns Ctrl-C into a signal.
    pub fn is_cooked(&self) -> Result<bool> {
        let modes = rustix::termios::tcgetattr(&self.device)?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO))
    }

    /// Whether every mode and special character of the terminal is what it was before.
    pub fn is_as_before(&self) -> Result<bool> {
        let (now, before) = (tcgetattr(&self.device)?, &self.before);
        Ok(now.input_modes == before.input_modes
            && now.output_modes == before.output_modes
            && now.control_modes == before.control_modes
            && now.local_modes == before.local_modes
            && format!("{:?}", now.special_codes) == format!("{:?}", before.special_codes))
    }

    /// Makes the terminal what a shell would make it.
    pub fn cook(&self) -> Result<()> {
        let mut modes = rustix::termios::tcgetattr(&self.device)?;
        modes.local_modes |= LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO;
        Ok(rustix::termios::tcsetattr(&self.device, rustix::termios::OptionalActions::Now, &modes)?)
    }

    /// Whether the command has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// Bytes of unread input on the terminal: an injection would show here.
    pub fn waiting_input(&self) -> Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.device)?)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn copy_environment(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

fn winsize((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
