//! Drops every capability from every set for good, and reads the sets back to be sure (capabilities(7)).
//!
//! Two stages: the capabilities that break cages are dropped before the change of user, the rest with it,
//! among them those that the change itself needs. A capability that isn't there isn't dropped, so this is
//! cheap on a machine that grants few.

use crate::sys;
use crate::sys::capabilities::Triple;
use crate::sys::prctl::{Prctl, prctl};
use caps::Capability;
use std::io;

/// Dropped from the bounding set first: the capabilities that break a cage.
pub const DROPPED_AT_START: &[Capability] = &[
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_NET_RAW,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_FSETID,
    Capability::CAP_SETFCAP,
    Capability::CAP_MKNOD,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Dropped with the change of user, which needs some of them; every other that the kernel knows goes with
/// them.
pub const DROPPED_WITH_USER: &[Capability] = &[
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_FOWNER,
    Capability::CAP_CHOWN,
    Capability::CAP_KILL,
];

/// If this is `1` (or implied by strict enforcement), a set that isn't empty makes the start fail.
pub const REQUIRE_CAP_DROP: &str = "COFFERDAM_REQUIRE_CAP_DROP";

/// The kernel keeps capabilities as bits of a 64-bit word.
const BITS: u32 = 64;

/// The securebits (linux/securebits.h), all locked: user id 0 confers no capability, a change of user ids
/// gives none, `PR_SET_KEEPCAPS` stays off, and no capability can be made ambient.
const SECUREBITS: libc::c_ulong = {
    const NOROOT: libc::c_ulong = 1 << 0 | 1 << 1;
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2 | 1 << 3;
    const KEEP_CAPS_LOCKED: libc::c_ulong = 1 << 5;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 1 << 6 | 1 << 7;
    NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE
};

/// Every set of this process, as the kernel gives it: one bit a capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// Checked by the kernel.
    pub effective: u64,
    /// May become effective.
    pub permitted: u64,
    /// Kept over exec by files that say so.
    pub inheritable: u64,
    /// Kept over exec by any file.
    pub ambient: u64,
    /// The most that exec can give.
    pub bounding: u64,
    /// linux/securebits.h.
    pub securebits: u32,
}

impl Sets {
    /// Asks the kernel: one capget(2), and one prctl(2) for each capability it knows.
    ///
    /// # Errors
    /// When the kernel can't be asked, which is as bad as a capability left.
    pub fn read() -> io::Result<Self> {
        let Triple { effective, permitted, inheritable } = sys::capabilities::read()?;
        let mut sets = Self { effective, permitted, inheritable, ..Self::default() };
        for number in 0..BITS {
            match holds(Prctl::Bounding(number))? {
                // No capability has this number, and none a higher one.
                None => break,
                Some(true) => sets.bounding |= 1 << number,
                Some(false) => {}
            }
            if holds(Prctl::Ambient(number))? == Some(true) {
                sets.ambient |= 1 << number;
            }
        }
        sets.securebits = prctl(Prctl::Securebits)?.cast_unsigned();
        Ok(sets)
    }

    /// Lists the capabilities that are left in any set, by set and name; empty when all is well. The
    /// securebits are checked by [`Self::is_locked`].
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        [
            ("effective", self.effective),
            ("permitted", self.permitted),
            ("inheritable", self.inheritable),
            ("ambient", self.ambient),
            ("bounding", self.bounding),
        ]
        .into_iter()
        .filter(|(_, bits)| *bits != 0)
        .map(|(set, bits)| format!("{set}: {}", names(bits)))
        .collect()
    }

    /// Whether the four sets of the process itself are empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.effective | self.permitted | self.inheritable | self.ambient == 0
    }

    /// Whether the securebits are set and locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        libc::c_ulong::from(self.securebits) & SECUREBITS == SECUREBITS
    }
}

/// Asks whether the bit is set; `None` if the kernel knows no such capability.
fn holds(what: Prctl) -> io::Result<Option<bool>> {
    match prctl(what) {
        Ok(answer) => Ok(Some(answer == 1)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The capabilities' names as capabilities(7) spells them; one newer than our table is named by its number.
fn names(bits: u64) -> String {
    (0..BITS)
        .filter(|number| bits & (1 << number) != 0)
        .map(|number| {
            caps::all()
                .into_iter()
                .find(|known| u32::from(known.index()) == number)
                .map_or_else(|| format!("capability {number}"), |known| known.to_string().to_lowercase())
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first stage, before the change of user. Needs CAP_SETPCAP, as the second does.
///
/// # Errors
/// The kernel's.
pub fn drop_at_start() -> io::Result<()> {
    DROPPED_AT_START.iter().try_for_each(|capability| drop_bounding(u32::from(capability.index())).map(drop))
}

/// The second stage, with the change of user: whatever is left of the bounding set.
///
/// # Errors
/// The kernel's.
pub fn drop_with_user() -> io::Result<()> {
    // By number, so that one newer than our table goes too.
    for number in 0..BITS {
        if !drop_bounding(number)? {
            break;
        }
    }
    Ok(())
}

/// Both stages at once: for the supervisor, whose user changes right after.
///
/// # Errors
/// The kernel's.
pub fn empty_bounding() -> io::Result<()> {
    drop_at_start()?;
    drop_with_user()
}

/// Drops a capability from the bounding set if it is there; false if the kernel knows no such capability.
fn drop_bounding(number: u32) -> io::Result<bool> {
    match holds(Prctl::Bounding(number))? {
        None => Ok(false),
        Some(false) => Ok(true),
        Some(true) => prctl(Prctl::DropBounding(number)).map(|_| true),
    }
}

/// Locks the securebits. Needs CAP_SETPCAP, hence before [`clear_sets`].
///
/// # Errors
/// The kernel's.
pub fn lock_securebits() -> io::Result<()> {
    prctl(Prctl::SetSecurebits(SECUREBITS)).map(drop)
}

/// Clears the ambient, inheritable, permitted and effective sets.
///
/// # Errors
/// The kernel's.
pub fn clear_sets() -> io::Result<()> {
    prctl(Prctl::ClearAmbient)?;
    sys::capabilities::clear()
}

/// Clears the same sets, except that one capability stays permitted and effective.
///
/// # Errors
/// The kernel's.
pub fn keep_only(one: Capability) -> io::Result<()> {
    prctl(Prctl::ClearAmbient)?;
    sys::capabilities::keep(1 << one.index())
}

/// Fails, naming what is left, unless every set is empty and the securebits are locked.
///
/// # Errors
/// The list of what is left, or the kernel's.
pub fn verify() -> io::Result<()> {
    let sets = Sets::read()?;
    let mut left = sets.left();
    if !sets.is_locked() {
        left.push(format!("securebits: {:#x} instead of {SECUREBITS:#x}", sets.securebits));
    }
    if left.is_empty() { Ok(()) } else { Err(io::Error::other(format!("left {}", left.join("; ")))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_proc_says() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |key: &str| {
            let text = status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
            u64::from_str_radix(text, 16).unwrap()
        };
        let sets = Sets::read().unwrap();
        assert_eq!(sets.effective, line("CapEff:"));
        assert_eq!(sets.permitted, line("CapPrm:"));
        assert_eq!(sets.inheritable, line("CapInh:"));
        assert_eq!(sets.ambient, line("CapAmb:"));
        assert_eq!(sets.bounding, line("CapBnd:"));
    }

    #[test]
    fn every_set_is_named_with_what_is_in_it() {
        let all = Sets {
            effective: 1,
            permitted: 1 << 21,
            inheritable: 1 << 63,
            ambient: 2,
            bounding: 0b11,
            securebits: 0,
        };
        assert_eq!(
            all.left(),
            [
                "effective: cap_chown",
                "permitted: cap_sys_admin",
                "inheritable: capability 63",
                "ambient: cap_dac_override",
                "bounding: cap_chown cap_dac_override"
            ]
        );
        assert!(!all.is_empty() && !all.is_locked());
        assert!(Sets::default().left().is_empty());
        assert!(Sets { securebits: 0xef, ..Sets::default() }.is_locked());
    }

    #[test]
    fn the_stages_share_nothing_and_the_first_is_the_dangerous_one() {
        assert!(DROPPED_AT_START.iter().all(|capability| !DROPPED_WITH_USER.contains(capability)));
        assert!(DROPPED_AT_START.contains(&Capability::CAP_SYS_ADMIN));
    }
}
