//! `cofferdam provider detect`: finds keys and servers, reports them without any value, and offers a server
//! only if it is the user's own or the system's.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{Finished, PATIENCE, finish};
use serde_json::Value;

use crate::servers::{asked, hold, http, listen, serve};
use crate::{call, common};

pub fn what_this_machine_offers_is_found_and_no_value_shown(stage: &Stage) -> Result<()> {
    let secrets = ["sk-ant-0a1b2c3d4e5f6071", "sk-oai-0a1b2c3d4e5f6072", "nvapi-0a1b2c3d4e5f6073"];
    let list =
        r#"{"object":"list","data":[{"id":"llama-3.1-8b"},{"id":"\u001b]0;x\u0007"},{"id":"qwen/q:7b"}]}"#;
    let good = serve(move |request| {
        let is_asked = request.starts_with("GET /v1/models ") && !request.contains("authorization");
        http(if is_asked { 200 } else { 400 }, "application/json", list)
    })?;
    let empty = serve(|_| http(200, "application/json", r#"{"object":"list","data":null}"#))?;
    let page = serve(|_| http(200, "text/html", "<html>\u{1b}[31mhello"))?;
    let silent = listen(|stream| hold(&stream))?;
    let nobody = bed::stage::free_port()?;
    let ports: Vec<String> = [good, empty, page, silent, nobody]
        .iter()
        .flat_map(|port| ["--port".to_owned(), port.to_string()])
        .collect();
    let detect = |more: &[&str], elsewhere: &str| -> Result<Finished> {
        let args = [&["provider", "detect"], more].concat();
        let mut command = stage.cofferdam(args.into_iter().map(str::to_owned).chain(ports.clone()));
        command
            .env("ANTHROPIC_API_KEY", secrets[0])
            .env("OPENAI_API_KEY", secrets[1])
            .env("NVIDIA_API_KEY", secrets[2]);
        command.env("OPENAI_BASE_URL", elsewhere).env("XAI_API_KEY", "with a space").env("GROQ_API_KEY", "");
        let done = finish(command, PATIENCE)?.expect_code(0)?;
        let said = done.out() + &done.err();
        ensure!(
            !secrets.iter().any(|secret| said.contains(secret)) && !said.contains("with a space"),
            "{said}"
        );
        ensure!(!said.contains('\u{1b}') && !said.contains("key-in-url"), "{said}");
        Ok(done)
    };
    let shown = detect(&[], "")?.out();
    ensure!(
        shown.contains(&format!(
            "# a model server answers at localhost:{good}: 3 models, llama-3.1-8b, qwen/q:7b"
        )),
        "{shown}"
    );
    ensure!(
        shown.contains("no model yet") && shown.contains(&format!("# localhost:{page} is no model server")),
        "{shown}"
    );
    ensure!(shown.contains(&format!("# localhost:{silent} is no model server: no answer within")), "{shown}");
    ensure!(!shown.contains(&format!("localhost:{nobody}")) && !shown.contains("GROQ"), "{shown}");
    ensure!(shown.contains("XAI_API_KEY: it holds a space"), "{shown}");
    // The output can be pasted into a file as it is, with the right indentation.
    let pasted = format!("name: x\ninference:\n  providers:\n{shown}");
    let file = stage.write("pasted.yaml", pasted)?.display().to_string();
    let listed = stage.json(&["provider", "list", "-f", &file, "--json"])?;
    let named: Vec<&str> = listed["providers"]
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect();
    ensure!(named == ["anthropic", "local", "local-2", "nvidia", "openai"], "{named:?}");
    // A key that its own client library would send to another base URL isn't offered for the service itself.
    let led = detect(&["--json"], "https://user:key-in-url@llm.corp/v1")?;
    let led: Value = serde_json::from_slice(&led.stdout)?;
    let offers = led["providers"].as_array().context("no list")?;
    ensure!(
        !offers.iter().any(|it| it["name"] == "openai")
            && led["notes"].to_string().contains("OPENAI_BASE_URL"),
        "{led}"
    );
    ensure!(
        offers.iter().any(|it| it["credential"] == "env:NVIDIA_API_KEY" && it["trust"] == "standard"),
        "{led}"
    );
    // The known ports: at one the world's provider asks for a key, at the other nothing listens.
    let known = stage.call(&["provider", "detect"])?.expect_code(0)?;
    ensure!(known.out().contains("localhost:8000 asks for a credential (401)"), "{}", known.out());
    ensure!(known.err().contains("no model server answers"), "{}", known.err());
    Ok(())
}

/// The uid of another user on this machine, who runs a server.
const SOMEBODY: u32 = 23456;

pub fn what_another_person_serves_is_not_offered(stage: &Stage) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bed::skip!("only root can run a server as another user");
    }
    let python = common::program("python3")?;
    let script = r#"
import http.server, sys
class Models(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"object":"list","data":[{"id":"mine"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0), Models)
print("port", server.server_port, flush=True)
if "once" in sys.argv:
    # Takes the connection, listens no more, and then answers.
    taken, address = server.get_request()
    server.socket.close()
    Models(taken, address, server)
    taken.close()
else:
    server.serve_forever()
"#;
    let serve = |uid: u32, how: &str| -> Result<(bed::stage::Running, String)> {
        let mut command = std::process::Command::new(&python);
        command.args(["-c", script, how]).uid(uid).gid(uid).current_dir("/");
        let mut server = stage.start(command)?;
        server.wait_for("port", PATIENCE)?;
        let port = server.out().split_whitespace().nth(1).context("no port")?.to_owned();
        Ok((server, port))
    };
    let (_theirs, theirs) = serve(SOMEBODY, "on")?;
    let (_gone, gone) = serve(SOMEBODY, "once")?;
    let (_ours, ours) = serve(stage.uid(), "on")?;
    let shown =
        call(stage, &["detect", "--port", &theirs, "--port", &gone, "--port", &ours])?.expect_code(0)?.out();
    for port in [&theirs, &gone] {
        let note = format!(
            "# a model server answers at localhost:{port}: 1 model, mine; it is run by user {SOMEBODY}"
        );
        ensure!(shown.contains(&note), "{shown}");
    }
    let offers: Vec<&str> = shown.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    ensure!(
        offers.len() == 1 && offers.iter().all(|offer| offer.contains(&format!("localhost:{ours}/v1"))),
        "{shown}"
    );
    Ok(())
}

/// A server that answers and is gone from the kernel's socket tables by the time that its owner is looked up
/// isn't offered.
pub fn who_is_gone_when_it_answers_is_not_offered(stage: &Stage) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let leaving = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        asked(&mut stream);
        drop(listener);
        let list = r#"{"object":"list","data":[{"id":"mine"}]}"#;
        stream.write_all(&http(200, "application/json", list))?;
        stream.shutdown(std::net::Shutdown::Write)?;
        hold(&stream);
        Ok(())
    });
    let shown = call(stage, &["detect", "--port", &port])?.expect_code(0)?.out();
    leaving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    let note = format!(
        "# a model server answers at localhost:{port}: 1 model, mine; no listening process was found"
    );
    ensure!(shown.contains(&note), "{shown}");
    ensure!(shown.lines().all(|line| line.trim_start().starts_with('#')), "{shown}");
    Ok(())
}
