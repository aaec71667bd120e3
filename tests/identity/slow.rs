//! A program that makes the inspection of its own processes slow: only its own connections suffer.

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};

use super::common::{Sandbox, policy_file, program, workspace};

/// Maps pages of a library as executable, in such a way that the kernel can't merge neighbouring maps.
/// [`ASKS`] follows.
const SLOW: &str = r#"
import ctypes, glob, mmap, os, sys
library = os.open(glob.glob('/lib*/*-linux-gnu/libc.so.6')[0], os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
for n in range(int(sys.argv[1])):
    at = libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, library, 4096 * (n % 2))
    assert at not in (None, ctypes.c_void_p(-1).value)
"#;

/// Asks the proxy for tunnels.
const ASKS: &str = r#"
import socket, sys
ask = b'CONNECT api.bed.test:443 HTTP/1.1\r\nHost: api.bed.test:443\r\n\r\n'
for _ in range(int(sys.argv[2])):
    s = socket.create_connection(('127.0.0.1', 3128))
    s.sendall(ask)
    print(s.recv(100).split(b' ')[1].decode(), flush=True)
    s.close()
"#;

/// Keeps descriptors open in processes that never sleep for long, but fewer than count as a flood. [`ASKS`]
/// follows.
const OPEN: &str = r#"
import atexit, os, resource, sys, threading, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
open_in_all = int(sys.argv[1])
each = min(hard - 64, 19000)
read, write = os.pipe()
children = []
while open_in_all:
    count = min(each, open_in_all)
    open_in_all -= count
    children.append(os.fork())
    if children[-1] == 0:
        for _ in range(count): os.dup(read)
        threading.Thread(target=time.sleep, args=(1000,)).start()
        os.write(write, b'.')
        time.sleep(1000)
for _ in children: os.read(read, 1)
atexit.register(lambda: [os.kill(child, 9) for child in children])
"#;

pub fn what_it_has_open_is_the_agents_own_loss(stage: &Stage) -> Result<()> {
    its_own_loss(stage, OPEN, "57000", &["too much time recently"])
}

pub fn slow_looks_are_the_agents_own_loss(stage: &Stage) -> Result<()> {
    its_own_loss(stage, SLOW, "30000", &["too much time recently", "takes too long to look through"])
}

/// Checks that an agent which makes its own inspection slow in this way has some tunnels refused, for one of
/// these reasons, while another agent has none refused.
fn its_own_loss(stage: &Stage, program_text: &str, much: &str, reasons: &[&str]) -> Result<()> {
    let policy = policy_file(
        stage,
        "  api:\n    name: api\n    endpoints: [ { host: api.bed.test, ports: [80, 443], protocol: rest, access: full } ]\n    \
         binaries: [ { path: /**, allow_foreign_code: true } ]\n",
    )?;
    stage.script("slow.py", &[program_text, ASKS].concat())?;
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    let sandbox = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let python = program("python3")?;
    let tunnels = |maps: &str, times: &str| {
        ["exec", &sandbox.name, "--", &python, "/sandbox/slow.py", maps, times].map(str::to_owned)
    };
    // Each `exec` is a start of its own by init, so the two count as different agents.
    let mut running = stage.start(stage.cofferdam(tunnels(much, "60")))?;
    running.wait_for("\n", super::common::START)?;
    for n in 0..20 {
        let words = tunnels("0", "1");
        let said = stage.call(&words.each_ref().map(String::as_str))?.expect_code(0)?.out();
        ensure!(said == "200\n", "the other one's tunnel {n}: {said:?}");
    }
    let said = running.finish(PATIENCE)?.expect_code(0)?.out();
    let count = |code: &str| said.lines().filter(|line| *line == code).count();
    ensure!(count("200") + count("403") == 60, "{said:?}");
    // How many are refused depends on this machine's speed, but some must be.
    ensure!(count("403") > 0, "looks of {much} each were all taken: {said:?}");
    let says_why = |record: &serde_json::Value| {
        let text = record.to_string();
        reasons.iter().any(|reason| text.contains(reason))
    };
    poll("a record that says why", PATIENCE, || sandbox.audit().ok()?.iter().any(says_why).then_some(()))
}
