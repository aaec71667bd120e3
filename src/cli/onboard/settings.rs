//! The settings file in an agent's home that tells it about its model. It is written into a workspace once,
//! and never over an existing file.
//!
//! An agent may have used that workspace before, so no link in it is followed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::fcntl::{open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid, fchown, geteuid};
use serde_json::json;

use super::agents::OPENCLAW_PORT;
use super::made::Made;
use crate::kept::DIRECTORY;

/// The URL of every agent's model.
const BASE_URL: &str = "https://inference.local/v1";

/// Makes the text of an agent's file from its model's name and a token. The token is the agent's own, for
/// clients that reach it from outside; no provider's key is in the file.
pub type Text = fn(model: &str, token: &str) -> String;

/// Claude Code's. Without this file the agent connects to its maker's host before the first conversation, and
/// exits if it may not.
pub fn claude(_: &str, _: &str) -> String {
    format!("{}\n", json!({ "hasCompletedOnboarding": true }))
}

/// Codex's.
pub fn codex(model: &str, _: &str) -> String {
    format!(
        "model = {}\nmodel_provider = \"inside\"\n\n[model_providers.inside]\nname = \"inside\"\nbase_url = \"{BASE_URL}\"\n\
         env_key = \"OPENAI_API_KEY\"\nwire_api = \"responses\"\n",
        // A model's name is printable ASCII, for which TOML's escapes are the same as JSON's.
        json!(model)
    )
}

/// OpenCode's.
pub fn opencode(model: &str, _: &str) -> String {
    pretty(&json!({
        "provider": { "inside": {
            "npm": "@ai-sdk/openai-compatible", "name": "inside",
            "options": { "baseURL": BASE_URL, "apiKey": "{env:OPENAI_API_KEY}" },
            "models": { model: { "name": model } } } },
        "model": format!("inside/{model}") }))
}

/// OpenClaw's.
pub fn openclaw(model: &str, token: &str) -> String {
    pretty(&json!({
        "models": { "providers": { "inside": {
            "baseUrl": BASE_URL, "apiKey": "placeholder", "api": "openai-completions",
            "models": [ { "id": model, "name": model, "contextWindow": 128_000, "maxTokens": 8192 } ] } } },
        "agents": { "defaults": { "model": { "primary": format!("inside/{model}") } } },
        "gateway": { "mode": "local", "port": OPENCLAW_PORT, "bind": "loopback", "auth": { "mode": "token", "token": token } } }))
}

/// Hermes'.
pub fn hermes(model: &str, _: &str) -> String {
    format!(
        "model:\n  provider: custom\n  default: {}\n  base_url: {BASE_URL}\n  api_key: placeholder\nallow_lazy_installs: false\n",
        json!(model)
    )
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Writes a file below `home`, which belongs to whom `home` belongs to. Returns false if it exists already.
/// What is made, directories too, is added to `made`.
///
/// # Errors
/// It can't be written, or a link is on the way to it.
pub fn put(made: &mut Made, home: &Path, file: &str, text: &str) -> io::Result<bool> {
    let mut dir = open(home, DIRECTORY, Mode::empty())?;
    let to = owner(&dir)?;
    let mut parts = Path::new(file).components().peekable();
    while let Some(Component::Normal(part)) = parts.next() {
        if parts.peek().is_none() {
            return match made.file(dir.as_fd(), part)? {
                Some(file) => written(file, text, to).map(|()| true),
                None => Ok(false),
            };
        }
        let is_new = made.directory(dir.as_fd(), part)?;
        dir = openat(dir.as_fd(), part, DIRECTORY, Mode::empty())?;
        if is_new {
            give(dir.as_fd(), to)?;
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// A user and a group that files are given to.
type Owner = (Uid, Gid);

/// Returns whom root gives the files in `home` to: inside, the owner of a workspace is the agent, and root's
/// own files would be nobody's. Others can give nothing away, and their agents run as themselves.
fn owner(home: &OwnedFd) -> io::Result<Option<Owner>> {
    let found = fstat(home)?;
    Ok(geteuid().is_root().then(|| (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid))))
}

fn written(mut file: File, text: &str, to: Option<Owner>) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    give(file.as_fd(), to)?;
    file.sync_all()
}

/// Gives away what was just made. Only what still is root's: an agent that uses the workspace may have put
/// something else in its place.
fn give(made: BorrowedFd<'_>, to: Option<Owner>) -> io::Result<()> {
    match to {
        Some((uid, gid)) if fstat(made)?.st_uid == 0 => Ok(fchown(made, Some(uid), Some(gid))?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::agents::KNOWN;
    use super::*;

    #[test]
    fn a_file_is_written_once_and_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (home, away) = (dir.path().join("home"), dir.path().join("away"));
        std::fs::create_dir(&home).unwrap();
        std::fs::create_dir(&away).unwrap();
        let mut made = Made::default();
        let mut put = |home: &Path, file: &str, text: &str| super::put(&mut made, home, file, text);
        assert!(put(&home, ".a/b/c", "one").unwrap());
        assert!(!put(&home, ".a/b/c", "two").unwrap());
        assert_eq!(std::fs::read_to_string(home.join(".a/b/c")).unwrap(), "one");
        std::os::unix::fs::symlink(&away, home.join(".led")).unwrap();
        assert!(put(&home, ".led/c", "x").is_err());
        std::os::unix::fs::symlink(away.join("new"), home.join("dangling")).unwrap();
        assert!(!put(&home, "dangling", "x").unwrap());
        assert_eq!(std::fs::read_dir(&away).unwrap().count(), 0);
        // What isn't kept is removed, but nothing that a link was put in place of.
        std::fs::create_dir_all(away.join("b")).unwrap();
        std::fs::write(away.join("b/c"), "theirs").unwrap();
        std::fs::rename(home.join(".a"), home.join(".moved")).unwrap();
        std::os::unix::fs::symlink(&away, home.join(".a")).unwrap();
        drop(made);
        assert_eq!(std::fs::read_to_string(away.join("b/c")).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(home.join(".moved")).unwrap().count(), 0, "ours is left");
    }

    #[test]
    fn each_names_the_model_and_no_key() {
        for known in KNOWN {
            let text = (known.text)("some/model", "the-agents-own");
            assert_eq!(text.contains("some/model"), known.names_model, "{text}");
            assert_eq!(text.contains(BASE_URL), known.names_model, "{text}");
            if known.settings.ends_with(".json") {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        }
    }
}
