//! Enters a world and runs a command in it, for work by hand:
//!
//! ```text
//! cargo run -p cofferdam-bed --example enter -- curl --cacert /tmp/bed-enter/ca.pem https://api.bed.test/echo
//! cargo run -p cofferdam-bed --example enter -- bash
//! ```
//! The model `script` calls the tool `bash` twice, for a file and for a host, and then ends its turn.

use std::process::{Command, ExitCode};

use bed::{Turn, World};
use serde_json::json;

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else { anyhow::bail!("name a command") };
    let world = World::enter(std::path::Path::new("/tmp/bed-enter"))?;
    let bash = |command: &str| Turn::tool("bash", json!({ "command": command }));
    let turns = vec![
        bash("cat /etc/hostname"),
        bash("curl -sS --max-time 10 https://evil.bed.test/"),
        Turn::text("that was all"),
    ];
    world.provider().script("script", turns);
    let status = Command::new(program).args(args).env("SSL_CERT_FILE", world.ca_file()).status()?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(125)).unwrap_or(125)))
}
