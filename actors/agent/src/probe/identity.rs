//! Checks who the process is, and what it may do: ids, capabilities, limits, session, descriptors,
//! namespaces.

use super::{Expect, Probe, Scene};
use crate::isolation::capabilities::Sets;
use crate::isolation::limits;
use crate::isolation::namespaces::Namespaces;
use crate::plan::{AGENT_ID, Control};
use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use std::io;
use std::net::TcpListener;

pub(super) fn check(probe: &mut Probe, scene: &Scene<'_>, kept: &[i32]) {
    capabilities(probe);
    user(probe);
    surroundings(probe, scene, kept);
    looked_into(probe);
}

fn capabilities(probe: &mut Probe) {
    use Control::{BoundingSet, Capabilities, NoNewPrivileges, Securebits};
    // Sets that can't be read count as wrong.
    let sets = Sets::read().unwrap_or(Sets { effective: u64::MAX, bounding: u64::MAX, ..Sets::default() });
    probe.holds("no capability left", Capabilities, || Ok(sets.is_empty()));
    probe.holds("no capability left in the bounding set", BoundingSet, || Ok(sets.bounding == 0));
    probe.holds("securebits are locked", Securebits, || Ok(sets.is_locked()));
    probe.holds("no_new_privs", NoNewPrivileges, || Ok(prctl(Prctl::NoNewPrivileges)? == 1));
    probe.try_it("bind a privileged port", Capabilities, Expect::Fails, || TcpListener::bind("127.0.0.1:81"));
}

fn user(probe: &mut Probe) {
    use Control::User;
    probe.holds("ids are the agent's", User, || {
        let (u, g) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
        let all =
            [u.real.as_raw(), u.effective.as_raw(), u.saved.as_raw(), g.real.as_raw(), g.effective.as_raw()];
        Ok(all.iter().all(|id| *id == AGENT_ID))
    });
    probe.try_it("setuid 0", User, Expect::Fails, || sys::process::set_uids(Some(0), Some(0), Some(0)));
    probe.try_it("setgid 0", User, Expect::Fails, || sys::process::set_gids(Some(0), Some(0), Some(0)));
    probe.try_it("setgroups", User, Expect::Fails, sys::process::clear_groups);
}

fn surroundings(probe: &mut Probe, scene: &Scene<'_>, kept: &[i32]) {
    use Control::{Descriptors, Namespaces as OwnNamespaces, Rlimits, Session, UserNamespaces};
    probe.holds("resource limits", Rlimits, || limits::are_applied(&scene.plan.limits));
    probe.holds("a session of its own", Session, || {
        let own = nix::unistd::getpid();
        Ok(nix::unistd::getsid(None)? == own && nix::unistd::getpgrp() == own)
    });
    probe.try_it("open the controlling terminal", Session, Expect::Fails, || std::fs::File::open("/dev/tty"));
    probe.holds("only standard streams are open", Descriptors, || {
        // Allowed are `kept`, which exec closes, and the directory that is being read.
        let mut strangers = std::fs::read_dir("/proc/self/fd")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|fd| *fd > 2 && !kept.contains(fd));
        Ok(strangers.by_ref().take(2).count() <= 1)
    });
    probe.holds("every namespace is the sandbox's own", OwnNamespaces, || {
        Ok(Namespaces::read()?.shared_with(scene.outside).is_empty())
    });
    probe.holds("no user namespace can be made", UserNamespaces, || {
        Ok(std::fs::read_to_string("/proc/sys/user/max_user_namespaces")?.trim() == "0")
    });
}

/// Checks whether others can look into this process, and this process into pid 1.
fn looked_into(probe: &mut Probe) {
    use Control::Dumpable;
    probe.holds("not dumpable until exec", Dumpable, || Ok(prctl(Prctl::Dumpable)? == 0));
    probe.holds("pid 1 is not dumpable", Dumpable, || {
        use std::os::unix::fs::MetadataExt;
        // proc_pid(5): the files of a process that isn't dumpable belong to root, who doesn't exist here.
        Ok(std::fs::metadata("/proc/1/mem")?.uid() == unmapped_user()?)
    });
    for file in ["root", "environ", "mem", "maps", "fd/0"] {
        let path = format!("/proc/1/{file}");
        probe.try_it(&format!("open {path}"), Dumpable, Expect::Fails, || std::fs::File::open(&path));
    }
}

fn unmapped_user() -> io::Result<u32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}
