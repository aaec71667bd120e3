//! As many idle tunnels as the documentation promises room for, and the memory that they take together.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::harness::say;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::{self, Sandbox, program, workspace};

/// Enough for the whole case, even under emulation.
pub const PATIENCE: Duration = Duration::from_secs(3600);
const TUNNELS: u64 = 10_000;
/// The most memory of cofferdam's three processes together, in bytes; shared pages count once.
const AT_MOST: u64 = 300 << 20;
/// Descriptors that are needed: two for each tunnel (and one in this process, which runs the server), and
/// what else is open.
const DESCRIPTORS: u64 = 2 * TUNNELS + 2_000;

/// Spreads the tunnels over fifty processes, which hold them and sleep, so that identifying the holder of one
/// more searches one descriptor table rather than all.
const OPENS: &str = "import os, socket, sys, time
ASK = b'CONNECT api.bed.test:8080 HTTP/1.1\\r\\nHost: api.bed.test:8080\\r\\n\\r\\n'
GET = b'GET /echo HTTP/1.1\\r\\nHost: api.bed.test:8080\\r\\n\\r\\n'
def tunnel():
    for last in [False] * 9 + [True]:
        s = socket.create_connection(('127.0.0.1', 3128), 120)
        s.sendall(ASK)
        said = s.recv(2000)
        # On a machine that is busy with other things who asks can't always be told at once.
        if last or b'try again' not in said: break
        time.sleep(0.1)
    assert said.startswith(b'HTTP/1.1 200'), said
    return s
def alive(s):
    s.sendall(GET)
    assert s.recv(20).startswith(b'HTTP/1.1 200'), 'dead'
print('begun', flush=True)
while not os.path.exists('/sandbox/go'): time.sleep(0.05)
for n in range(int(sys.argv[1]) // 200):
    read, write = os.pipe()
    if os.fork() == 0:
        kept = [tunnel() for n in range(200)]
        alive(kept[0]), alive(kept[-1])
        os.write(write, b'.')
        while True: time.sleep(1000)
    os.close(write)
    assert os.read(read, 1) == b'.', n
print('full', flush=True)
time.sleep(10000)
";

pub fn ten_thousand_idle_tunnels(stage: &Stage) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < DESCRIPTORS {
        bed::skip!(
            "this machine lets nobody have more than {hard} descriptors; {TUNNELS} tunnels take {DESCRIPTORS}"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let python = program("python3")?;
    stage.script("crowd.py", OPENS)?;
    let entry = "  idle:\n    name: idle\n    endpoints: [ { host: api.bed.test, port: 8080, tls: skip } ]\n    \
                 binaries: [ { path: \"/**\", allow_foreign_code: true } ]";
    let policy = common::policy_file(stage, entry)?;
    let options = ["--workspace", &workspace(stage), "--policy", &policy];
    let tunnels = TUNNELS.to_string();
    let mut sandbox =
        Sandbox::start(stage, &options, &[&python, "-B", "/sandbox/crowd.py", &tunnels], "begun")?;
    let before = together(stage)?;
    stage.write("workspace/go", "")?;
    let begun = Instant::now();
    sandbox.heart().wait_for("full", PATIENCE)?;
    let took = begun.elapsed().as_secs();
    let after = together(stage)?;
    let each = after.saturating_sub(before) / TUNNELS;
    let mib = |bytes: u64| bytes >> 20;
    say(&format!(
        "    {TUNNELS} idle tunnels, opened in {took} s: {} MiB, {} MiB before, {each} bytes each",
        mib(after),
        mib(before)
    ));
    ensure!(after < AT_MOST, "{TUNNELS} idle tunnels: {} MiB of all three processes together", mib(after));
    let status = sandbox.status()?;
    ensure!(status["agents"][0]["restarts"] == 0, "{status}");
    stage.call(&["exec", &sandbox.name, "--", "true"])?.expect_code(0)?;
    Ok(())
}

/// Proportional set sizes of all of cofferdam's processes here (proc_pid_smaps(5)).
fn together(stage: &Stage) -> Result<u64> {
    let pids = stage.cofferdam_processes();
    ensure!(pids.len() == 3, "heart, supervisor and init: {pids:?}");
    let one = |pid: &i32| -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
    };
    pids.iter().map(one).sum()
}
