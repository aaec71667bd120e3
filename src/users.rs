//! The host's users that rooted sandboxes use: the two service users, and the range of ids that no user has.

use std::fs;

use agent::plan::Id;

/// The first dynamic id (systemd: `DynamicUser=`).
pub const FIRST: u32 = 61184;
/// The last one.
pub const LAST: u32 = 65519;

/// Whether a rooted sandbox's gateway may have this id.
pub fn is_a_gateways(uid: u32) -> bool {
    let service = || fs::read_to_string("/etc/passwd").ok().and_then(|users| named(&users, "gateway"));
    (FIRST..=LAST).contains(&uid) || service().is_some_and(|gateway| gateway.uid == uid)
}

/// Returns the ids of a user of /etc/passwd. Other sources are ignored: service users are made in that file
/// (useradd, sysusers.d), and the administrator of a directory service must not decide as which user the
/// agent runs.
pub fn named(users: &str, name: &str) -> Option<Id> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let id = Id { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
        (found == name && id.uid != 0).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_is_never_root() {
        let users = "root:x:0:0::/root:/bin/sh\ngateway:x:0:0::/:/bin/sh\nsandbox2:x:7:7::/:/bin/sh\nsandbox:x:5:6::/:/bin/sh\nbroken\n";
        assert_eq!(named(users, "sandbox"), Some(Id { uid: 5, gid: 6 }));
        assert_eq!(named(users, "gateway"), None);
        assert_eq!(named(users, "nobody"), None);
    }
}
