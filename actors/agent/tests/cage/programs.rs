//! What must run: shells, compilers, runtimes.

use crate::bed::{Cage, Mode, plan, workspace};
use agent::protocol::{ExitStatus, Refusal};
use std::path::Path;

pub const CASES: &[crate::Case] = &[
    ("programs_end_with_their_own_status", programs_end_with_their_own_status),
    ("what_cannot_run_says_why", what_cannot_run_says_why),
    ("python_runs", python_runs),
    ("node_runs", node_runs),
    ("git_runs", git_runs),
    ("a_compiler_runs", a_compiler_runs),
    ("go_runs", go_runs),
    ("java_runs", java_runs),
    ("standard_streams_can_be_opened_again", standard_streams_can_be_opened_again),
];

fn missing(program: &str) -> bool {
    let missing = !Path::new(program).exists();
    if missing {
        eprintln!("SKIPPED: no {program}");
    }
    missing
}

fn programs_end_with_their_own_status(mode: Mode) {
    let cage = Cage::start(mode);
    assert_eq!(cage.run(&["true"]).status, ExitStatus::Code(0));
    assert_eq!(cage.run(&["sh", "-c", "exit 7"]).status, ExitStatus::Code(7));
    assert_eq!(cage.run(&["sh", "-c", "kill -15 $$"]).status, ExitStatus::Signal(15));
    assert_eq!(cage.run(&["bash", "-c", "echo out; echo err >&2"]).stderr, "err\n");
}

fn what_cannot_run_says_why(mode: Mode) {
    let dir = workspace(mode);
    std::fs::write(dir.path().join("plain"), "not a program").expect("write");
    let cage = Cage::with(&plan(mode, dir.path()));
    let refused = |argv: &[&str]| -> Refusal { cage.try_run(argv).expect_err("must not run") };
    assert_eq!(refused(&["no-such-program"]).exit_code(), 127);
    assert_eq!(refused(&["/sandbox/nothing"]).exit_code(), 127);
    assert_eq!(refused(&["/sandbox/plain"]).exit_code(), 126);
    assert_eq!(refused(&["/tmp"]).exit_code(), 126);
    assert!(matches!(refused(&[""]), Refusal::Invalid(_)));
}

fn python_runs(mode: Mode) {
    let script = "
import subprocess,threading,multiprocessing,tempfile,ssl,socket,json,os,sqlite3,asyncio
print(subprocess.check_output(['echo','child'],text=True).strip())
t=threading.Thread(target=lambda:print('thread',flush=True)); t.start(); t.join()
with tempfile.NamedTemporaryFile() as f: f.write(b'x')
a,b=socket.socketpair(); a.send(b'hi'); print(b.recv(2).decode())
l=socket.create_server(('127.0.0.1',0)); c=socket.create_connection(l.getsockname()); print('tcp')
async def f(): return 'async'
print(asyncio.run(f()))
print(len(os.sched_getaffinity(0))>0, os.cpu_count()>0)
p=multiprocessing.get_context('fork').Process(target=lambda:print('process',flush=True)); p.start(); p.join()
print(socket.gethostbyname('inference.local'))
";
    let Some(lines) = Cage::start(mode).python(script) else { return };
    assert_eq!(lines, ["child", "thread", "hi", "tcp", "async", "True True", "process", "127.0.0.77"]);
}

fn node_runs(mode: Mode) {
    if missing("/usr/bin/node") {
        return;
    }
    let script = "
const {Worker}=require('worker_threads'),fs=require('fs'),cp=require('child_process'),net=require('net');
fs.writeFileSync('/tmp/x','1'); console.log(cp.execSync('echo child').toString().trim());
const w=new Worker(\"require('worker_threads').parentPort.postMessage('worker')\",{eval:true});
w.on('message',m=>{console.log(m);
 const s=net.createServer(c=>c.end('bye')).listen(0,'127.0.0.1',()=>net.connect(s.address().port,'127.0.0.1').on('data',d=>{console.log(d.toString());s.close()}))});
";
    let output = Cage::start(mode).run(&["/usr/bin/node", "-e", script]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, "child\nworker\nbye\n");
}

fn git_runs(mode: Mode) {
    if missing("/usr/bin/git") {
        return;
    }
    let log = Cage::start(mode).sh(
        "git init -q r 2>/dev/null; cd r; git config user.email a@b; git config user.name n; echo x>f; git add f; \
         git commit -qm first; git log --format=%s; git clone -q . ../s; ls ../s",
    );
    assert_eq!(log, "first\nf");
}

fn a_compiler_runs(mode: Mode) {
    if missing("/usr/bin/gcc") {
        return;
    }
    let out = Cage::start(mode)
        .sh("printf '#include <stdio.h>\\nint main(){puts(\"built\");}' > a.c; gcc -O1 -o a a.c; ./a; cp a /tmp/a; /tmp/a");
    assert_eq!(out, "built\nbuilt");
}

fn go_runs(mode: Mode) {
    let Some(go) = ["/usr/bin/go", "/usr/local/go/bin/go"].into_iter().find(|go| Path::new(go).exists())
    else {
        return eprintln!("SKIPPED: no go");
    };
    let out = Cage::start(mode).sh(&format!(
        "mkdir m; cd m; printf 'package main\\nimport (\"fmt\";\"net\")\\nfunc main(){{l,e:=net.Listen(\"tcp\",\"127.0.0.1:0\");fmt.Println(l!=nil,e)}}' > main.go; \
         GOFLAGS=-mod=mod GOCACHE=/tmp/gc GOPATH=/tmp/gp {go} run main.go"
    ));
    assert_eq!(out, "true <nil>");
}

fn java_runs(mode: Mode) {
    if missing("/usr/bin/java") {
        return;
    }
    let output = Cage::start(mode).run(&["/usr/bin/java", "-version"]);
    assert!(output.status.success(), "{output:?}");
}

fn standard_streams_can_be_opened_again(mode: Mode) {
    let output = Cage::start(mode).run(&["sh", "-c", "echo again > /dev/stdout; echo err > /dev/stderr"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("again\n", "err\n"), "{output:?}");
}
