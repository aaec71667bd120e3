//! A program that makes looks at itself slow: it pays for them alone.

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};

use super::common::{Sandbox, policy_file, program, workspace};

/// Maps pages of a library to be executed, so that none can be joined with its neighbour, and then asks the proxy for tunnels.
const SLOW: &str = r#"
import ctypes, glob, mmap, os, socket, sys
library = os.open(glob.glob('/lib*/*-linux-gnu/libc.so.6')[0], os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mmap.restype = ctypes.c_void_p
for n in range(int(sys.argv[1])):
    at = libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, library, 4096 * (n % 2))
    assert at not in (None, ctypes.c_void_p(-1).value)
ask = b'CONNECT api.bed.test:443 HTTP/1.1\r\nHost: api.bed.test:443\r\n\r\n'
for _ in range(int(sys.argv[2])):
    s = socket.create_connection(('127.0.0.1', 3128))
    s.sendall(ask)
    print(s.recv(100).split(b' ')[1].decode(), flush=True)
    s.close()
"#;

pub fn slow_looks_are_the_agents_own_loss(stage: &Stage) -> Result<()> {
    let policy = policy_file(
        stage,
        "  api:\n    name: api\n    endpoints: [ { host: api.bed.test, ports: [80, 443], protocol: rest, access: full } ]\n    \
         binaries: [ { path: /**, allow_foreign_code: true } ]\n",
    )?;
    stage.script("slow.py", SLOW)?;
    let options = ["--policy", &policy, "--workspace", &workspace(stage)];
    let sandbox = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let python = program("python3")?;
    let tunnels = |maps: &str, times: &str| {
        ["exec", &sandbox.name, "--", &python, "/sandbox/slow.py", maps, times].map(str::to_owned)
    };
    // What init starts for the one is not what it starts for the other.
    let mut running = stage.start(stage.cofferdam(tunnels("30000", "60")))?;
    running.wait_for("\n", super::common::START)?;
    for n in 0..20 {
        let words = tunnels("0", "1");
        let said = stage.call(&words.each_ref().map(String::as_str))?.expect_code(0)?.out();
        ensure!(said == "200\n", "the other one's tunnel {n}: {said:?}");
    }
    let said = running.finish(PATIENCE)?.expect_code(0)?.out();
    let count = |code: &str| said.lines().filter(|line| *line == code).count();
    ensure!(count("200") + count("403") == 60, "{said:?}");
    // By the clock of this machine it may be any number but none.
    ensure!(count("403") > 0, "looks of thirty thousand mappings each were all taken: {said:?}");
    let says_why = |record: &serde_json::Value| {
        let text = record.to_string();
        text.contains("too much time of late") || text.contains("takes too long to look through")
    };
    poll("a record that says why", PATIENCE, || sandbox.audit().ok()?.iter().any(says_why).then_some(()))
}
