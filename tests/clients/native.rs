//! Java's and Go's own HTTP clients.

use anyhow::{Result, ensure};
use bed::Stage;

use crate::client::{Evil, Told, both, installed};
use crate::common::program;
use crate::tools::DENIED;

const FETCHED: &[&str] =
    &["allowed 200", "allowed 200", "secret 403", DENIED, "plain secret 403", DENIED, "evil"];

/// Java reads neither the variables nor a PEM bundle: it is captured, and trusts by its own store, which is
/// shown to it.
fn java(stage: &Stage, file: &str, text: &str) -> Result<()> {
    let java = program("java")?;
    stage.script(file, text)?;
    let script = format!("{java} -Xmx256m -XX:TieredStopAtLevel=1 {file} MARK");
    both(stage, &script, &Told { prints: FETCHED, arrives: "api.bed.test", evil: Evil::ByName })
}

/// With every first request in the clear it asks for HTTP/2 by an upgrade, which is not taken.
pub fn java_httpclient(stage: &Stage) -> Result<()> {
    java(stage, "HttpClientGet.java", include_str!("inside/HttpClientGet.java"))?;
    let seen = stage.world().recorder().with_marker(&stage.marker());
    ensure!(seen.iter().all(|s| s.header("upgrade").is_none() && s.header("http2-settings").is_none()));
    Ok(())
}

pub fn java_urlconnection(stage: &Stage) -> Result<()> {
    java(stage, "UrlConnectionGet.java", include_str!("inside/UrlConnectionGet.java"))
}

/// A static binary with its own resolver and its own TLS, as Go's programs are; `.ci/run --tools` builds it.
pub fn go_net_http(stage: &Stage) -> Result<()> {
    let get = installed("go/get")?;
    let script = format!("{get} MARK");
    both(stage, &script, &Told { prints: FETCHED, arrives: "api.bed.test", evil: Evil::ByProxy })
}
