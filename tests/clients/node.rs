//! Node's clients: the one that the system has, which reads no proxy variable, and one that does (24 on).

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, finish};

use crate::client::{Evil, Told, both, installed};
use crate::common::program;
use crate::python::{GRPC, chats_are_clean};
use crate::tools::DENIED;

/// What runs inside, by name.
const SCRIPTS: &[(&str, &str)] = &[
    ("https_get.js", include_str!("inside/https_get.js")),
    ("fetch_get.mjs", include_str!("inside/fetch_get.mjs")),
    ("axios_get.mjs", include_str!("inside/axios_get.mjs")),
    ("undici_get.mjs", include_str!("inside/undici_get.mjs")),
    ("ws_chat.mjs", include_str!("inside/ws_chat.mjs")),
    ("http2_chat.mjs", include_str!("inside/http2_chat.mjs")),
    ("grpc_calls.mjs", include_str!("inside/grpc_calls.mjs")),
];

/// Runs a script by a Node, with the packages of `.ci/run --tools`.
fn node(stage: &Stage, node: &str, file: &str, told: &Told<'_>) -> Result<()> {
    let (_, text) = SCRIPTS.iter().find(|(name, _)| *name == file).expect("it is in the list");
    stage.script(file, text)?;
    let modules = crate::common::tools().join("node/node_modules");
    let script = format!("ln -sfn {} node_modules; {node} {file} MARK ROAD", modules.display());
    both(stage, &script, told)
}

/// A Node that knows `NODE_USE_ENV_PROXY`.
pub fn newest() -> Result<String> {
    installed("agent/node_modules/node/bin/node")
}

fn packages() -> Result<String> {
    installed("node/node_modules/axios/package.json")?;
    newest()
}

/// Whether the distribution's Node knows `NODE_USE_ENV_PROXY` (24 does).
fn of_system(stage: &Stage, node: &str) -> Result<Evil> {
    let mut probe = stage.command(node);
    probe.args(["-p", "process.versions.node"]);
    let version = finish(probe, PATIENCE)?.out();
    let major: u32 = version.split('.').next().and_then(|v| v.trim().parse().ok()).unwrap_or(0);
    Ok(if major < 24 { Evil::ByName } else { Evil::ByProxy })
}

const FETCHED: &[&str] =
    &["allowed 200", "allowed 200", "secret 403", DENIED, "plain secret 403", DENIED, "evil"];

/// `https` and `http` of the system's Node, which use no variable before 24.
pub fn node_https(stage: &Stage) -> Result<()> {
    let system = program("node")?;
    let evil = of_system(stage, &system)?;
    node(stage, &system, "https_get.js", &Told { prints: FETCHED, arrives: "api.bed.test", evil })
}

/// The built-in `fetch`, by the system's Node and by one that knows `NODE_USE_ENV_PROXY`.
pub fn node_fetch(stage: &Stage) -> Result<()> {
    let system = program("node")?;
    let evil = of_system(stage, &system)?;
    node(stage, &system, "fetch_get.mjs", &Told { prints: FETCHED, arrives: "api.bed.test", evil })?;
    node(
        stage,
        &newest()?,
        "fetch_get.mjs",
        &Told { prints: FETCHED, arrives: "api.bed.test", evil: Evil::ByProxy },
    )
}

/// Its own proxy logic: absolute form for http, and for https what its version makes of the variables.
pub fn node_axios(stage: &Stage) -> Result<()> {
    node(
        stage,
        &packages()?,
        "axios_get.mjs",
        &Told { prints: FETCHED, arrives: "api.bed.test", evil: Evil::ByProxy },
    )
}

/// Its own agents (`EnvHttpProxyAgent`, which takes CONNECT for http too, and none), HTTP/2, and WebSocket.
pub fn node_undici(stage: &Stage) -> Result<()> {
    let prints = [FETCHED, FETCHED, &["http2 200", "websocket said from undici"]].concat();
    node(
        stage,
        &packages()?,
        "undici_get.mjs",
        &Told { prints: &prints, arrives: "api.bed.test", evil: Evil::ByProxy },
    )
}

pub fn node_ws(stage: &Stage) -> Result<()> {
    let prints =
        ["hello 40", "ready", "heartbeats 3", "said hi there", "closed 1008", "handshake 403", "evil"];
    node(
        stage,
        &packages()?,
        "ws_chat.mjs",
        &Told { prints: &prints, arrives: "chat.bed.test", evil: Evil::ByName },
    )?;
    chats_are_clean(stage)
}

/// A WebSocket in a stream of HTTP/2 (RFC 8441), beside others, judged by the same rules.
pub fn node_websocket_http2(stage: &Stage) -> Result<()> {
    let prints = [
        "offered true",
        "hello 40",
        "ready",
        "said hi there",
        "beside 200",
        "closed 1008",
        "path 403",
        DENIED,
        "protocol 400",
        "host 400",
    ];
    node(
        stage,
        &program("node")?,
        "http2_chat.mjs",
        &Told { prints: &prints, arrives: "chat.bed.test", evil: Evil::Untried },
    )?;
    let seen = stage.world().recorder().with_marker(&stage.marker());
    let asked: Vec<_> = seen.iter().filter(|s| s.host == "chat.bed.test").collect();
    ensure!(asked.iter().all(|s| s.method == "GET" && s.header("sec-websocket-key").is_some()), "{asked:?}");
    chats_are_clean(stage)
}

pub fn node_grpc(stage: &Stage) -> Result<()> {
    node(
        stage,
        &packages()?,
        "grpc_calls.mjs",
        &Told { prints: GRPC, arrives: "grpc.bed.test", evil: Evil::ByProxy },
    )
}
