//! Paths, limits and reports: what a start refuses, and which controls it reports as proved.

use anyhow::{Context, Result, ensure};
use bed::{Mode, Stage};

use crate::common::{self, Sandbox, program};
use crate::themes::Outside;

/// A path that the policy shows is there, read-only; what lies beside it isn't.
pub fn the_policys_paths_are_the_only_ones(stage: &Stage) -> Result<()> {
    let outside = Outside::make(stage)?;
    let (shown, hidden) = (outside.path().join("shown"), outside.path().join("hidden"));
    for dir in [&shown, &hidden] {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("file"), "text")?;
    }
    let text = common::policy("").replace("    - /etc ", &format!("    - {}\n    - /etc ", shown.display()));
    let file = stage.write("paths.yaml", text)?.display().to_string();
    let script = format!(
        "cat {0}/file && ! (echo x >> {0}/file) 2>/dev/null && ! cat {1}/file 2>/dev/null && ! touch {0}/new 2>/dev/null",
        shown.display(),
        hidden.display()
    );
    let done = stage.run(&["--policy", &file], &["sh", "-c", &script])?.expect_code(0)?;
    ensure!(done.out() == "text", "{:?}", done.out());
    ensure!(std::fs::read_to_string(shown.join("file"))? == "text");
    Ok(())
}

/// A path that isn't there is an error unless it is optional.
pub fn a_missing_path_stops_the_start(stage: &Stage) -> Result<()> {
    let missing = common::policy("").replace("    - /etc ", "    - /no/such/path\n    - /etc ");
    let file = stage.write("missing.yaml", missing)?;
    let done = stage.run(&["--policy", &file.display().to_string()], &["true"])?.expect_code(125)?;
    ensure!(done.err().contains("/no/such/path"), "{}", done.err());
    let optional = common::policy("")
        .replace("    - /etc ", "    - { path: /no/such/path, optional: true }\n    - /etc ");
    let file = stage.write("optional.yaml", optional)?;
    stage.run(&["--policy", &file.display().to_string()], &["true"])?.expect_code(0)?;
    Ok(())
}

/// A client of a control socket counts as the operator, and without root the agent has the operator's uid; so
/// the state directory must never be shown.
pub fn the_state_is_never_shown(stage: &Stage) -> Result<()> {
    let state = stage.state();
    std::fs::create_dir_all(&state)?;
    let link = stage.write("link", "")?;
    std::fs::remove_file(&link)?;
    std::os::unix::fs::symlink(&state, &link)?;
    let above = state.parent().context("a parent")?.to_path_buf();
    for (n, shown) in [state.clone(), above, state.join("neighbour"), link].into_iter().enumerate() {
        if n == 2 {
            std::fs::create_dir_all(&shown)?;
        }
        let entry = format!("    - {}\n    - /etc ", shown.display());
        let file = stage.write("shown.yaml", common::policy("").replace("    - /etc ", &entry))?;
        let policy = file.display().to_string();
        let refused = stage.run(&["--policy", &policy], &["true"])?.expect_code(125)?.err();
        ensure!(refused.contains("its own state") && refused.contains("name the real"), "{refused}");
        let root = shown.display().to_string();
        let refused = stage.run(&["--root", &root], &["true"])?.expect_code(125)?.err();
        ensure!(refused.contains("its own state"), "{refused}");
    }
    Ok(())
}

/// Even if another state directory is named, the usual one holds sandboxes of the same operator. The test
/// doesn't create root's: a directory that doesn't exist yet counts too.
pub fn the_usual_state_is_never_shown(stage: &Stage) -> Result<()> {
    let places = match stage.mode() {
        Mode::Rooted => vec!["/var/lib".to_owned()],
        Mode::Rootless => {
            let above = stage.dir().join("home/.local");
            let neighbour = above.join("state/cofferdam/neighbour/workspace");
            std::fs::create_dir_all(&neighbour)?;
            [above, neighbour].map(|place| place.display().to_string()).into()
        }
    };
    for place in &places {
        for (option, why) in [("--workspace", "holds state of cofferdam's"), ("--root", "its own state")] {
            let refused = stage.run(&[option, place], &["true"])?.expect_code(125)?.err();
            ensure!(refused.contains(why) && refused.contains("name a directory"), "{option}: {refused}");
        }
        let entry = format!("    - {place}\n    - /etc ");
        let file = stage.write("usual.yaml", common::policy("").replace("    - /etc ", &entry))?;
        let refused = stage.run(&["--policy", &file.display().to_string()], &["true"])?.expect_code(125)?;
        ensure!(refused.err().contains("its own state"), "{}", refused.err());
    }
    // Its own workspace is a sandbox's to show, named or not.
    stage.run(&["--name", "own"], &["touch", "kept"])?.expect_code(0)?;
    let own = stage.state().join("own/workspace").display().to_string();
    stage.run(&["--name", "own", "--workspace", &own], &["test", "-f", "kept"])?.expect_code(0)?;
    Ok(())
}

/// A fork bomb meets its bound, and the sandbox lives.
pub fn forks_are_bounded(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    // Bounded by the script itself too: it asks for a thousand, and no more.
    let script = "import os,time,signal\npids=[]\ntry:\n  for i in range(1000):\n    p=os.fork()\n    if p==0:\n      \
                  time.sleep(60)\n      os._exit(0)\n    pids.append(p)\nexcept OSError as e: print('stopped', len(pids), e.errno)\n\
                  for p in pids: os.kill(p, signal.SIGKILL)\nfor p in pids: os.waitpid(p,0)\nprint('alive')\n";
    let done = stage.run(&[], &[&python, "-c", script])?.expect_code(0)?;
    ensure!(done.out().contains("stopped") && done.out().contains("alive"), "{}", done.out());
    Ok(())
}

/// `doctor` names the controls, and `status` says that each is enforced.
pub fn doctor_and_status_agree(stage: &Stage) -> Result<()> {
    let doctor = stage.json(&["doctor", "--json"])?;
    let text = doctor.to_string();
    for control in ["landlock", "seccomp", "capabilities", "network"] {
        ensure!(text.contains(control), "doctor is silent about {control}: {text}");
    }
    let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let status = sandbox.status()?;
    let controls = status["controls"].as_array().unwrap();
    ensure!(!controls.is_empty(), "{status}");
    ensure!(controls.iter().all(|c| c["enforced"] == true), "{controls:?}");
    Ok(())
}
