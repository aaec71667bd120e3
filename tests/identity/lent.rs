//! A connection that is handed on in its first instant: its maker is noted as it is made, so no later holder
//! counts as the maker.

use anyhow::{Result, ensure};
use bed::Stage;

use super::common::{ensure_audited, program};
use super::script;

const LEND: &str = include_str!("lend.py");

/// Runs the script's attempts by an unlisted Python; `/sandbox/client` is a copy of sleep, and
/// `/sandbox/friend` of Python.
fn lend(stage: &Stage, name: &str, allowed: &str, python: &str, attempts: &str) -> Result<String> {
    let (sleep, own) = (program("sleep")?, program("python3")?);
    let text = format!(
        "rm /sandbox/client; cp {sleep} /sandbox/client; cp {own} /sandbox/friend\n\
         cat > /sandbox/lend.py <<'END'\n{LEND}\nEND\n{python} /sandbox/lend.py {attempts}"
    );
    script(stage, name, allowed, &text)
}

const CLIENT: &str = "{ path: /sandbox/client, ancestors: false }";
const FRIEND: &str = "{ path: /sandbox/friend, ancestors: false }";

pub fn a_connection_lent_in_its_first_instant_is_denied(stage: &Stage) -> Result<()> {
    let attempts = "waiting:5 execed:5 became:5";
    let said = lend(stage, "instant", CLIENT, &program("python3")?, attempts)?;
    ensure!(said == "403\n403\n403\n", "{said:?}");
    ensure_audited(stage, "instant", &[("verdict", "denied"), ("layer", "identity")])?;
    // The same script run by an allowed program: the connections that it makes itself count as its own.
    let said = lend(stage, "instant-own", FRIEND, "/sandbox/friend", "own:5 fast_open_connect")?;
    ensure!(said == "200\n200\n", "{said:?}");
    Ok(())
}

pub fn foreign_code_is_not_washed_off_by_an_exec(stage: &Stage) -> Result<()> {
    // An allowed program with code written at run time connects, sends its request, and then executes itself
    // again without that code.
    let said = lend(stage, "washed", FRIEND, "/sandbox/friend", "own clean own")?;
    ensure!(said == "200\n403\n200\n", "{said:?}");
    Ok(())
}

pub fn a_socket_swapped_under_connect_is_denied(stage: &Stage) -> Result<()> {
    let said = lend(stage, "swapped", CLIENT, &program("python3")?, "swapped:40 threaded:20")?;
    ensure!(said.lines().count() == 2 && !said.contains("200"), "{said:?}");
    Ok(())
}

pub fn connecting_by_sending_is_refused(stage: &Stage) -> Result<()> {
    let said = lend(stage, "fast-open", FRIEND, "/sandbox/friend", "fast_open own")?;
    ensure!(said == "ENOTSUP\n200\n", "{said:?}");
    Ok(())
}

pub fn hundreds_connect_at_once(stage: &Stage) -> Result<()> {
    let all = "/sandbox/friend /sandbox/lend.py many:70";
    let python = format!("{all} & {all} & /sandbox/friend");
    let said = lend(stage, "hundreds", FRIEND, &python, "many:60; wait")?;
    let mut counts: Vec<_> = said.lines().collect();
    counts.sort_unstable();
    ensure!(counts == ["60", "70", "70"], "{said:?}");
    Ok(())
}
