//! Whether a program may connect is decided by its content: one that is replaced or deleted, or whose socket
//! another program holds, is refused at once.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

#[path = "identity/accept.rs"]
mod accept;
mod common;
#[path = "identity/hidden.rs"]
mod hidden;
#[path = "identity/lent.rs"]
mod lent;
#[path = "identity/slow.rs"]
mod slow;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use accept::{
    a_denial_says_how_to_accept, a_forgotten_program_is_used_for_the_first_time_again,
    an_upgraded_program_is_denied_until_it_is_accepted,
    what_waits_and_what_was_accepted_outlive_the_supervisor,
};
use hidden::who_cant_be_looked_into_is_its_own_agents_loss;
use lent::{
    a_connection_lent_in_its_first_instant_is_denied, a_socket_swapped_under_connect_is_denied,
    connecting_by_sending_is_refused, foreign_code_is_not_washed_off_by_an_exec, hundreds_connect_at_once,
};

use slow::{slow_looks_are_the_agents_own_loss, what_it_has_open_is_the_agents_own_loss};

use common::{COFFERDAM, START, Sandbox, audit, ensure_audited, policy_file, program, record_has};

fn main() -> ExitCode {
    bed::harness::main(
        "identity",
        Path::new(COFFERDAM),
        bed::cases![
            a_replaced_binary_is_denied,
            a_deleted_binary_is_denied,
            a_memory_file_is_denied,
            a_pinned_hash_is_kept,
            a_borrowed_socket_is_denied,
            a_connection_that_changed_hands_is_denied,
            a_preloaded_library_is_denied,
            code_written_at_run_time_is_denied,
            code_written_over_a_librarys_is_denied,
            a_supervisors_death_makes_no_use_a_first_one,
            an_upgraded_program_is_denied_until_it_is_accepted,
            a_forgotten_program_is_used_for_the_first_time_again,
            what_waits_and_what_was_accepted_outlive_the_supervisor,
            a_denial_says_how_to_accept,
            a_connection_lent_in_its_first_instant_is_denied,
            foreign_code_is_not_washed_off_by_an_exec,
            a_socket_swapped_under_connect_is_denied,
            connecting_by_sending_is_refused,
            hundreds_connect_at_once,
            slow_looks_are_the_agents_own_loss,
            what_it_has_open_is_the_agents_own_loss,
            who_cant_be_looked_into_is_its_own_agents_loss,
        ],
    )
}

/// A policy that allows `binary` alone, and a script that begins by making `/sandbox/client` (a copy of curl)
/// and the function `get`.
fn prepare(stage: &Stage, binary: &str, script: &str) -> Result<(String, String)> {
    let curl = program("curl")?;
    let entries = format!(
        "  api:\n    name: api\n    endpoints: [ {{ host: api.bed.test, ports: [80, 443], protocol: rest, access: full }} ]\n    \
         binaries: [ {binary} ]\n"
    );
    let file = policy_file(stage, &entries)?;
    let mark = stage.marker();
    let whole = format!(
        "cp {curl} /sandbox/client\nget() {{ \"$@\" -sSf --max-time 60 -o /dev/null https://api.bed.test/echo?m={mark} \
         2>/dev/null && echo yes || echo no; }}\n{script}\n"
    );
    Ok((file, whole))
}

/// Runs a script where `get PROGRAM` prints yes or no, and `/sandbox/client` (a copy of curl) alone is
/// allowed.
fn script(stage: &Stage, name: &str, binary: &str, script: &str) -> Result<String> {
    let (file, whole) = prepare(stage, binary, script)?;
    // Rooted, the agent is another user than the workspace's owner: its own workspace is the sandbox's.
    let done = stage.run(&["--name", name, "--policy", &file], &["sh", "-c", &whole])?.expect_code(0)?;
    Ok(done.out())
}

const CLIENT: &str = "{ path: /sandbox/client }";

fn a_replaced_binary_is_denied(stage: &Stage) -> Result<()> {
    let replace = "get /sandbox/client\ncp /sandbox/client /sandbox/new; printf x >> /sandbox/new; \
                   mv /sandbox/new /sandbox/client\nget /sandbox/client";
    let said = script(stage, "replaced", CLIENT, replace)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    ensure_audited(stage, "replaced", &[("verdict", "denied"), ("layer", "identity")])?;
    ensure!(
        audit(stage, "replaced")?.iter().any(|r| record_has(r, &[("path", "/sandbox/client")])),
        "the change itself is not on record"
    );
    // Rewritten in place, the same.
    let rewrite = "get /sandbox/client\nprintf x >> /sandbox/client\nget /sandbox/client";
    let said = script(stage, "rewritten", CLIENT, rewrite)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    Ok(())
}

fn a_deleted_binary_is_denied(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    // The process runs on while its file is gone: curl waits at stdin for its configuration.
    let delete = format!(
        "get /sandbox/client\n{python} - <<'END'\nimport subprocess, os\nc = subprocess.Popen(['/sandbox/client', '-sSf', \
         '--max-time', '60', '-o', '/dev/null', '-K', '-'], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)\n\
         os.unlink('/sandbox/client')\nc.communicate(b'url = \"https://api.bed.test/echo\"\\n')\n\
         print('no' if c.returncode else 'yes', flush=True)\nEND"
    );
    let said = script(stage, "deleted", CLIENT, &delete)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    ensure_audited(stage, "deleted", &[("verdict", "denied"), ("layer", "identity")])
}

fn a_memory_file_is_denied(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let memory = format!(
        "get /sandbox/client\n{python} - <<'END'\nimport os, subprocess\nfd = os.memfd_create('client', 0)\n\
         os.write(fd, open('/sandbox/client', 'rb').read())\n\
         r = subprocess.run(['/proc/self/fd/%d' % fd, '-sSf', '--max-time', '60', '-o', '/dev/null', \
         'https://api.bed.test/echo'], pass_fds=[fd], stderr=subprocess.DEVNULL)\nprint('no' if r.returncode else 'yes')\nEND"
    );
    // The policy allows every path, so the program is refused only because it has none.
    let said = script(stage, "memory", "{ path: \"/**\" }", &memory)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    Ok(())
}

fn a_pinned_hash_is_kept(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mut sum = stage.command("sha256sum");
    sum.arg(&curl);
    let hash =
        bed::stage::finish(sum, bed::stage::PATIENCE)?.out().split(' ').next().unwrap_or_default().to_owned();
    let right = format!("{{ path: {curl}, sha256: \"{hash}\" }}");
    ensure!(script(stage, "pinned", &right, &format!("get {curl}"))? == "yes\n");
    let wrong = format!("{{ path: {curl}, sha256: \"{}\" }}", "0".repeat(64));
    ensure!(script(stage, "mispinned", &wrong, &format!("get {curl}"))? == "no\n");
    Ok(())
}

fn a_borrowed_socket_is_denied(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    // An allowed program connects while another program holds the same socket: both programs must be allowed.
    let borrow = format!(
        "cp {python} /sandbox/friend\nget_socket() {{ \"$1\" - \"$2\" \"$3\" <<'END'\nimport os, socket, subprocess, sys\n\
         s = socket.create_connection(('127.0.0.1', 3128), 60)\ns.settimeout(60)\nholder = None\n\
         if sys.argv[1] != 'none':\n    holder = subprocess.Popen([sys.argv[1], '60'], pass_fds=[os.dup2(s.fileno(), int(sys.argv[2]))])\n\
         \x20   import time\n    while os.readlink('/proc/%d/exe' % holder.pid) == os.readlink('/proc/self/exe'): time.sleep(0.01)\n\
         s.sendall(b'CONNECT api.bed.test:443 HTTP/1.1\\r\\nHost: api.bed.test:443\\r\\n\\r\\n')\n\
         print('yes' if b' 200 ' in s.recv(100) else 'no', flush=True)\nif holder: holder.kill()\nEND\n}}\n\
         get_socket /sandbox/friend none\nfor number in 5 41 900; do get_socket /sandbox/friend /bin/sleep $number; done"
    );
    let said = script(stage, "borrowed", "{ path: /sandbox/friend, ancestors: false }", &borrow)?;
    // Whatever descriptor number the other program has for it.
    ensure!(said == "yes\nno\nno\nno\n", "{said:?}");
    ensure_audited(stage, "borrowed", &[("verdict", "denied"), ("layer", "identity")])
}

fn a_connection_that_changed_hands_is_denied(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    // A program that isn't allowed connects and sends a request, then leaves the socket to an allowed one.
    // Its own copy of the socket is in flight, so that no process holds it, and it takes the answer
    // afterwards.
    let lend = format!(
        "cp /bin/sleep /sandbox/client\n{python} - <<'END'\nimport array, os, socket, time\n\
         s = socket.create_connection(('127.0.0.1', 3128), 60)\ntime.sleep(0.3)\n\
         s.sendall(b'CONNECT api.bed.test:443 HTTP/1.1\\r\\nHost: api.bed.test:443\\r\\n')\n\
         a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)\npid = os.fork()\nif pid == 0:\n    \
         os.set_inheritable(s.fileno(), True)\n    os.execv('/sandbox/client', ['/sandbox/client', '3'])\n\
         while os.readlink('/proc/%d/exe' % pid) != '/sandbox/client': time.sleep(0.01)\n\
         socket.send_fds(a, [b'x'], [s.fileno()])\ns.sendall(b'\\r\\n')\ns.close()\ntime.sleep(1)\n\
         fd = socket.recv_fds(b, 1, 1)[1][0]\nr = socket.socket(fileno=fd)\nr.settimeout(60)\n\
         print(r.recv(100).split(b' ')[1].decode(), flush=True)\nEND"
    );
    let said = script(stage, "lent", "{ path: /sandbox/client, ancestors: false }", &lend)?;
    ensure!(said == "403\n", "{said:?}");
    ensure_audited(stage, "lent", &[("verdict", "denied"), ("layer", "identity")])
}

fn code_written_at_run_time_is_denied(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let jit = format!(
        "{python} - <<'END'\nimport mmap, urllib.request\n\
         def ask():\n    try: return 'yes' if urllib.request.urlopen('https://api.bed.test/echo', timeout=60).status == 200 else 'no'\n    \
         except Exception: return 'no'\nprint(ask(), flush=True)\n\
         code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n\
         print(ask(), flush=True)\nEND"
    );
    let real = std::fs::canonicalize(&python)?.display().to_string();
    let said = script(stage, "runtime", &format!("{{ path: {real} }}"), &jit)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    let said = script(stage, "runtime-ok", &format!("{{ path: {real}, allow_foreign_code: true }}"), &jit)?;
    ensure!(said == "yes\nyes\n", "{said:?}");
    Ok(())
}

/// A process that overwrites a library's code in memory still has the library's name in its map.
fn code_written_over_a_librarys_is_denied(stage: &Stage) -> Result<()> {
    let gcc = program("gcc")?;
    let patch = format!(
        "cat > patcher.c <<'END'\n{}\nEND\n{gcc} -o patcher patcher.c && /sandbox/patcher",
        include_str!("inside/patcher.c")
    );
    let said = script(stage, "patched", "{ path: /sandbox/patcher }", &patch)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    // The vDSO, the kernel's own page, has a name in the map that isn't a file's. Some kernels let no process
    // write to it.
    let said = script(stage, "patched-vdso", "{ path: /sandbox/patcher }", &format!("{patch} vdso"))?;
    ensure!(said == "yes\nno\n" || said == "yes\nsealed\n", "{said:?}");
    let said = script(stage, "patched-ok", "{ path: /sandbox/patcher, allow_foreign_code: true }", &patch)?;
    ensure!(said == "yes\nyes\n", "{said:?}");
    Ok(())
}

fn a_preloaded_library_is_denied(stage: &Stage) -> Result<()> {
    // A library that the agent wrote, mapped executable into an allowed program (any library will do).
    let Some(library) =
        ["/usr/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"]
            .iter()
            .find(|p| Path::new(p).exists())
    else {
        bed::skip!("no libm where this test looks")
    };
    let curl = program("curl")?;
    let preload =
        format!("get {curl}\ncp {library} /sandbox/evil.so\nget env LD_PRELOAD=/sandbox/evil.so {curl}");
    let said = script(stage, "preloaded", &format!("{{ path: {curl} }}"), &preload)?;
    ensure!(said == "yes\nno\n", "{said:?}");
    // It is allowed if the policy says that this program may have code of unknown origin.
    let relaxed = format!("{{ path: {curl}, allow_foreign_code: true }}");
    let said = script(stage, "relaxed", &relaxed, &preload)?;
    ensure!(said == "yes\nyes\n", "{said:?}");
    Ok(())
}

fn a_supervisors_death_makes_no_use_a_first_one(stage: &Stage) -> Result<()> {
    let replace = "get /sandbox/client\nuntil [ -e /sandbox/go ]; do sleep 0.05; done\n\
                   cp /sandbox/client /sandbox/new; printf x >> /sandbox/new; mv /sandbox/new /sandbox/client\n\
                   get /sandbox/client\necho end; exec sleep 1000";
    let (file, whole) = prepare(stage, CLIENT, replace)?;
    let mut sandbox = Sandbox::start(stage, &["--policy", &file], &["sh", "-c", &whole], "yes\n")?;
    let supervisor = |sandbox: &Sandbox| sandbox.status().ok()?["supervisor_pid"].as_i64();
    let before = supervisor(&sandbox).context("status names no supervisor")?;
    kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
    bed::stage::poll("another supervisor", START, || supervisor(&sandbox).filter(|pid| *pid != before))?;
    std::fs::write(stage.state().join(&sandbox.name).join("workspace/go"), "")?;
    sandbox.heart().wait_for("end\n", START)?;
    let said = sandbox.heart().out();
    ensure!(said == "yes\nno\nend\n", "{said:?}");
    Ok(())
}
