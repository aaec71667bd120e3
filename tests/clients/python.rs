//! Python's clients, most of which read the proxy variables in their own way, or not at all.

use anyhow::{Result, ensure};
use bed::Stage;

use crate::client::{Evil, Told, both, installed};
use crate::common::program;
use crate::tools::DENIED;

/// Runs a script of [`include_str!`] by a Python: it prints `allowed …`, then the refusals as the client sees
/// them.
fn python(stage: &Stage, python: &str, (file, text): (&str, &str), told: (&[&str], &str)) -> Result<()> {
    let (prints, arrives) = told;
    stage.script(file, text)?;
    let script = format!("{python} {file} MARK ROAD");
    both(stage, &script, &Told { prints, arrives, evil: Evil::ByProxy })
}

fn packages() -> Result<String> {
    installed("venv/bin/python3")
}

const FETCHED: &[&str] =
    &["allowed 200", "allowed 200", "secret 403", DENIED, "plain secret 403", DENIED, "evil"];

pub fn python_urllib(stage: &Stage) -> Result<()> {
    let text = include_str!("inside/urllib_get.py");
    python(stage, &program("python3")?, ("urllib_get.py", text), (FETCHED, "api.bed.test"))
}

pub fn python_requests(stage: &Stage) -> Result<()> {
    let text = include_str!("inside/requests_get.py");
    python(stage, &packages()?, ("requests_get.py", text), (FETCHED, "api.bed.test"))
}

pub fn python_httpx(stage: &Stage) -> Result<()> {
    let text = include_str!("inside/httpx_get.py");
    python(stage, &packages()?, ("httpx_get.py", text), (FETCHED, "api.bed.test"))?;
    let versions = |host: &str| {
        let seen = stage.world().recorder().with_marker(&stage.marker());
        seen.iter().filter(|s| s.host == host).map(|s| s.version.clone()).collect::<Vec<_>>()
    };
    ensure!(versions("h2.bed.test") == ["HTTP/2.0", "HTTP/2.0"], "{:?}", versions("h2.bed.test"));
    Ok(())
}

/// With and without `trust_env`: without, it uses no variable at all.
pub fn python_aiohttp(stage: &Stage) -> Result<()> {
    let text = include_str!("inside/aiohttp_get.py");
    let prints = [FETCHED, &["websocket echoed"], FETCHED, &["websocket echoed"]].concat();
    python(stage, &packages()?, ("aiohttp_get.py", text), (&prints, "api.bed.test"))
}

/// A chat of the kind that Discord and Slack have; a message that the rules refuse ends it with 1008, and
/// never arrives.
pub fn python_websockets(stage: &Stage) -> Result<()> {
    let text = include_str!("inside/websockets_chat.py");
    let prints = [
        "wss hello 40",
        "ready",
        "heartbeats 3",
        "said hi there",
        "closed 1008",
        "ws hello 40",
        "ready",
        "heartbeats 3",
        "said hi there",
        "closed 1008",
        "handshake 403",
        DENIED,
        "evil",
    ];
    python(stage, &packages()?, ("websockets_chat.py", text), (&prints, "chat.bed.test"))?;
    chats_are_clean(stage)
}

/// What was refused of a chat's messages never arrived; what was allowed did.
pub fn chats_are_clean(stage: &Stage) -> Result<()> {
    let chats = stage.world().recorder().with_marker(&stage.marker());
    let said: Vec<String> = chats.iter().map(|s| String::from_utf8_lossy(&s.body).into_owned()).collect();
    ensure!(said.iter().any(|text| text.contains("hi there")), "{said:?}");
    ensure!(said.iter().all(|text| !text.contains("forbidden")), "a refused message arrived: {said:?}");
    Ok(())
}

/// Unary and streaming calls, trailers, errors, inside TLS and in the clear; a denial is PERMISSION_DENIED.
pub fn python_grpcio(stage: &Stage) -> Result<()> {
    let text = include_str!("inside/grpcio_calls.py");
    let (last, calls) = GRPC.split_last().expect("a list");
    let once = [calls, &["nobody True", last]].concat();
    let prints = [&once[..], &once].concat();
    python(stage, &packages()?, ("grpcio_calls.py", text), (&prints, "grpc.bed.test"))?;
    let seen = stage.world().recorder().for_host("grpc.bed.test");
    ensure!(seen.iter().all(|s| s.version == "HTTP/2.0"), "{seen:?}");
    ensure!(seen.iter().any(|s| s.tls) && seen.iter().any(|s| !s.tls), "{seen:?}");
    Ok(())
}

/// What a gRPC client prints of the calls.
pub const GRPC: &[&str] = &[
    "unary hello",
    "trailer the end",
    "count 5",
    "chat one two three",
    "fail NOT_FOUND no such luck",
    "late DATA_LOSS no such luck",
    "secret PERMISSION_DENIED policy_denied: ",
    "evil UNAVAILABLE",
];
