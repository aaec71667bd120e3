//! Who holds the value: only the supervisor; it is in no file, and in no other process's memory.

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::poll;
use serde_json::Value;

use crate::common::{self, Sandbox, audit, files_below, policy_file, program};
use crate::{
    CREDENTIALS, ENTRIES, KEY, PLACEHOLDER, SEARCH, ask_within, command, curl, is, percent, with_marker,
};

pub fn the_value_is_nowhere_inside(stage: &Stage) -> Result<()> {
    let (python, curl, mark) = (program("python3")?, curl()?, stage.marker());
    stage.script("search.py", include_str!("../inside/search_for_key.py"))?;
    let control = format!("control{mark}");
    stage.write("workspace/control.txt", &control)?;
    let (first, second) = KEY.split_at(KEY.len() / 2);
    let reversed = |text: &str| text.chars().rev().collect::<String>();
    // Every echo that the world has: headers, body, query, a redirect's aim; kept in files for the search.
    let bearer = "-H \"Authorization: Bearer $GITHUB_TOKEN\" -u \"me:$GITHUB_TOKEN\"";
    let echo = format!("'https://api.bed.test/echo?{mark}-echo&key={PLACEHOLDER}'");
    let script = format!(
        "{curl} -sSf -i -H 'Accept-Encoding: gzip' {bearer} -d \"key=$GITHUB_TOKEN\" {echo} > /sandbox/echo.txt || exit 1\n\
         {curl} -sSf -i -H \"X-Key: $GITHUB_TOKEN\" -H 'Content-Type: application/json' -d \"[\\\"$GITHUB_TOKEN\\\"]\" {echo} \
         >> /sandbox/echo.txt || exit 2\n\
         {curl} -sS -i 'https://api.bed.test/redirect?to=/{mark}/'$GITHUB_TOKEN > /sandbox/redirect.txt || exit 3\n\
         CONTROL={control} sleep 600 & {python} /sandbox/search.py '{}' '{}' {control}; kill $!; env; cat /sandbox/*.txt",
        reversed(second),
        reversed(first),
    );
    let done = ask_within(stage, "search", &script, SEARCH)?.expect_code(0)?;
    let report: Value = serde_json::from_str(done.out().lines().next().unwrap_or_default())
        .with_context(|| format!("{} {}", done.out(), done.err()))?;
    ensure!(report["found"] == serde_json::json!([]), "{report}");
    let controls = report["controls"].to_string();
    ensure!(controls.contains("file") && controls.contains("environ"), "the search is blind: {report}");
    let out = done.out();
    ensure!(out.contains(&format!("GITHUB_TOKEN={PLACEHOLDER}")), "{out}");
    ensure!(out.contains("X-Key") || out.contains("x-key"), "the echo is lost: {out}");
    ensure!(out.to_ascii_lowercase().contains(&format!("location: /{mark}/*****")), "{out}");
    ensure!(!out.contains("0123456789/abc") && !out.contains(&percent(KEY)), "{out}");
    let arrived = with_marker(stage, &format!("{mark}-echo"));
    ensure!(
        arrived.len() == 2 && arrived.iter().all(|seen| seen.target.contains(&percent(KEY))),
        "{arrived:?}"
    );
    // Outside, in what was written down: audit, logs, everything in the state directory.
    ensure!(!audit(stage, "search")?.is_empty());
    for path in files_below(&stage.state()) {
        let bytes = std::fs::read(&path)?;
        ensure!(!bytes.windows(KEY.len()).any(|w| w == KEY.as_bytes()), "the key is in {}", path.display());
    }
    Ok(())
}

pub fn a_crash_and_another_process_change_nothing(stage: &Stage) -> Result<()> {
    let (curl, mark) = (curl()?, stage.marker());
    let name = stage.name();
    let mut running = stage.start(command(stage, &name, &["sh", "-c", "echo up; exec sleep 1000"])?)?;
    running.wait_for("up", common::START)?;
    let sandbox = Sandbox::adopt(stage, name.clone(), running);
    let status = sandbox.status()?;
    let told = &status["credentials"][0];
    ensure!(told["name"] == "github" && told["env"] == "GITHUB_TOKEN", "{status}");
    ensure!(told["uses"][0] == "api.bed.test:443 /echo by /usr/bin/curl", "{status}");
    let text = stage.call(&["status", &name])?.expect_code(0)?.out();
    ensure!(text.contains("credential github") && text.contains("api.bed.test:443 /echo"), "{text}");
    ensure!(!status.to_string().contains(KEY) && !text.contains(KEY));
    for (n, crash) in [("before", false), ("after", true)] {
        if crash {
            sandbox.crash("proxy")?;
        }
        let script = format!(
            "{curl} -sSf -o /dev/null -H \"X-Key: $GITHUB_TOKEN\" 'https://api.bed.test/echo?{mark}-{n}' && echo fine $GITHUB_TOKEN"
        );
        let done = stage.call(&["exec", &name, "--", "sh", "-c", &script])?.expect_code(0)?;
        ensure!(done.out() == format!("fine {PLACEHOLDER}\n"), "{}", done.out());
        let arrived = with_marker(stage, &format!("{mark}-{n}"));
        ensure!(arrived.len() == 1 && is(&arrived[0], "x-key", KEY), "{arrived:?}");
    }
    Ok(())
}

/// Heart and init, which live as long as the sandbox does, never held the value, nor anything else of the
/// operator's environment.
pub fn heart_and_init_never_held_it(stage: &Stage) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bed::skip!("reading another process's memory needs root");
    }
    let unrelated = format!("unrelated-{}", stage.marker());
    let name = stage.name();
    let mut start = command(stage, &name, &["sh", "-c", "echo up; exec sleep 1000"])?;
    start.env("BED_UNRELATED", &unrelated);
    let mut running = stage.start(start)?;
    running.wait_for("up", common::START)?;
    let sandbox = Sandbox::adopt(stage, name, running);
    let of_a_run = ["cofferdam: heart", "cofferdam: init", "cofferdam: supervisor"];
    only_the_supervisor_holds_it(stage, &sandbox, &unrelated, &of_a_run)?;
    drop(sandbox);

    // A service's builder was forked before the heart was confined, and stays.
    let name = stage.name();
    let text = format!(
        "{CREDENTIALS}name: {name}\npolicy: {}\nmetrics: {{ listen: \"off\" }}\nagents: {{ one: {{ command: [sleep, '1000'] }} }}\n",
        policy_file(stage, ENTRIES)?
    );
    let file = stage.write("service.yaml", text)?.display().to_string();
    let mut start = stage.cofferdam(["up", "--quiet", "-f", &file]);
    start.env("BED_TOKEN", KEY).env("BED_UNRELATED", &unrelated);
    let sandbox = Sandbox::adopt(stage, name, stage.start(start)?);
    poll("the agent", common::START, || sandbox.status().ok().filter(|s| s["agents"][0]["pid"].is_u64()))?;
    let of_a_service = ["cofferdam: builder", "cofferdam: heart", "cofferdam: init", "cofferdam: supervisor"];
    only_the_supervisor_holds_it(stage, &sandbox, &unrelated, &of_a_service)
}

/// Looks through the memory of each process of cofferdam's.
fn only_the_supervisor_holds_it(
    stage: &Stage,
    sandbox: &Sandbox,
    unrelated: &str,
    titles: &[&str],
) -> Result<()> {
    let supervisor = sandbox.status()?["supervisor_pid"].as_i64().context("no supervisor pid")?;
    let mut seen = Vec::new();
    for pid in stage.cofferdam_processes() {
        let title = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        ensure!(title.iter().filter(|byte| **byte == 0).count() <= 2, "padded: {}", title.len());
        let title =
            String::from_utf8_lossy(title.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let holds = |needle: &str| memory_holds(pid, needle.as_bytes());
        ensure!(holds("cofferdam: heart")?, "the search is blind in {pid} {title}");
        if i64::from(pid) == supervisor {
            ensure!(holds(KEY)?, "the search is blind: the supervisor has the key");
        } else {
            ensure!(
                !holds(KEY)? && !holds(unrelated)?,
                "{title} holds what was in the operator's environment"
            );
            let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
            ensure!(environment.iter().all(|byte| *byte == 0), "{title} has an environment");
        }
        seen.push(title);
    }
    seen.sort();
    ensure!(seen == titles, "{seen:?}");
    Ok(())
}

/// Whether the bytes are anywhere in what a process has mapped.
fn memory_holds(pid: i32, needle: &[u8]) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    const LARGEST: u64 = 256 << 20;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').context("a line of maps")?;
        let (start, end) = range.split_once('-').context("a range of maps")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        if !rest.starts_with('r') || end - start > LARGEST {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(end - start)?];
        // The kernel's own pages can't be read so.
        let read = memory.read_at(&mut bytes, start).unwrap_or(0);
        if memchr::memmem::find(&bytes[..read], needle).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
