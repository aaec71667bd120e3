//! A git server that speaks the smart protocol, by git's own `http-backend` as a CGI program (RFC 3875).
//!
//! `https://git.bed.test/demo.git` has one commit on `main` with `README.md`. Made on first use; a machine
//! without git gets 501.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;

use super::Visit;
use crate::server::{Body, respond};

/// What `README.md` holds.
pub const README: &str = "cloned through the cofferdam\n";

static REPOSITORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Answers one request of a git client.
pub async fn answer(request: Request<Incoming>, visit: &Visit<'_>, dir: &Path) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(body) = visit.read(body).await else { return respond(400, "text/plain", "broken body\n") };
    let dir = dir.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let root = REPOSITORY.get_or_init(|| make(&dir).map_err(|e| format!("{e:#}")));
        match root {
            Ok(root) => backend(root, &head, &body),
            Err(e) => bail!("{e}"),
        }
    });
    match run.await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => respond(501, "text/plain", format!("{e:#}\n")),
        Err(e) => respond(500, "text/plain", format!("{e}\n")),
    }
}

fn git(dir: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs([("HOME", dir.as_os_str()), ("GIT_CONFIG_NOSYSTEM", OsStr::new("1"))])
        .output()
        .context("no git on this machine")?;
    ensure!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn make(dir: &Path) -> Result<PathBuf> {
    let work = dir.join("work");
    std::fs::create_dir_all(&work)?;
    git(&work, &["init", "-q", "-b", "main"])?;
    std::fs::write(work.join("README.md"), README)?;
    git(&work, &["add", "."])?;
    let who = ["-c", "user.name=bed", "-c", "user.email=bed@bed.test"];
    git(&work, &[&who[..], &["commit", "-q", "-m", "Begin"]].concat())?;
    let root = dir.join("root");
    std::fs::create_dir_all(&root)?;
    git(dir, &["clone", "-q", "--bare", "work", "root/demo.git"])?;
    Ok(root)
}

fn backend(root: &Path, head: &http::request::Parts, body: &Bytes) -> Result<Response<Body>> {
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("HOME", root)
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Requests of fetches are small: they fit the pipe, so writing before reading can't lock up.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(body)?;
    }
    cgi_response(child.wait_with_output()?)
}

fn cgi_response(output: Output) -> Result<Response<Body>> {
    let at = output
        .stdout
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .with_context(|| format!("git http-backend said {}", String::from_utf8_lossy(&output.stderr)))?;
    let (head, body) = output.stdout.split_at(at);
    let mut response = respond(200, "text/plain", Bytes::copy_from_slice(body.get(4..).unwrap_or_default()));
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(500);
            *response.status_mut() = http::StatusCode::from_u16(code)?;
        } else {
            response
                .headers_mut()
                .insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
    }
    Ok(response)
}
