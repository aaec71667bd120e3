//! What a sandbox leaves on purpose, its directory, and how that is removed.

use anyhow::{Result, ensure};
use bed::Stage;

use crate::common::Sandbox;

pub fn the_state_directory_can_be_used_again(stage: &Stage) -> Result<()> {
    let name = stage.name();
    let script = "cat note 2>/dev/null; echo written > note";
    stage.run(&["--name", &name], &["sh", "-c", script])?.expect_code(0)?;
    // Unfinished files of a start that was killed while it wrote them.
    let unfinished =
        ["ids", "places"].map(|file| stage.state().join(&name).join(format!("{file}.0123456789abcdef")));
    for path in &unfinished {
        std::fs::write(path, "")?;
    }
    let again = stage.run(&["--name", &name], &["sh", "-c", script])?.expect_code(0)?;
    ensure!(again.out() == "written\n", "the workspace is not the same: {:?}", again.out());
    ensure!(unfinished.iter().all(|path| !path.exists()), "what a killed start left stays");
    stage.call(&["audit", "verify", &name])?.expect_code(0)?;
    Ok(())
}

/// A sandbox's directory goes as a whole, whatever its agent made of it, and nothing beyond it does.
pub fn what_is_removed_is_gone(stage: &Stage) -> Result<()> {
    let kept = stage.write("kept", "precious")?;
    let made = format!(
        "mkdir -p deep/er && ln -s {} deep/er/link && ln -s / root && echo x > deep/file",
        kept.display()
    );
    let sandbox =
        Sandbox::start(stage, &[], &["sh", "-c", &format!("{made}; echo ready; exec sleep 1000")], "ready")?;
    let dir = stage.state().join(&sandbox.name);
    let running = stage.call(&["rm", "--yes", &sandbox.name])?.expect_code(125)?.err();
    ensure!(running.contains(&format!("`cofferdam stop {}` first", sandbox.name)), "{running}");
    ensure!(dir.join("workspace/deep/file").exists(), "of one that runs, something went");
    stage.call(&["stop", &sandbox.name])?.expect_code(0)?;
    let unasked = stage.call(&["rm", &sandbox.name])?.expect_code(125)?.err();
    ensure!(unasked.contains("--yes") && dir.exists(), "{unasked}");
    let both = stage.call(&["rm", "--yes", "nobody", &sandbox.name])?.expect_code(125)?.err();
    ensure!(both.contains("no sandbox named 'nobody'") && both.contains("removed"), "{both}");
    ensure!(!dir.exists() && !stage.state().join("nobody").exists());
    ensure!(std::fs::read_to_string(&kept)? == "precious");
    // Nor do directories that keep out their owner stay.
    let closed = "mkdir -p a/b/c && chmod 0 a/b/c a/b a";
    stage.run(&["--name", "closed"], &["sh", "-c", closed])?.expect_code(0)?;
    stage.call(&["rm", "--yes", "closed"])?.expect_code(0)?;
    ensure!(!stage.state().join("closed").exists());
    // The name is a new one's.
    stage.run(&["--name", &sandbox.name], &["true"])?.expect_code(0)?;
    Ok(())
}
