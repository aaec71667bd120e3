//! What each version of Landlock adds, and what holds where a kernel is older: the table of docs/cage.md, as
//! data.

/// One ABI version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// As landlock_create_ruleset(2) gives it.
    pub abi: u32,
    /// The first kernel that has it.
    pub kernel: &'static str,
    /// The rights that it adds, as the kernel's headers name them, in lower case.
    pub adds: &'static [&'static str],
    /// What we make of it.
    pub used_for: &'static str,
    /// What holds without it.
    pub without: &'static str,
}

/// Every version that we know, oldest first.
pub const VERSIONS: &[Version] = &[
    Version {
        abi: 1,
        kernel: "5.13",
        adds: &[
            "execute",
            "write_file",
            "read_file",
            "read_dir",
            "remove_dir",
            "remove_file",
            "make_char",
            "make_dir",
            "make_reg",
            "make_sock",
            "make_fifo",
            "make_block",
            "make_sym",
        ],
        used_for: "every path of the policy; no tracing of a process outside the domain",
        without: "nothing: strict refuses to start",
    },
    Version {
        abi: 2,
        kernel: "5.19",
        adds: &["refer"],
        used_for: "renaming and linking between directories that the policy makes writable",
        without: "such a rename fails (EXDEV), and programs copy instead",
    },
    Version {
        abi: 3,
        kernel: "6.2",
        adds: &["truncate"],
        used_for: "truncating only what is writable",
        without: "read-only mounts",
    },
    Version {
        abi: 4,
        kernel: "6.7",
        adds: &["bind_tcp", "connect_tcp"],
        used_for: "nothing: agents serve on ports that nobody can list beforehand",
        without: "the network namespace, which has a loopback and a link to a gate that leads nowhere",
    },
    Version {
        abi: 5,
        kernel: "6.10",
        adds: &["ioctl_dev"],
        used_for: "no ioctl on a device but terminals",
        without: "no device but six harmless ones; seccomp on ioctl",
    },
    Version {
        abi: 6,
        kernel: "6.12",
        adds: &["scope_abstract_unix_socket", "scope_signal"],
        used_for: "no signal to, and no abstract socket of, another agent of the sandbox",
        without: "towards the host the pid and network namespaces; between agents of one sandbox nothing",
    },
    Version {
        abi: 7,
        kernel: "6.15",
        adds: &[],
        used_for: "nothing: it changes what the kernel logs",
        without: "nothing is missing",
    },
    Version {
        abi: 8,
        kernel: "7.0",
        adds: &[],
        used_for: "nothing: it lets a process with threads confine itself, and ours has one",
        without: "nothing is missing",
    },
    Version {
        abi: 9,
        kernel: "7.1",
        adds: &["resolve_unix"],
        used_for: "connecting to a pathname socket only where the policy makes its place writable",
        without: "a policy's path that is a socket is refused, and a start names those of the host in what is shown",
    },
    Version {
        abi: 10,
        kernel: "7.2",
        adds: &["bind_udp", "connect_send_udp"],
        used_for: "nothing yet: a sandbox's UDP ends at its own loopback",
        without: "the network namespace",
    },
];

/// The table as Markdown.
#[must_use]
pub fn table() -> String {
    use std::fmt::Write;
    let mut out = String::from("| ABI | Linux | adds | used for | without it |\n|---|---|---|---|---|\n");
    for version in VERSIONS {
        let adds = if version.adds.is_empty() { "no right".to_owned() } else { version.adds.join(" ") };
        let _ = writeln!(
            out,
            "| {} | {} | {adds} | {} | {} |",
            version.abi, version.kernel, version.used_for, version.without
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, Scope};

    const ABIS: [ABI; 10] =
        [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9, ABI::V10];

    /// As the table spells them, what a version has and the one before it hasn't.
    fn added<T: Access + std::fmt::Debug>(abi: ABI, before: Option<ABI>, prefix: &str) -> Vec<String> {
        let old = before.map_or(BitFlags::EMPTY, T::from_all);
        let new = T::from_all(abi) & !old;
        new.iter().map(|right| format!("{prefix}{}", snake(&format!("{right:?}")))).collect()
    }

    fn snake(name: &str) -> String {
        let mut out = String::new();
        for (n, c) in name.char_indices() {
            if c.is_ascii_uppercase() && n > 0 {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        }
        out
    }

    #[test]
    fn the_table_says_what_the_crate_asks_for() {
        assert_eq!(VERSIONS.len(), ABIS.len());
        for (n, (version, abi)) in VERSIONS.iter().zip(ABIS).enumerate() {
            assert_eq!(version.abi as usize, n + 1);
            let before = n.checked_sub(1).map(|n| ABIS[n]);
            let mut rights = added::<AccessFs>(abi, before, "");
            rights.extend(added::<AccessNet>(abi, before, ""));
            rights.extend(added::<Scope>(abi, before, "scope_"));
            rights.sort();
            let mut told: Vec<&str> = version.adds.to_vec();
            told.sort_unstable();
            assert_eq!(told, rights, "ABI {}", version.abi);
        }
    }
}
