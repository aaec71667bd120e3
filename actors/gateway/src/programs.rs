//! Which programs may ask the gateway, or use a route.
//!
//! Judges the program that the proxy identified at the other end of the connection ([`policy::Caller`]), as a
//! policy's entry does.

use policy::{Binary, Caller, NamedProgram};

use crate::config::Fault;
use crate::refusal::Refusal;

/// Most programs in one list.
pub const MAX_PROGRAMS: usize = 64;

/// A list of programs, or `None`, which admits any program.
#[derive(Debug, Default)]
pub(crate) struct Programs(Option<Box<[Binary]>>);

impl Programs {
    /// Checks a `binaries` list. `at` is the path of the object that holds it, for messages; it ends with a
    /// dot or is empty.
    ///
    /// # Errors
    /// Every fault.
    pub fn compile(at: &str, said: Option<&[NamedProgram]>) -> Result<Self, Vec<Fault>> {
        let Some(said) = said else { return Ok(Self::default()) };
        let (mut list, mut faults) = (Vec::new(), Vec::new());
        for (n, program) in said.iter().enumerate() {
            match program.checked(true) {
                Ok(binary) => list.push(binary),
                Err(what) => faults.push(Fault { at: format!("{at}binaries[{n}]"), what }),
            }
        }
        let unfit = match said.len() {
            0 => Some("an empty list lets nobody in: name programs, or leave it out".to_owned()),
            n if n > MAX_PROGRAMS => Some(format!("more than {MAX_PROGRAMS} programs")),
            _ => None,
        };
        faults.extend(unfit.map(|what| Fault { at: format!("{at}binaries"), what }));
        if faults.is_empty() { Ok(Self(Some(list.into()))) } else { Err(faults) }
    }

    /// Whether the list admits this caller.
    pub fn admit(&self, caller: &Caller) -> bool {
        self.0.as_ref().is_none_or(|list| list.iter().any(|binary| binary.admits(caller)))
    }

    /// The refusal of a caller that isn't admitted. `of` says what the list is for, `key` where it stands.
    pub fn refusal(&self, caller: &Caller, of: &str, key: &str) -> Refusal {
        let path = &caller.executable.path;
        let list = self.0.as_deref().unwrap_or_default();
        let own = |test: fn(&Binary, &Caller) -> bool| list.iter().any(|binary| test(binary, caller));
        let hint = if own(Binary::names) {
            format!(
                "code of unknown origin is mapped in it, which `allow_foreign_code: true` under `{key}` allows"
            )
        } else if own(|binary, caller| binary.path.matches(&caller.executable.path)) {
            format!("`{key}` pins a different version of that file")
        } else {
            format!("the operator names the programs that may under `{key}` in the sandbox's cofferdam.yaml")
        };
        Refusal::denied(format!("{path} may not use {of}")).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::{Executable, Party};

    use super::*;

    fn caller(path: &str, ancestors: &[&str], foreign_code: bool) -> Caller {
        let program = |path: &&str| Executable { path: Arc::from(*path), sha256: [1; 32] };
        Caller {
            executable: program(&path),
            ancestors: ancestors.iter().map(program).collect(),
            foreign_code,
            party: Party::UNKNOWN,
        }
    }

    fn programs(said: &str) -> Result<Programs, Vec<Fault>> {
        Programs::compile("", Some(&serde_json::from_str::<Vec<NamedProgram>>(said).unwrap()))
    }

    #[test]
    fn who_is_not_named_is_told_why() {
        let any = Programs::default();
        assert!(any.admit(&caller("/usr/bin/curl", &[], true)));
        let some = programs(r#"["/opt/agent", {"path":"/usr/bin/gh","ancestors":false}]"#).unwrap();
        for (path, ancestors, foreign, hint) in [
            ("/opt/agent", &[][..], false, None),
            ("/usr/bin/node", &["/usr/bin/sh", "/opt/agent"][..], false, None),
            ("/usr/bin/gh", &[][..], false, None),
            ("/usr/bin/node", &["/usr/bin/gh"][..], false, Some("the operator names")),
            ("/usr/bin/curl", &[][..], false, Some("the operator names")),
            ("/opt/agent", &[][..], true, Some("allow_foreign_code")),
        ] {
            let caller = caller(path, ancestors, foreign);
            assert_eq!(some.admit(&caller), hint.is_none(), "{path}");
            if let Some(hint) = hint {
                let refusal = some.refusal(&caller, "inference.local", "inference.binaries");
                assert!(refusal.hint.is_some_and(|said| said.contains(hint)), "{path}: {hint}");
            }
        }
        let pinned = format!(r#"[{{"path":"/opt/agent","sha256":"{}"}}]"#, "02".repeat(32));
        let pinned = programs(&pinned).unwrap();
        let other = caller("/opt/agent", &[], false);
        assert!(!pinned.admit(&other));
        assert!(
            pinned.refusal(&other, "x", "y").hint.is_some_and(|said| said.contains("a different version"))
        );
    }

    #[test]
    fn faults_say_where() {
        let at =
            |said: &str| programs(said).unwrap_err().iter().map(|fault| fault.at.clone()).collect::<Vec<_>>();
        assert_eq!(at("[]"), ["binaries"]);
        assert_eq!(at(r#"["/x","gh",{"path":"/y","sha256":"1"}]"#), ["binaries[1]", "binaries[2]"]);
        let many = format!("[{}]", vec!["\"/x\""; MAX_PROGRAMS + 1].join(","));
        assert_eq!(at(&many), ["binaries"]);
    }
}
