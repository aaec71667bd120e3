//! What no start takes: each is refused with one line that says how to mend it, and leaves nothing.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, finish};

use crate::common;

pub fn refusals_are_one_line_with_a_mend(stage: &Stage) -> Result<()> {
    let bad = stage.write("bad.yaml", "version: 1\nnetwork_policies: { a: { endponts: [] } }\n")?;
    let bad = bad.display().to_string();
    // Another sandbox's directory, with its control socket and audit log.
    stage.run(&["--name", "neighbour"], &["true"])?.expect_code(0)?;
    let state = stage.state().display().to_string();
    let neighbour = stage.state().join("neighbour").display().to_string();
    let ports: Vec<String> = (0..129).map(|n| (20_000 + n).to_string()).collect();
    let too_many: Vec<&str> = ports.iter().flat_map(|port| ["--forward", port]).collect();
    let cases: &[&[&str]] = &[
        &too_many,
        &["--workspace", "/no/such/dir"],
        &["--workspace", &state],
        &["--workspace", &neighbour],
        &["--profile", "no-such-profile"],
        &["--preset", "no-such-preset"],
        &["--policy", "/no/such/policy.yaml"],
        &["--config", "/no/such/cofferdam.yaml"],
        &["--name", "Not A Name"],
        &["--metrics", "nonsense"],
        &["--metrics", "127.0.0.1:0"],
        &["--env", ""],
        &["--forward", "nonsense"],
        &["--policy", &bad],
    ];
    for options in cases {
        let done = stage.run(options, &["true"])?;
        ensure!(done.code() == 125, "{options:?}: {}\n{}", done.code(), done.err());
        ensure!(done.stdout.is_empty() && !done.err().is_empty(), "{options:?}");
        ensure!(
            done.err().lines().all(|line| line.starts_with("cofferdam: ")),
            "{options:?}: {}",
            done.err()
        );
    }
    for (option, file, mend) in [
        ("--policy", "/no/such/policy.yaml", "`cofferdam policy presets locked-down > /no/such/policy.yaml`"),
        ("--config", "/no/such/cofferdam.yaml", "`run --config FILE`"),
    ] {
        let said = stage.run(&[option, file], &["true"])?.err();
        ensure!(said.contains("there is no such file: ") && said.contains(mend), "{said}");
    }
    let bad_agent = "name: a\nagents: { Not_A_Name: { command: [\"true\"] } }\n";
    let bad_agent = stage.write("agent.yaml", bad_agent)?.display().to_string();
    let said = stage.call(&["up", "-f", &bad_agent])?.expect_code(125)?.err();
    ensure!(said.contains("'Not_A_Name' can't name an agent"), "{said}");
    let spaced =
        stage.run(&["--name", "failed", "--workspace", "/no such/dir"], &["true"])?.expect_code(125)?;
    ensure!(spaced.err().contains("mkdir -p '/no such/dir'"), "{}", spaced.err());
    ensure!(!stage.state().join("failed").exists(), "a start that failed left its directory");
    // A file's own bytes neither break the line nor reach the terminal.
    let no_image = stage.write("no-image", format!("x\n\x1b]0;t\x07{}", "\n".repeat(1024)))?;
    let said = stage.run(&["--root", &no_image.display().to_string()], &["true"])?.expect_code(125)?.err();
    ensure!(said.lines().count() == 1 && said.contains("no readable tar archive"), "{said}");
    ensure!(!said.contains('\x1b'), "{said:?}");
    // A name's own line breaks don't break the line either.
    for (options, program, code) in [([].as_slice(), "a\nb", 127), (&["--name", "a\nb"], "true", 125)] {
        let said = stage.run(options, &[program])?.expect_code(code)?.err();
        ensure!(said.lines().count() == 1 && said.contains("a\\nb"), "{said}");
    }
    for (limit, option) in [("-u 63", "nproc"), ("-f 4095", "fsize"), ("-d 262143", "data")] {
        let mut command = stage.command("/bin/bash");
        command.env("COFFERDAM_STATE", stage.state());
        command.args(["-c", &format!("ulimit -S {limit}; exec \"$0\" run -- true")]).arg(stage.binary());
        let said = finish(command, PATIENCE)?.expect_code(125)?.err();
        let option = format!("`prlimit --pid $$ --{option}=");
        ensure!(said.lines().count() == 1 && said.contains(&option), "{said}");
    }
    let said = stage.run(&["--env", ""], &["true"])?.err();
    ensure!(said.contains("NAME=VALUE") && !said.contains("--env =VALUE"), "{said}");
    let mut command = stage.cofferdam(["run", "--env", "ODD", "--", "true"]);
    command.env("ODD", std::ffi::OsStr::from_bytes(b"\xff"));
    let said = finish(command, PATIENCE)?.expect_code(125)?.err();
    ensure!(said.contains("not UTF-8"), "{said}");
    let said = stage.run(&["--policy", &bad], &["true"])?.err();
    ensure!(said.contains(":2:") && said.contains("endpoints"), "no line, or no nearest name: {said}");
    Ok(())
}

/// Paths that can't be recorded are refused by name, and a refused start leaves nothing that a later one
/// trips over.
pub fn a_program_of_endless_name_is_refused_once(stage: &Stage) -> Result<()> {
    for length in [4096, 66_000] {
        let said = stage.run(&[], &[&"a".repeat(length)])?.expect_code(126)?.err();
        ensure!(said.lines().count() == 1 && said.len() < 300, "{} bytes", said.len());
    }
    // As an agent of a service, whose command is no option.
    let text = format!(
        "name: endless\nagents:\n  a: {{ command: [{}], restart: {{ policy: never }} }}\n",
        "a".repeat(66_000)
    );
    let file = stage.write("endless.yaml", text)?.display().to_string();
    let done = finish(stage.cofferdam(["up", "-f", &file, "--metrics", "off"]), PATIENCE)?;
    ensure!([125, 126, 127].contains(&done.code()), "{}", done.code());
    Ok(())
}

pub fn a_working_directory_that_is_gone_is_named(stage: &Stage) -> Result<()> {
    let mut command = stage.command("/bin/sh");
    command.env("COFFERDAM_STATE", stage.state()).current_dir(stage.dir().join("home"));
    let script = "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" run --workspace . -- true";
    command.args(["-c", script]).arg(stage.binary());
    let said = finish(command, PATIENCE)?.expect_code(125)?.err();
    ensure!(said.contains("this shell's working directory is gone"), "{said}");
    Ok(())
}

pub fn a_refused_start_spoils_no_name(stage: &Stage) -> Result<()> {
    use std::ffi::{OsStr, OsString};
    let odd = stage.dir().join(OsStr::from_bytes(b"b\xff d"));
    std::fs::create_dir(&odd)?;
    let through = stage.dir().join("through");
    std::os::unix::fs::symlink(&odd, &through)?;
    stage.run(&["--name", "victim"], &["true"])?.expect_code(0)?;
    let refused = |option: &str, path: &Path, inside: &Path| -> Result<String> {
        let args = ["run", "--name", "victim", option].map(OsString::from);
        let rest = ["--", "true"].map(OsString::from);
        let mut command = stage.cofferdam(args.into_iter().chain([path.into()]).chain(rest));
        command.current_dir(inside);
        Ok(finish(command, PATIENCE)?.expect_code(125)?.err())
    };
    for (option, path, inside) in [
        ("--workspace", odd.as_path(), stage.dir()),
        ("--workspace", &through, stage.dir()),
        ("--workspace", Path::new("."), &odd),
        ("--root", &odd, stage.dir()),
        ("--config", &odd, stage.dir()),
    ] {
        let said = refused(option, path, inside)?;
        ensure!(
            said.lines().count() == 1 && said.contains(option) && said.contains(r"b\xFF d"),
            "{option} {path:?}: {said}"
        );
        stage.run(&["--name", "victim"], &["true"])?.expect_code(0)?;
    }
    Ok(())
}

/// A mistyped program is reported by name, rather than tried for ever.
pub fn a_service_without_its_program_is_refused(stage: &Stage) -> Result<()> {
    for restart in ["", ", restart: { policy: never }"] {
        let text = format!(
            "name: lost\nmetrics: {{ listen: \"off\" }}\nagents:\n  a: {{ command: [no-such-program]{restart} }}\n  b: {{ command: [sleep, '1000'] }}\n"
        );
        let file = stage.write("lost.yaml", text)?.display().to_string();
        let refused = stage.call(&["up", "-f", &file])?.expect_code(127)?.err();
        ensure!(refused.contains("agent 'a': no-such-program: not found inside the sandbox"), "{refused}");
        // Its whole life is on record, short as it was.
        let log = common::audit(stage, "lost")?;
        let life: Vec<_> = log.iter().rev().take(4).map(|record| &record["event"]).collect();
        let changes: Vec<_> = life.iter().filter_map(|event| event["change"].as_str()).collect();
        let (first, last) = (changes.last(), changes.first());
        ensure!((first, last) == (Some(&"started"), Some(&"stopped")), "{life:?}");
        ensure!(changes.contains(&"failed"), "{life:?}");
    }
    Ok(())
}

/// Most agents are installed in a home, which no sandbox shows: the message says where the program is, and
/// how to show it.
pub fn a_program_in_a_home_is_told_of(stage: &Stage) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let program = stage.write("home/agent-of-mine", "#!/bin/sh\n")?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let mut run = stage.cofferdam(["run", "--", "agent-of-mine"]);
    run.env("PATH", format!("{}:/usr/bin:/bin", stage.dir().join("home").display()));
    let said = bed::stage::finish(run, bed::stage::PATIENCE)?.expect_code(127)?.err();
    let place = format!("on this machine it is {}", program.display());
    ensure!(said.contains(&place) && said.contains("filesystem_policy: read_only"), "{said}");
    Ok(())
}
