//! Programs that know no proxy: every proxy variable is unset, and still allowed requests arrive, refused
//! ones don't, and no resolver outside is asked for a name that the policy doesn't allow. The clients
//! themselves are in `tests/clients`.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{COFFERDAM, FRIENDLY, Sandbox, ensure_audited, policy, program, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "capture",
        Path::new(COFFERDAM),
        bed::cases![
            names_exist_by_policy_alone,
            the_name_server_takes_any_bytes,
            literal_addresses_and_claimed_names,
            refusals_are_told_in_the_clients_language,
            own_servers_on_captured_ports,
            a_name_keeps_its_address,
            a_reload_moves_the_ports,
            ports_that_are_not_captured_are_told,
            what_the_kernel_refuses_is_on_record,
        ],
    )
}

/// Unsets every proxy variable, and checks that none is left.
const UNSET: &str =
    "for v in $(env | sed -n 's/=.*//p' | grep -i _proxy); do unset $v; done; ! env | grep -i _proxy=; ";

const POLICY: &str = r#"
  literal:
    name: literal
    endpoints:
      - { host: 93.184.215.22, port: 443, protocol: rest, access: read-only }
      - { host: six.bed.test, port: 80, protocol: rest, access: read-only }
    binaries: [ { path: "/**", allow_foreign_code: true } ]
  nobody:
    name: nobody
    endpoints:
      - { host: llm.bed.test, port: 443, protocol: rest, access: full }
    binaries: [ { path: /usr/bin/nothing-here } ]"#;

/// A shell script in a sandbox without proxy variables.
fn bare(stage: &Stage, name: &str, script: &str) -> Result<Finished> {
    let text = policy(&format!("{FRIENDLY}{POLICY}"));
    let file = stage.write("policy.yaml", text)?.display().to_string();
    let script = format!("{UNSET}{script}");
    stage.run(&["--name", name, "--policy", &file, "--workspace", &workspace(stage)], &["sh", "-c", &script])
}

/// Runs a script that must succeed. Checks that its requests arrive, and that hosts which the policy doesn't
/// allow were neither reached nor looked up.
fn arrives(stage: &Stage, name: &str, script: &str) -> Result<String> {
    let mark = stage.marker();
    let recorder = stage.world().recorder();
    let evil = recorder.for_host("evil.bed.test").len();
    let done = bare(stage, name, &script.replace("MARK", &mark))?;
    let done = done.expect_code(0)?;
    ensure!(!recorder.with_marker(&mark).is_empty(), "nothing arrived: {}", done.out());
    ensure!(recorder.for_host("evil.bed.test").len() == evil, "a refused request arrived");
    ensure!(!recorder.was_asked_for("evil.bed.test"), "a refused name left the machine");
    Ok(done.out())
}

fn names_exist_by_policy_alone(stage: &Stage) -> Result<()> {
    let getent = program("getent")?;
    let out = bare(
        stage,
        "names",
        &format!(
            "{getent} ahostsv4 api.bed.test; {getent} ahostsv6 api.bed.test; {getent} hosts localhost inference.local; \
             for n in evil.bed.test private.bed.test nobody.invalid x.api.bed.test api.bed.test.evil.test; do \
             {getent} hosts $n && echo leaked $n; done; for i in 1 2 3 4 5 6 7 8 9; do {getent} hosts evil.bed.test; done; true"
        ),
    )?;
    let out = out.expect_code(0)?;
    let text = out.out();
    ensure!(text.contains("198.18.") && text.contains("fd63:6f66:0:2:"), "{text}");
    ensure!(!text.contains("leaked"), "{text}");
    for name in ["evil.bed.test", "private.bed.test", "nobody.invalid", "api.bed.test"] {
        ensure!(!stage.world().recorder().was_asked_for(name), "{name} left the machine by being looked up");
    }
    ensure_audited(stage, "names", &[("host", "evil.bed.test"), ("layer", "dns"), ("verdict", "denied")])?;
    let records = common::audit(stage, "names")?;
    let evil = records.iter().filter(|r| common::record_has(r, &[("host", "evil.bed.test")])).count();
    ensure!(evil == 1, "{evil} records of one name: repeats are folded");
    Ok(())
}

const GARBAGE: &str = r#"
import os, random, socket, struct
random.seed(7)
u = socket.socket(2, 2); u.connect(('127.0.0.53', 53)); u.settimeout(30)
def ask(name, kind=1, ident=7):
    q = struct.pack('>6H', ident, 0x100, 1, 0, 0, 0)
    for l in name.split('.'): q += bytes([len(l)]) + l.encode()
    return q + b'\0' + struct.pack('>2H', kind, 1)
good = ask('api.bed.test')
# Some garbage has the number of a question that is asked below, by chance; its answer has not the question.
def answers(a, q): return a[:2] == q[:2] and a[12:len(q)] == q[12:]
for n in range(3000):
    b = bytearray(good if n % 2 else os.urandom(random.randrange(600)))
    for _ in range(random.randrange(4)):
        if b: b[random.randrange(len(b))] = random.randrange(256)
    try: u.send(bytes(b))
    except OSError: pass
u.send(b'\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1')
# The flood may have filled the socket's queue, which loses datagrams: ask again as resolvers do.
u.settimeout(1)
q = ask('api.bed.test', 1, 4711)
for n in range(30):
    try:
        u.send(q)
        while True:
            a = u.recv(4096)
            if answers(a, q): break
        break
    except OSError: pass
u.settimeout(30)
assert a[3] & 15 == 0 and a[7] == 1, a
t = socket.create_connection(('127.0.0.53', 53), 30)
t.sendall(struct.pack('>H', len(good)) + good)
n = struct.unpack('>H', t.recv(2))[0]; assert t.recv(n)[7] == 1
for kind, code in ((65, 0), (16, 0), (255, 5), (252, 5)):
    q = ask('api.bed.test', kind, kind)
    u.send(q)
    while True:
        a = u.recv(4096)
        if answers(a, q): break
    assert a[3] & 15 == code and a[7] == 0, (kind, a)
print('answered')
"#;

fn the_name_server_takes_any_bytes(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.write("workspace/garbage.py", GARBAGE)?;
    let done = bare(stage, "garbage", &format!("{python} garbage.py"))?;
    let done = done.expect_code(0)?;
    ensure!(done.out().contains("answered"), "{}", done.out());
    Ok(())
}

/// A client that connects to a literal address is judged by the policy's entry for that address, or by the
/// name in SNI or Host; and then it reaches that name's server, never an arbitrary address.
fn literal_addresses_and_claimed_names(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let get = format!("{curl} -sS --max-time 60");
    arrives(
        stage,
        "claims",
        &format!(
            "set -e; {get} -f --resolve api.bed.test:443:93.184.215.66 https://api.bed.test/echo?m=MARK; \
             {get} -f --resolve api.bed.test:8080:10.0.0.7 http://api.bed.test:8080/echo?m=MARK; \
             {get} --resolve evil.bed.test:443:93.184.215.66 https://evil.bed.test/ | grep -q policy_denied; \
             {get} -H 'Host: evil.bed.test' http://93.184.215.66:8080/ | grep -q policy_denied; \
             {get} -k https://93.184.215.66/ | grep -q policy_denied; \
             {get} -k https://169.254.169.254/ | grep -q policy_denied; \
             {get} -k https://198.19.9.9/ | grep -q 'no name has the address'; \
             a=$(getent ahostsv4 api.bed.test | sed -n '1s/ .*//p'); \
             {get} --resolve files.bed.test:443:$a https://files.bed.test/ && exit 9; \
             {get} -H 'Host: files.bed.test' http://api.bed.test/ | grep -q bad_request; \
             {get} -f http://93.184.215.66:81/ && exit 10; echo fine"
        ),
    )?;
    for (host, layer) in [("evil.bed.test", "l4"), ("93.184.215.66", "l4"), ("169.254.169.254", "l4")] {
        ensure_audited(stage, "claims", &[("verdict", "denied"), ("host", host), ("layer", layer)])?;
    }
    Ok(())
}

const REFUSED: &str = r#"
import socket, ssl
def answer(tls):
    s = socket.create_connection(('llm.bed.test', 443), 60)
    if tls: s = ssl.create_default_context().wrap_socket(s, server_hostname='llm.bed.test')
    s.sendall(b'GET /secret HTTP/1.1\r\nHost: llm.bed.test\r\n\r\n')
    data = b''
    while True:
        try: more = s.recv(65536)
        except (ConnectionError, ssl.SSLError): break
        if not more: break
        data += more
    return data
for tls in (True, False):
    a = answer(tls); assert a.startswith(b'HTTP/1.1 403') and b'"layer":"l4"' in a, a
# The second is not HTTP on an inspected port, of a host that is allowed.
for host in ('llm.bed.test', 'api.bed.test'):
    s = socket.create_connection((host, 443), 60); s.sendall(b'SSH-2.0-x\r\n')
    data = b''
    while b'request' not in data:
        more = s.recv(4096); assert more, data
        data += more
    assert data.startswith(b'SSH-2.0-cofferdam\r\n') and b'policy_denied' in data, data
    s = socket.create_connection((host, 443), 60); s.sendall(b'EHLO x\r\n' * 3)
    try: assert s.recv(100) == b'', 'spoken to'
    except ConnectionError: pass
print('told')
"#;

fn refusals_are_told_in_the_clients_language(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.write("workspace/refused.py", REFUSED)?;
    let before = stage.world().recorder().for_host("llm.bed.test").len();
    let done = bare(stage, "refused", &format!("{python} refused.py"))?;
    let done = done.expect_code(0)?;
    ensure!(done.out().contains("told"), "{}", done.out());
    ensure!(stage.world().recorder().for_host("llm.bed.test").len() == before, "a refused request arrived");
    ensure!(!stage.world().recorder().was_asked_for("llm.bed.test"), "resolved before it was judged");
    ensure_audited(stage, "refused", &[("verdict", "denied"), ("host", "llm.bed.test"), ("layer", "l4")])?;
    ensure_audited(stage, "refused", &[("verdict", "denied"), ("host", "api.bed.test")])
}

const OWN: &str = r#"
import socket, threading, urllib.request
for family, address in ((2, '0.0.0.0'), (10, '::')):
    own = socket.socket(family); own.setsockopt(1, 2, 1)
    own.bind((address, 8080)); own.listen()
    def serve(own=own):
        while True:
            try: c, _ = own.accept()
            except OSError: return  # Shut down below.
            c.recv(65536); c.sendall(b'HTTP/1.0 200 OK\r\n\r\nmine'); c.close()
    # Joined: a thread that still writes at the end can abort the interpreter.
    server = threading.Thread(target=serve, daemon=True); server.start()
    assert urllib.request.urlopen('http://127.0.0.1:8080/', timeout=60).read() == b'mine'
    world = urllib.request.urlopen('http://api.bed.test:8080/echo?m=MARK', timeout=60).read()
    assert world != b'mine', world
    own.shutdown(2); server.join(60); own.close()
print('both')
"#;

/// An agent's server on a port that the policy names too is its own, and gets nothing that was meant for the
/// world.
fn own_servers_on_captured_ports(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.write("workspace/own.py", OWN.replace("MARK", &stage.marker()))?;
    let out = arrives(stage, "own", &format!("{python} own.py"))?;
    ensure!(out.contains("both"), "{out}");
    Ok(())
}

/// A name keeps its address over the deaths of proxy and supervisor, and connections made meanwhile are
/// served.
fn a_name_keeps_its_address(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let text = policy(FRIENDLY);
    let file = stage.write("policy.yaml", text)?.display().to_string();
    let space = workspace(stage);
    let options = ["--policy", &*file, "--workspace", &space, "--allow-fault-injection"];
    let script = format!(
        "{UNSET} n=0; ok=0; echo ready; while [ ! -e stop ]; do getent ahosts api.bed.test | sort -u >>addresses; \
         {curl} -sSf --max-time 60 --retry 0 https://api.bed.test/echo >/dev/null 2>>errors && ok=$((ok+1)); \
         n=$((n+1)); echo $n >count; done; echo $ok of $n >result; sort -u addresses"
    );
    let sandbox = Sandbox::start(stage, &options, &["sh", "-c", &script], "ready")?;
    let counted = |at_least: u64| {
        bed::stage::poll("more connections", PATIENCE, || {
            let text = std::fs::read_to_string(stage.workspace().join("count")).ok()?;
            (text.trim().parse::<u64>().ok()? >= at_least).then_some(text.trim().parse::<u64>().ok()?)
        })
    };
    let mut seen = counted(2)?;
    for _ in 0..3 {
        sandbox.crash("proxy")?;
        seen = counted(seen + 2)?;
    }
    let pid = sandbox.status()?["supervisor_pid"].as_i64().context("no supervisor pid")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
    counted(seen + 3)?;
    stage.write("workspace/stop", "")?;
    // The file exists for a moment before its line is written.
    let result = bed::stage::poll("the end", PATIENCE, || {
        std::fs::read_to_string(stage.workspace().join("result")).ok().filter(|text| text.ends_with('\n'))
    })?;
    let lines = std::fs::read_to_string(stage.workspace().join("addresses"))?;
    let mut addresses: Vec<_> = lines.lines().filter_map(|line| line.split_whitespace().next()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(addresses.len() == 2, "one name, one address of each family: {addresses:?}");
    let (ok, all) = result.trim().split_once(" of ").context("a result")?;
    // At most the one that was open as the supervisor was killed may have failed.
    ensure!(all.parse::<u64>()? - ok.parse::<u64>()? <= 1, "{result}");
    Ok(())
}

/// A port that a new policy names is captured at once, also one that was let go before; one that it no longer
/// names is refused by the kernel again.
fn a_reload_moves_the_ports(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let entry = |port: u16| {
        policy(&format!(
            "  moving:\n    name: moving\n    endpoints: [ {{ host: api.bed.test, port: {port}, protocol: rest, access: full }} ]\n"
        ))
    };
    let file = stage.write("policy.yaml", entry(8080))?.display().to_string();
    let script = "import socket, time\nprint('ready', flush=True)\nlast = None\nwhile True:\n    now = []\n    for port in (80, 8080):\n        try: socket.create_connection(('api.bed.test', port), 30).close(); now.append(port)\n        except OSError: pass\n    if now != last: last = now; print('open', now, flush=True)\n    time.sleep(0.05)\n";
    let space = workspace(stage);
    let mut sandbox = Sandbox::start(
        stage,
        &["--policy", &file, "--workspace", &space],
        &[&python, "-c", script],
        "ready",
    )?;
    for (port, time) in [(8080, 1), (80, 1), (8080, 2), (80, 2)] {
        stage.write("policy.yaml", entry(port))?;
        let (heart, line) = (sandbox.heart(), format!("open [{port}]"));
        let opened = || (heart.out().matches(&line).count() >= time).then_some(());
        poll(&format!("{line} for the {time}. time"), PATIENCE, opened)?;
    }
    Ok(())
}

/// Some kernels capture only so many ports that no policy named before. Whoever sets such a policy hears of
/// each port that stays closed.
fn ports_that_are_not_captured_are_told(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let entry = |ports: &str| {
        policy(&format!(
            "  many:\n    name: many\n    endpoints: [ {{ host: api.bed.test, ports: [{ports}], protocol: rest, access: full }} ]\n"
        ))
    };
    let file = stage.write("policy.yaml", entry("8080"))?.display().to_string();
    let sandbox =
        Sandbox::start(stage, &["--policy", &file], &["sh", "-c", "echo ready; exec sleep 1000"], "ready")?;
    let ports: Vec<String> = (20_000..20_060).map(|port: u16| port.to_string()).collect();
    let many = stage.write("many.yaml", entry(&ports.join(", ")))?.display().to_string();
    let change = stage.json(&["policy", "set", &sandbox.name, &many, "--json"])?;
    let script = "import socket\nopened = 0\nfor port in range(20000, 20060):\n    try: socket.create_connection(('api.bed.test', port), 30).close(); opened += 1\n    except OSError: pass\nprint(opened)\n";
    let opened = stage.call(&["exec", &sandbox.name, "--", &python, "-c", script])?.expect_code(0)?.out();
    let told = change["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning.as_str());
    let closed: usize = told
        .filter(|warning| warning.contains("use no proxy"))
        .map(|warning| {
            let others = warning.split(" and ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            warning.matches("200").count() + others.unwrap_or(0)
        })
        .sum();
    ensure!(opened.trim().parse::<usize>()? + closed == ports.len(), "{opened} opened, {change}");
    // They stay closed, whoever sets the same policy once more.
    let again = stage.json(&["policy", "set", &sandbox.name, &many, "--json"])?;
    let of_ports = |change: &serde_json::Value| {
        let all = change["warnings"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|it| it.as_str().is_some_and(|text| text.contains("use no proxy")))
            .collect::<Vec<_>>()
    };
    ensure!(again["unchanged"] == true && of_ports(&again) == of_ports(&change), "{again} {change}");
    Ok(())
}

/// Ports that no entry names are refused by the kernel at once, datagrams too; each is on record, the first
/// time.
fn what_the_kernel_refuses_is_on_record(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let script = "import socket, errno\n\
        def refused(family, kind, to):\n\
        \ts = socket.socket(family, kind); s.settimeout(20)\n\
        \ttry:\n\
        \t\ts.connect(to); s.send(b'x'); s.recv(1)\n\
        \texcept OSError as e: assert e.errno == errno.ECONNREFUSED, (to, e)\n\
        \telse: raise SystemExit('not refused: %s' % (to,))\n\
        for i in range(20): refused(socket.AF_INET, socket.SOCK_STREAM, ('93.184.215.14', 22))\n\
        refused(socket.AF_INET6, socket.SOCK_STREAM, ('2606:2800:220:1::7', 6667))\n\
        refused(socket.AF_INET, socket.SOCK_DGRAM, ('8.8.8.8', 53))\n\
        refused(socket.AF_INET6, socket.SOCK_DGRAM, ('2001:4860:4860::8888', 443))\n\
        print('all refused')\n";
    stage.write("workspace/refused.py", script)?;
    stage.write("policy.yaml", policy(&format!("{FRIENDLY}{POLICY}")))?;
    let config = format!(
        "name: refused\npolicy: policy.yaml\nworkspace: workspace\nmetrics: {{ listen: \"off\" }}\nagents:\n  refused:\n    \
         command: [sh, -c, '{python} /sandbox/refused.py > /sandbox/out 2>&1; sleep 600']\n",
    );
    let file = stage.write("cofferdam.yaml", config)?.display().to_string();
    let running = stage.start(stage.cofferdam(["up", "--quiet", "-f", &file]))?;
    let out = stage.workspace().join("out");
    let said = || std::fs::read_to_string(&out).ok().filter(|text| text.contains("all refused"));
    bed::stage::poll("the refusals", PATIENCE, said)
        .with_context(|| std::fs::read_to_string(&out).unwrap_or_default())?;
    common::ensure_audited(stage, "refused", &[("host", "2001:4860:4860::8888"), ("verdict", "denied")])?;
    running.signal(Signal::SIGTERM)?;
    running.finish(PATIENCE)?;
    for (host, port) in
        [("93.184.215.14", 22), ("2606:2800:220:1::7", 6667), ("8.8.8.8", 53), ("2001:4860:4860::8888", 443)]
    {
        let event = |record: &serde_json::Value| record["event"].clone();
        let records: Vec<_> = common::audit(stage, "refused")?.iter().map(event).collect();
        let about: Vec<_> = records.iter().filter(|e| e["host"] == host && e["port"] == port).collect();
        let refusal = |e: &&&serde_json::Value| e["verdict"] == "denied" && e["layer"] == "l4";
        ensure!(about.iter().filter(refusal).count() == 1, "{host}:{port} is on record so: {about:?}");
    }
    // The attempts that the start makes as its proof aren't recorded.
    let records = common::audit(stage, "refused")?;
    ensure!(
        !records.iter().any(|record| record["event"]["host"] == "192.0.2.1"),
        "the proof's attempts are there"
    );
    Ok(())
}
