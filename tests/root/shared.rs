//! A host whose mounts are shared, as systemd makes them: a sandbox's mounts and unmounts don't propagate to
//! it.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, finish, program};

use super::little::tree;

/// Runs in a mount namespace of its own, with peers inside it, so that the real host's mounts are out of
/// reach.
const SCENE: &str = r#"
set -e
mkdir -p "$TREE/usr" "$TREE/data" "$WORK/keep"
mount --bind "$TREE/usr" "$TREE/usr"
mount -t tmpfs data "$TREE/data"
echo kept > "$TREE/data/file"
mount --make-rshared /
grep -c shared: /proc/self/mountinfo > /dev/null
cut -d' ' -f5 /proc/self/mountinfo | sort > "$SEEN.before"
for root in no "--root $TREE"; do
    for n in 1 2; do
        options="$root"; [ "$root" = no ] && options=
        $AS "$COFFERDAM" run --quiet --workspace "$WORK" --policy "$POLICY" $options -- sh -c 'touch /sandbox/written; cat /proc/self/mountinfo' > "$SEEN.inside"
        ! grep -E ' (shared|master):' "$SEEN.inside"
    done
done
cut -d' ' -f5 /proc/self/mountinfo | sort > "$SEEN.after"
diff "$SEEN.before" "$SEEN.after"
test "$(cat "$TREE/data/file")" = kept
touch "$WORK/keep/mine"
"#;

pub fn shared_mounts_stay_as_they_are(stage: &Stage) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bed::skip!("only root can make a namespace whose mounts are shared");
    }
    let (Some(unshare), Some(setpriv)) = (program("unshare"), program("setpriv")) else {
        bed::skip!("no unshare(1) or setpriv(1) on this machine");
    };
    let tree = tree(stage)?;
    let policy = stage.write(
        "shared.yaml",
        "version: 1\nfilesystem_policy:\n  include_workdir: true\n  read_only: [/usr, /lib, /etc, /sandbox/keep]\n  read_write: [/sandbox, /tmp]\n",
    )?;
    let work = stage.workspace();
    std::fs::create_dir_all(work.join("keep"))?;
    let seen = stage.dir().join("seen");
    for dir in [&work, &work.join("keep")] {
        std::os::unix::fs::chown(dir, Some(stage.uid()), Some(stage.uid()))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    }
    let uid = stage.uid();
    let dropped = format!("{} --reuid={uid} --regid={uid} --clear-groups", setpriv.display());
    let mut command = Command::new(unshare);
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", SCENE])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", stage.dir())
        .env("COFFERDAM_STATE", stage.state())
        .env("COFFERDAM", stage.binary())
        .env("AS", if uid == 0 { String::new() } else { dropped })
        .env("TREE", tree)
        .env("WORK", work)
        .env("SEEN", seen)
        .env("POLICY", policy);
    let done = finish(command, PATIENCE)?;
    done.expect_code(0).context("what is mounted on the host is not what was")?;
    ensure!(stage.workspace().join("written").exists(), "nothing ran");
    Ok(())
}
