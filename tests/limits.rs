//! What one agent may use up: resource hogs of every kind run in a sandbox, with bounds of their own, while
//! the host, another sandbox and cofferdam's own processes keep responding.
//!
//! Cases that need a control group, or more descriptors than most machines allow, are skipped with a message
//! where those aren't available; `.ci/kernels` has both.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;
#[path = "limits/crowd.rs"]
mod crowd;
#[path = "limits/delegated.rs"]
mod delegated;
#[path = "limits/groups.rs"]
mod groups;
#[path = "limits/hoard.rs"]
mod hoard;
#[path = "limits/unread.rs"]
mod unread;

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Mode, PATIENCE, free_port, poll};

use common::{COFFERDAM, Sandbox, program, workspace};
use crowd::ten_thousand_idle_tunnels;
use groups::{
    a_fork_bomb_stops_at_its_count, a_memory_hog_dies_alone, no_group_is_left, processors_are_shared_out,
    tmp_counts_as_memory,
};
use hoard::pipes_that_somebody_keeps_cost_nobody_else;
use unread::messages_that_nobody_reads_stop_nothing;

/// No hog lives longer than this, in seconds, whatever its cage does; long enough for all that a case does
/// beside it on a slow machine.
const OUTER_SECONDS: &str = "600";

fn main() -> ExitCode {
    bed::harness::main(
        "limits",
        Path::new(COFFERDAM),
        bed::cases![
            a_limit_that_cannot_be_had_is_refused_or_told,
            what_fills_tmp_fills_no_more_than_its_share,
            a_fork_bomb_stays_inside.alone(),
            descriptors_and_socket_buffers_are_bounded,
            a_flood_of_descriptors_is_its_own_agents_loss,
            descriptors_in_flight_keep_nobody_out.only(Mode::Rooted),
            pipes_that_somebody_keeps_cost_nobody_else,
            a_log_flood_starves_nobody,
            messages_that_nobody_reads_stop_nothing,
            a_full_disk_closes_nobody_elses_way_out,
            idle_tunnels_cost_little,
            who_reads_nothing_pins_little,
            who_closes_nothing_leaves_other_forwards_open,
            a_memory_hog_dies_alone,
            tmp_counts_as_memory,
            a_fork_bomb_stops_at_its_count,
            processors_are_shared_out.alone(),
            no_group_is_left,
            ten_thousand_idle_tunnels.alone().only(Mode::Rooted).within(crowd::PATIENCE),
        ],
    )
}

/// An agent has as many descriptors in flight, in unread sockets, as the kernel allows one user. The kernel
/// counts them by user, so the children that init starts for that user are counted too. Only as root, since
/// an ordinary user's count is shared with the other tests. Many send at a time, since the kernel doesn't:
/// each that looked before another was counted gets beyond the limit.
fn descriptors_in_flight_keep_nobody_out(stage: &Stage) -> Result<()> {
    const FLOOD: &str = r#"
import array, errno, os, socket, time

null, (told, tell) = open('/dev/null'), os.pipe()
fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [null.fileno()] * 253))]
kept, is_full = [], False
is_first = all(os.fork() for _ in range(16))
while not is_first:
    pair = socket.socketpair()
    try:
        for _ in range(8):
            pair[0].sendmsg([b'x'], fds)
        kept.append(pair)
    except OSError as error:
        if not is_full:
            os.write(tell, b'x' if error.errno == errno.ETOOMANYREFS else b'?')
        is_full = True
        time.sleep(0.001)
print('full', b''.join(os.read(told, 1) for _ in range(16)).decode(), flush=True)
time.sleep(1000)
"#;
    let python = program("python3")?;
    stage.script("flood.py", FLOOD)?;
    let options = ["--workspace", &workspace(stage)];
    let mut sandbox = Sandbox::start(stage, &options, &[&python, "flood.py"], "full")?;
    let said = sandbox.heart().out();
    ensure!(said.contains(&format!("full {}", "x".repeat(16))), "another bound was met first: {said}");
    for _ in 0..3 {
        stage.call(&["exec", &sandbox.name, "--", "true"])?.expect_code(0)?;
    }
    Ok(())
}

/// A second sandbox, which must keep working while the hog runs in the first.
struct Witness<'a> {
    stage: &'a Stage<'a>,
    sandbox: Sandbox<'a>,
}

impl<'a> Witness<'a> {
    fn start(stage: &'a Stage<'a>) -> Result<Self> {
        let sandbox = Sandbox::start(stage, &[], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
        Ok(Self { stage, sandbox })
    }

    /// Checks that the host starts programs, that both sandboxes answer, and that the second one's agents can
    /// start.
    fn all_is_well(&self, hog: &Sandbox, neighbour_forks: bool) -> Result<()> {
        bed::stage::finish(self.stage.command("true"), PATIENCE)?.expect_code(0)?;
        ensure!(hog.status()?["name"] == hog.name.as_str(), "the hog's own cofferdam answers");
        self.sandbox.status()?;
        if neighbour_forks {
            self.stage.call(&["exec", &self.sandbox.name, "--", "true"])?.expect_code(0)?;
        }
        Ok(())
    }
}

/// Starts a hog that reports when it has taken all it can, and then keeps it.
fn hog<'a>(stage: &'a Stage<'a>, options: &[&str], script: &[&str]) -> Result<Sandbox<'a>> {
    let bounded = [&["timeout", "-s", "KILL", OUTER_SECONDS], script].concat();
    let name = format!("{}-hog", stage.name());
    let mut running = stage.start_run(&name, options, &bounded)?;
    running.wait_for("full", common::START)?;
    Ok(Sandbox::adopt(stage, name, running))
}

fn a_limit_that_cannot_be_had_is_refused_or_told(stage: &Stage) -> Result<()> {
    let config = stage.write("limits.yaml", "limits: { memory: 64MiB, pids: 64, cpu: 1 }\n")?;
    let config = config.display().to_string();
    let strict = stage.run(&["--config", &config], &["true"])?;
    if strict.code() == 0 {
        bed::skip!("a control group is delegated here: nothing is refused");
    }
    ensure!(strict.code() == 125 && strict.err().contains("cgroup"), "{}: {}", strict.code(), strict.err());
    let loose = stage.run(&["--config", &config, "--enforcement", "best-effort"], &["echo", "on"])?;
    let loose = loose.expect_code(0)?;
    ensure!(loose.out() == "on\n" && loose.err().contains("cgroup is not enforced"), "{}", loose.err());
    Ok(())
}

fn what_fills_tmp_fills_no_more_than_its_share(stage: &Stage) -> Result<()> {
    let config = stage.write("limits.yaml", "limits: { memory: 64MiB }\nenforcement: best-effort\n")?;
    let config = config.display().to_string();
    let script = "head -c 104857600 /dev/zero > /tmp/big 2>/dev/null && echo all of it; stat -c %s /tmp/big; rm /tmp/big
        i=0; while [ $i -lt 20000 ] && : > /tmp/f$i; do i=$((i+1)); done 2>/dev/null; echo $i
        head -c 104857600 /dev/zero > /dev/shm/big 2>/dev/null && echo all of it; stat -c %s /dev/shm/big
        rm -f /tmp/f1 /tmp/f2; echo still > /tmp/here && cat /tmp/here";
    let options = ["--config", &config, "--enforcement", "best-effort"];
    let done = stage.run(&options, &["timeout", "-s", "KILL", OUTER_SECONDS, "bash", "-c", script])?;
    let done = done.expect_code(0)?;
    let out = done.out();
    let lines: Vec<&str> = out.lines().collect();
    let [tmp, files, shared, after] = lines.as_slice() else { anyhow::bail!("{out}") };
    ensure!(tmp.parse::<u64>()? == 32 << 20, "/tmp took {tmp} bytes of a memory limit of 64 MiB");
    ensure!((4000..=8192).contains(&files.parse::<u64>()?), "/tmp took {files} files");
    ensure!(shared.parse::<u64>()? == 8 << 20, "/dev/shm took {shared} bytes");
    ensure!(*after == "still", "{out}");
    Ok(())
}

fn a_fork_bomb_stays_inside(stage: &Stage) -> Result<()> {
    let witness = Witness::start(stage)?;
    // At most 1,500 tries, and each child ends by itself, so nothing grows without end even if no limit held.
    // The children are recognised by how long they sleep.
    let span = format!("600.{}{}", std::process::id(), stage.uid());
    let script = format!(
        "i=0; while [ $i -lt 1500 ]; do sleep {span} & i=$((i+1)); done 2>/dev/null & echo full; wait"
    );
    let bomb = hog(stage, &[], &["bash", "-c", &script])?;
    let sleepers = format!("sleep\u{0}{span}");
    let count = || stage.processes_with(&sleepers).len();
    // The shell retries a refused fork after longer and longer pauses, so at the bound the number stays the
    // same for a while.
    let (mut last, mut same) = (0, 0);
    let full = poll("the bomb to go off", PATIENCE, || {
        let now = count();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (now > 20 && same > 20).then_some(now)
    });
    let full = full.with_context(|| format!("{} of them", count()))?;
    ensure!(full <= 512, "{full} processes of one agent");
    // One user's processes are counted together, so a rootless neighbour shares the bound (SECURITY.md).
    witness.all_is_well(&bomb, stage.mode() == Mode::Rooted)?;
    stage.call(&["stop", &bomb.name])?.expect_code(0)?;
    poll("the bomb's end", PATIENCE, || (count() == 0).then_some(()))?;
    witness.all_is_well(&witness.sandbox, true)
}

fn descriptors_and_socket_buffers_are_bounded(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script(
        "hog.py",
        "import os, socket, resource, sys, time\n\
         soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n\
         assert (soft, hard) <= (65536, 65536), (soft, hard)\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
         kept = []\n\
         try:\n\
         \x20   for n in range(400):\n\
         \x20       a, b = socket.socketpair(); a.setblocking(False); kept += [a, b]\n\
         \x20       try:\n\
         \x20           while a.send(b'x' * 4096): pass\n\
         \x20       except BlockingIOError: pass\n\
         \x20       r, w = os.pipe(); os.set_blocking(w, False); kept += [r, w]\n\
         \x20       try:\n\
         \x20           while os.write(w, b'x' * 4096): pass\n\
         \x20       except BlockingIOError: pass\n\
         \x20   while True: kept.append(os.open('/dev/null', os.O_RDONLY))\n\
         except OSError as e: last = e.errno\n\
         print('full', len(kept), last, flush=True)\n\
         time.sleep(1000)\n",
    )?;
    let witness = Witness::start(stage)?;
    let mut hog = hog(stage, &["--workspace", &workspace(stage)], &[&python, "-B", "/sandbox/hog.py"])?;
    let told = hog.heart().out();
    let words: Vec<&str> = told.split_whitespace().collect();
    let count: usize = words.get(1).context("no count")?.parse()?;
    ensure!(count < 65_536 && words.get(2) == Some(&"24"), "ended by EMFILE below the limit: {told}");
    witness.all_is_well(&hog, true)
}

/// More descriptors are open than init searches for the holder of a connection. Later clients are identified
/// all the same, because the flood's largest processes are killed, which is recorded.
fn a_flood_of_descriptors_is_its_own_agents_loss(stage: &Stage) -> Result<()> {
    const FLOODS: &str = "import os, resource, time\n\
         hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
         each = min(hard - 16, 18000)\n\
         children = 70000 // each + 1\n\
         read, write = os.pipe()\n\
         for n in range(children):\n\
         \x20   if os.fork() == 0:\n\
         \x20       for _ in range(each): os.dup(read)\n\
         \x20       os.write(write, b'.')\n\
         \x20       while True: time.sleep(0.0005)\n\
         for n in range(children): os.read(read, 1)\n\
         print('full', flush=True)\n\
         time.sleep(1000)\n";
    let python = program("python3")?;
    stage.script("floods.py", FLOODS)?;
    let hog = hog(stage, &["--workspace", &workspace(stage)], &[&python, "-B", "/sandbox/floods.py"])?;
    let asks = "exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT no.test:443 HTTP/1.1\r\nHost: no.test:443\r\n\r\n' >&3; cat <&3";
    let answer = stage.call(&["exec", &hog.name, "--", "bash", "-c", asks])?.expect_code(0)?.out();
    ensure!(answer.contains("403") && answer.contains("binary"), "it is known who asks: {answer}");
    common::ensure_audited(stage, &hog.name, &[("kind", "agent"), ("change", "curbed")])?;
    // The agent goes on with the rest, and is served.
    ensure!(
        hog.status()?["agents"][0]["restarts"] == 0,
        "its first process has three open: {}",
        hog.status()?
    );
    stage.call(&["exec", &hog.name, "--", "true"])?.expect_code(0)?;
    Ok(())
}

fn a_log_flood_starves_nobody(stage: &Stage) -> Result<()> {
    const FLOOD: u64 = 4 << 20;
    /// For each log eight files of 16 MiB, each of which may exceed that by its last line (`LogLimits`).
    const KEPT: u64 = 8 * (17 << 20);
    let witness = Witness::start(stage)?;
    let script = format!(
        "echo full; yes 'a line of an agent that talks too much' | head -c {FLOOD}; echo over; sleep 1000"
    );
    let mut flood = hog(stage, &[], &["bash", "-c", &script])?;
    for _ in 0..5 {
        witness.all_is_well(&flood, true)?;
    }
    flood.heart().wait_for("over", PATIENCE * 3)?;
    let logs = stage.state().join(&flood.name).join("logs");
    let kept: u64 = std::fs::read_dir(&logs)?.filter_map(|e| Some(e.ok()?.metadata().ok()?.len())).sum();
    ensure!(kept > 1 << 20 && kept <= KEPT, "the log keeps {kept} bytes");
    witness.all_is_well(&flood, true)
}

/// A small filesystem that is mounted over a directory until this is dropped.
struct SmallDisk(String);

impl SmallDisk {
    fn over(stage: &Stage, dir: &Path) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bed::skip!("a filesystem of its own size needs root");
        }
        let path = dir.display().to_string();
        let options = format!("size=160m,mode=755,uid={0},gid={0}", stage.uid());
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none", &path])
            .status()?;
        ensure!(done.success(), "no filesystem over {path}");
        Ok(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).status();
    }
}

/// Two sandboxes have their state on one disk, which the agent of one fills.
fn a_full_disk_closes_nobody_elses_way_out(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let policy = common::policy_file(stage, common::FRIENDLY)?;
    let _disk = SmallDisk::over(stage, &stage.state())?;
    let options = ["--policy", &policy];
    let victim = Sandbox::start(stage, &options, &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let ask = || -> Result<String> {
        let script = format!(
            "for i in 1 2 3 4 5; do {curl} -sS -o /dev/null -w '%{{http_code}} ' https://api.bed.test/; done"
        );
        Ok(stage.call(&["exec", &victim.name, "--", "sh", "-c", &script])?.out())
    };
    ensure!(ask()? == "200 200 200 200 200 ");
    // Disk is allocated for the log a moment after the start, which a short run does without.
    let log = stage.state().join(&victim.name).join("audit.jsonl");
    poll("disk allocated for the log's records", PATIENCE, || {
        std::fs::metadata(&log).is_ok_and(|meta| meta.blocks() * 512 > 8 << 20).then_some(())
    })?;
    let fill = "head -c 1000000000 /dev/zero > /sandbox/all; echo full; sleep 1000";
    let mut hog = hog(stage, &options, &["sh", "-c", fill])?;
    hog.heart().wait_for_err("No space left", PATIENCE).context("the control: it is full")?;
    for _ in 0..20 {
        let answers = ask()?;
        ensure!(answers == "200 200 200 200 200 ", "beside a full disk: {answers}");
    }
    let narrower = stage.write("narrower.yaml", common::policy("  {}"))?.display().to_string();
    stage.call(&["policy", "set", &victim.name, &narrower])?.expect_code(0)?;
    ensure!(ask()? != "200 200 200 200 200 ", "what the operator set is in force");
    poll("an operator's deed on record beside a full disk", PATIENCE, || {
        let log = stage.call(&["audit", "show", &victim.name]).ok()?.expect_code(0).ok()?.out();
        log.contains("policy set").then_some(())
    })?;
    stage.call(&["audit", "verify", &victim.name])?.expect_code(0)?;
    Ok(())
}

fn idle_tunnels_cost_little(stage: &Stage) -> Result<()> {
    /// More bytes than an idle tunnel takes in a debug build, and fewer than any single buffer has.
    const EACH: u64 = 16 << 10;
    const TUNNELS: u64 = 400;
    let python = program("python3")?;
    stage.script(
        "idle.py",
        "import socket, sys, time, os\n\
         ASK = b'CONNECT api.bed.test:8080 HTTP/1.1\\r\\nHost: api.bed.test:8080\\r\\n\\r\\n'\n\
         def tunnel():\n\
         \x20   s = socket.create_connection(('127.0.0.1', 3128), 60)\n\
         \x20   s.sendall(ASK)\n\
         \x20   said = s.recv(2000)\n\
         \x20   assert said.startswith(b'HTTP/1.1 200'), said\n\
         \x20   return s\n\
         kept = [tunnel() for n in range(100)]\n\
         print('full', flush=True)\n\
         while not os.path.exists('/sandbox/go'): time.sleep(0.01)\n\
         kept += [tunnel() for n in range(400)]\n\
         print('more', flush=True)\n\
         for s in kept:\n\
         \x20   s.sendall(b'GET /echo HTTP/1.1\\r\\nHost: api.bed.test:8080\\r\\n\\r\\n')\n\
         \x20   assert s.recv(20).startswith(b'HTTP/1.1 200'), 'dead'\n\
         print('alive', flush=True)\n\
         time.sleep(1000)\n",
    )?;
    let entry = "  idle:\n    name: idle\n    endpoints: [ { host: api.bed.test, port: 8080, tls: skip } ]\n    \
                 binaries: [ { path: \"/**\", allow_foreign_code: true } ]";
    let policy = common::policy_file(stage, entry)?;
    let options = ["--workspace", &workspace(stage), "--policy", &policy];
    let mut sandbox = hog(stage, &options, &[&python, "-B", "/sandbox/idle.py"])?;
    let supervisor = sandbox.status()?["supervisor_pid"].as_i64().context("no supervisor pid")?;
    let before = resident(supervisor)?;
    stage.write("workspace/go", "")?;
    sandbox.heart().wait_for("more", PATIENCE)?;
    let each = resident(supervisor)?.saturating_sub(before) / TUNNELS;
    ensure!(each < EACH, "an idle tunnel takes {each} bytes");
    sandbox.heart().wait_for("alive", PATIENCE)
}

/// Downloads that the client doesn't read: the first few fill large buffers, but each of the many after them
/// takes next to none.
fn who_reads_nothing_pins_little(stage: &Stage) -> Result<()> {
    /// A third of the bytes that each would take if it got buffers as large as the first few.
    const EACH: u64 = 320 << 10;
    const CROWD: u64 = 300;
    let python = program("python3")?;
    stage.script(
        "deaf.py",
        "import socket, time, os\n\
         ASK = b'GET http://api.bed.test:8080/bytes/20000000 HTTP/1.1\\r\\nHost: api.bed.test:8080\\r\\n\\r\\n'\n\
         def deaf():\n\
         \x20   s = socket.socket()\n\
         \x20   s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n\
         \x20   s.connect(('127.0.0.1', 3128))\n\
         \x20   s.sendall(ASK)\n\
         \x20   said = s.recv(12)\n\
         \x20   assert said == b'HTTP/1.1 200', said + s.recv(2000)\n\
         \x20   return s\n\
         kept = [deaf() for n in range(40)]\n\
         print('full', flush=True)\n\
         while not os.path.exists('/sandbox/go'): time.sleep(0.01)\n\
         kept += [deaf() for n in range(300)]\n\
         print('more', flush=True)\n\
         time.sleep(1000)\n",
    )?;
    let policy = common::policy_file(stage, common::FRIENDLY)?;
    let options = ["--workspace", &workspace(stage), "--policy", &policy];
    let mut sandbox = hog(stage, &options, &[&python, "-B", "/sandbox/deaf.py"])?;
    let supervisor = sandbox.status()?["supervisor_pid"].as_i64().context("no supervisor pid")?;
    let before = settled(supervisor)?;
    stage.write("workspace/go", "")?;
    sandbox.heart().wait_for("more", PATIENCE)?;
    let each = settled(supervisor)?.saturating_sub(before) / CROWD;
    bed::harness::say(&format!("    a download that nobody reads takes {each} bytes"));
    ensure!(each < EACH, "a download that nobody reads takes {each} bytes");
    Ok(())
}

/// The server behind one forward accepts connections and never closes them. Connections through another
/// forward still work.
fn who_closes_nothing_leaves_other_forwards_open(stage: &Stage) -> Result<()> {
    const SERVERS: &str = "import socket, threading\n\
        def serve(port, keep):\n  s, kept = socket.create_server(('127.0.0.1', port), backlog=128), []\n  print('on', port, flush=True)\n\
        \x20 while True:\n    c, _ = s.accept(); c.sendall(b'x')\n    if keep: kept.append(c)\n    else: c.close()\n\
        threading.Thread(target=serve, args=(8123, True)).start()\n\
        threading.Thread(target=serve, args=(8124, False)).start()\n";
    let python = program("python3")?;
    stage.script("servers.py", SERVERS)?;
    let (one, other) = (free_port()?, free_port()?);
    let forwards = [format!("{one}:8123"), format!("{other}:8124")];
    let options = ["--forward", &forwards[0], "--forward", &forwards[1], "--workspace", &workspace(stage)];
    let mut sandbox = Sandbox::start(stage, &options, &[&python, "servers.py"], "on")?;
    poll("both servers", PATIENCE, || (sandbox.heart().out().matches("on ").count() == 2).then_some(()))?;
    let answered = |port: u16| -> Result<Option<TcpStream>> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // A connection beyond the limit is closed.
        Ok(matches!(stream.read(&mut [0]), Ok(1)).then_some(stream))
    };
    let mut kept = Vec::new();
    while let Some(stream) = answered(one)? {
        kept.push(stream);
        ensure!(kept.len() < 2000, "nothing bounds them");
    }
    ensure!(answered(other)?.is_some(), "{} through one forward close the other", kept.len());
    Ok(())
}

/// Bytes of a process's memory once it has stopped growing: transfers under way fill its buffers only as fast
/// as the machine can.
fn settled(pid: i64) -> Result<u64> {
    const STEADY: Duration = Duration::from_secs(2);
    let (mut most, mut since) = (resident(pid)?, Instant::now());
    poll("memory to rise no more", PATIENCE, || {
        let now = resident(pid).ok()?;
        if now > most {
            (most, since) = (now, Instant::now());
        }
        (since.elapsed() > STEADY).then_some(now)
    })
}

/// Bytes of a process's memory (proc_pid_status(5)).
fn resident(pid: i64) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}
