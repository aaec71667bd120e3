//! A program that can't be inspected in the sandbox, since it is unreadable and its owner has no uid there:
//! nobody can tell which descriptors it holds, so its own agent's connections are refused.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, poll};

use super::common::{Sandbox, policy, program};

const API: &str = "  api:\n    name: api\n    endpoints: [ { host: api.bed.test, ports: [80, 443], protocol: rest, access: full } ]\n    \
     binaries: [ { path: /**, allow_foreign_code: true } ]\n";

pub fn who_cant_be_looked_into_is_its_own_agents_loss(stage: &Stage) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bed::skip!("only root makes a program of root's");
    }
    // Not below /tmp, since the sandbox has a /tmp of its own.
    let made =
        [env!("CARGO_TARGET_TMPDIR"), "/srv"].into_iter().find_map(|dir| tempfile::tempdir_in(dir).ok());
    let Some(dir) = made else { bed::skip!("no directory to write in but /tmp") };
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let hidden = dir.path().join("hidden");
    std::fs::copy(program("sleep")?, &hidden)?;
    std::fs::set_permissions(&hidden, PermissionsExt::from_mode(0o111))?;
    let (dir, hidden) = (dir.path().display(), hidden.display());
    let text = policy(API).replace("    - /etc ", &format!("    - {dir}\n    - /etc "));
    let file = stage.write("policy.yaml", text)?.display().to_string();
    let agent = format!("{hidden} 1000 & echo ready; exec sleep 1000");
    let sandbox = Sandbox::start(stage, &["--policy", &file], &["sh", "-c", &agent], "ready")?;
    let asks = "exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT api.bed.test:443 HTTP/1.1\\r\\nHost: api.bed.test:443\\r\\n\\r\\n' >&3; read -r line <&3; echo \"$line\"";
    let said = |script: &str| -> Result<String> {
        Ok(stage.call(&["exec", &sandbox.name, "--", "bash", "-c", script])?.expect_code(0)?.out())
    };
    // Each `exec` is a start of its own by init, so the agent's hidden program doesn't affect it.
    let others = said(asks)?;
    ensure!(others.contains(" 200 "), "another agent's tunnel: {others:?}");
    // The hidden program runs once its name shows in `comm`.
    let until = "until grep -qs hidden /proc/$!/comm; do :; done";
    let own = said(&format!("{hidden} 1000 & {until}; {asks}; kill $!"))?;
    ensure!(own.contains(" 403 "), "its own agent's tunnel: {own:?}");
    poll("a record that says why", PATIENCE, || {
        let says = |record: &serde_json::Value| {
            record.to_string().contains("nobody in the sandbox may look into it")
        };
        sandbox.audit().ok()?.iter().any(says).then_some(())
    })
}
