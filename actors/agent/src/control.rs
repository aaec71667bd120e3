//! The cage's controls by name: a closed set that the proof, `doctor`, `status`, the metrics and the audit
//! log share.
//!
//! Each variant is one thing that can be left out on purpose (see
//! [`CagePlan::sabotage`](crate::plan::CagePlan)), so that a test sees the proof notice. A control whose
//! absence no check notices fails the tests, which iterate over [`Control::ALL`].

use serde::{Deserialize, Serialize};

macro_rules! controls {
    ($($variant:ident $name:literal $meaning:literal),* $(,)?) => {
        /// A control of the cage. What each does is in docs/cage.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Control {
            $(#[doc = $meaning] $variant,)*
        }

        impl Control {
            /// All of them, in the order in which they come into force.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Lower-case name for metrics, status and messages.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it does, in half a sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),* }
            }
        }
    };
}

controls! {
    Cgroup "cgroup" "bounds on memory, processes and processors, where they were asked for",
    Namespaces "namespaces" "user, mount, pid, net, ipc, uts and cgroup namespaces of the sandbox's own",
    UserNamespaces "user_namespaces" "no further user namespace can be made inside",
    Network "network" "a loopback of its own, and a link to a gate that leads nowhere",
    Root "root" "nothing of the host but what the policy names",
    ReadOnlyMounts "read_only_mounts" "what the policy doesn't make writable is mounted read-only",
    MountFlags "mount_flags" "nosuid and nodev everywhere, noexec where nothing is run",
    MaskedProc "masked_proc" "entries of /proc that tell of, or reach, the whole machine are covered",
    PrivateTmp "private_tmp" "/tmp and /dev/shm are filesystems of the sandbox's own, bounded",
    Devices "devices" "six harmless devices and terminals of its own",
    Etc "etc" "an /etc without users, keys or secrets of the host",
    Session "session" "a session of its own, and with it no terminal but one of the sandbox's",
    Descriptors "descriptors" "no descriptor but the standard streams",
    Rlimits "rlimits" "bounds on processes, descriptors and core files",
    BoundingSet "bounding_set" "no capability can be had again by executing anything",
    Securebits "securebits" "user 0 means no capability, locked",
    User "user" "the agent's user, no other group, no way back",
    Capabilities "capabilities" "no effective, permitted, inheritable or ambient capability",
    NoNewPrivileges "no_new_privs" "executing a program gives no right",
    Dumpable "dumpable" "pid 1, and a child until it executes, can't be looked into",
    Landlock "landlock" "the kernel checks every path against the policy once more",
    LandlockScopes "landlock_scopes" "no signal to, and no abstract socket of, another process of the sandbox",
    Seccomp "seccomp" "only listed system calls",
    ForeignCalls "foreign_calls" "system calls of another table (x32, 32 bits) are deadly",
    SocketFamilies "socket_families" "no raw, packet, vsock, crypto or netlink socket (route reads aside)",
    TerminalInjection "terminal_injection" "nothing can be typed into a terminal (TIOCSTI)",
    NamespaceCalls "namespace_calls" "no call that makes or enters a namespace",
    SetIdBits "set_id_bits" "no file can be made set-user-id",
    ConnectNotify "connect_notify" "who makes a connection is noted as it is made",
}

impl std::fmt::Display for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Control {
    type Err = String;

    /// By its [name](Control::as_str).
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|control| control.as_str() == name)
            .ok_or_else(|| format!("there is no control `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_lead_back() {
        let mut seen = std::collections::BTreeSet::new();
        for control in Control::ALL {
            assert!(control.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{control}");
            assert_eq!(control.as_str().parse::<Control>(), Ok(*control));
            assert!(seen.insert(control.as_str()), "{control} twice");
        }
        assert!("nothing".parse::<Control>().is_err());
    }
}
