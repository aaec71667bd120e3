//! What Python can't do, as a small C program: descriptors before any runtime, other tables of calls, threads
//! by hand.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::harness::say;

use crate::common::workspace;
use crate::verdict::{AtLeast, judge};

/// It refuses to run where it isn't caged; never start it outside a sandbox.
const SOURCE: &str = include_str!("inside/native.c");
/// What it tries at least; other tables of calls are x86-64's alone.
const AT_LEAST: AtLeast =
    AtLeast { attacks: if cfg!(target_arch = "x86_64") { 17 } else { 10 }, controls: 7 };

/// Compiles it into the case's workspace, or says that there is no compiler.
pub fn compile(stage: &Stage) -> Result<()> {
    static COMPILED: Mutex<Option<Vec<u8>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap();
    let program = stage.workspace().join("native");
    if let Some(bytes) = &*compiled {
        std::fs::write(&program, bytes)?;
    } else {
        let Some(cc) = ["cc", "gcc", "clang"].iter().find_map(|name| bed::stage::program(name)) else {
            bed::skip!("no C compiler on this machine")
        };
        let source: PathBuf = stage.write("native.c", SOURCE)?;
        let done = Command::new(cc).args(["-O1", "-pthread", "-o"]).arg(&program).arg(source).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        *compiled = Some(std::fs::read(&program)?);
    }
    drop(compiled);
    std::os::unix::fs::chown(&program, Some(stage.uid()), Some(stage.uid())).ok();
    Ok(std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
}

/// Judges the program's output.
pub fn judged(printed: &str) -> Result<()> {
    say(&format!("    native: {}", judge("native", printed, AT_LEAST)?));
    Ok(())
}

/// Runs it as the agent.
pub fn native(stage: &Stage) -> Result<()> {
    compile(stage)?;
    let done = stage.run(&["--workspace", &workspace(stage)], &["/sandbox/native"])?.expect_code(0)?;
    judged(&done.out())
}
