//! The programs that people really run, unmodified: each does its work through the sandbox, and gets a clear
//! refusal for what it may not do, with the environment as given and with every proxy variable unset
//! (`client`).
//!
//! docs/clients.md has a row for each; a case compares the two.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod native;
mod node;
mod packages;
mod python;
mod tools;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::Mode;

use common::COFFERDAM;
use native::*;
use node::*;
use packages::*;
use python::*;
use tools::*;
use wire::*;

/// The cases, and their names for comparing with the page.
macro_rules! clients {
    ($($name:ident),* $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        fn main() -> ExitCode {
            bed::harness::main(
                "clients",
                Path::new(COFFERDAM),
                bed::cases![$($name),*, the_page_has_a_row_for_each.only(Mode::Rootless)],
            )
        }
    };
}

clients![
    // tools
    curl,
    curl_http2,
    wget,
    git,
    openssh,
    redis_cli,
    // python
    python_urllib,
    python_requests,
    python_httpx,
    python_aiohttp,
    python_websockets,
    python_grpcio,
    // node
    node_https,
    node_fetch,
    node_axios,
    node_undici,
    node_ws,
    node_websocket_http2,
    node_grpc,
    // packages
    pip,
    uv,
    npm,
    yarn,
    pnpm,
    cargo,
    apt,
    // native
    java_httpclient,
    java_urlconnection,
    go_net_http,
    // wire
    ranges_and_heads,
    trailers_both_ways,
    expectations,
    early_hints,
    server_sent_events,
    upgrades,
    connect_over_http2,
];

fn the_page_has_a_row_for_each(_: &Stage) -> Result<()> {
    let page = include_str!("../../docs/clients.md");
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    ensure!(rows == NAMES, "docs/clients.md and the cases differ:\n{rows:?}\n{NAMES:?}");
    Ok(())
}
