//! The agent's user: 1000, no other group, no way back.

use crate::plan::{AGENT_ID, Ids};
use crate::sys;
use std::io;

/// Becomes the agent's user. Capabilities that allow it must still be there (rooted).
///
/// # Errors
/// The kernel's, or an error that names what did not take.
pub fn become_agent(ids: Ids) -> io::Result<()> {
    if matches!(ids, Ids::Rooted { .. }) {
        // Rootless, the kernel forbids it (setgroups is denied before a gid map may be written), and the
        // operator's groups stay, unnamed. They open nothing: whatever is visible inside is decided by mounts
        // and Landlock.
        sys::process::clear_groups()?;
    }
    let id = Some(AGENT_ID);
    sys::process::set_gids(id, id, id)?;
    sys::process::set_uids(id, id, id)?;
    Ok(())
}

/// Checks that this process is the agent's user and can become no other. Call it when capabilities are gone.
///
/// # Errors
/// An error that says what is wrong.
pub fn verify(ids: Ids) -> io::Result<()> {
    let (users, groups) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
    let users = [users.real, users.effective, users.saved].map(nix::unistd::Uid::as_raw);
    let groups_all = [groups.real, groups.effective, groups.saved].map(nix::unistd::Gid::as_raw);
    if users != [AGENT_ID; 3] || groups_all != [AGENT_ID; 3] {
        return Err(io::Error::other(format!("ids are {users:?}:{groups_all:?}, not {AGENT_ID}")));
    }
    if sys::process::set_uids(Some(0), Some(0), Some(0)).is_ok()
        || sys::process::set_gids(Some(0), Some(0), Some(0)).is_ok()
    {
        return Err(io::Error::other("uid or gid 0 can be had again"));
    }
    if matches!(ids, Ids::Rooted { .. }) && sys::process::group_count()? != 0 {
        return Err(io::Error::other("supplementary groups are left"));
    }
    Ok(())
}
