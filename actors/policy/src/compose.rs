//! Composes a policy and the presets added to it into one policy.

use crate::check;
use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::model::{Entry, Policy};
use crate::read::Preset;

/// Adds the entries of presets to a policy. An entry that is already there, equal in every field, isn't added
/// again.
///
/// # Errors
/// Two different entries of one key, or entries that contradict each other.
pub fn compose(base: Policy, presets: &[Preset]) -> Result<Policy, Diagnostics> {
    let mut out = base;
    let mut errors = Diagnostics::new("policy with presets", "");
    for preset in presets {
        for entry in &preset.network {
            match out.network.iter().find(|own| own.key == entry.key) {
                None => out.network.push(entry.clone()),
                Some(own) if own == entry => {}
                Some(own) => {
                    let message = format!(
                        "the preset `{}` has an entry `{}`, and there is another of that key{}",
                        preset.name,
                        entry.key,
                        place(own)
                    );
                    errors.push(whole(message, "rename the one in the policy, or leave the preset out"));
                }
            }
        }
    }
    for contradiction in check::contradictions(&out.network) {
        errors.push(whole(contradiction.to_string(), check::CONTRADICTION_HELP));
    }
    if errors.has_errors() { Err(errors) } else { Ok(out) }
}

fn whole(message: String, help: &str) -> Diagnostic {
    Diagnostic { span: None, ..Diagnostic::error(0..0, message) }.help(help)
}

fn place(entry: &Entry) -> String {
    entry.endpoints.first().map_or_else(String::new, |e| format!(" (at {})", e.origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    fn policy(text: &str) -> Policy {
        crate::parse("base.yaml", text).unwrap().policy
    }

    #[test]
    fn presets_add_entries_once() {
        let pypi = builtin::preset("pypi").unwrap().preset().unwrap();
        let base = policy("version: 1\n");
        let once = compose(base.clone(), std::slice::from_ref(&pypi)).unwrap();
        let twice = compose(base, &[pypi.clone(), pypi.clone()]).unwrap();
        assert_eq!(once, twice);
        assert_eq!(once.network().len(), 1);
        let development = builtin::profile("development").unwrap().policy().unwrap().policy;
        assert_eq!(compose(development.clone(), &[pypi]).unwrap(), development);
    }

    #[test]
    fn another_entry_of_the_same_key_and_contradictions_are_errors_that_name_both() {
        let pypi = builtin::preset("pypi").unwrap().preset().unwrap();
        let text = "version: 1\nnetwork_policies: { pypi: { endpoints: [ { host: pypi.org, port: 443 } ], binaries: [ { path: /usr/bin/curl } ] } }\n";
        let errors = compose(policy(text), std::slice::from_ref(&pypi)).unwrap_err().to_string();
        assert!(errors.contains("base.yaml:2:") && errors.contains("the preset `pypi`"), "{errors}");
        let text = "version: 1\nnetwork_policies: { mine: { endpoints: [ { host: pypi.org, port: 443 } ], binaries: [ { path: /usr/bin/python3.11 } ] } }\n";
        let errors = compose(policy(text), &[pypi]).unwrap_err().to_string();
        assert!(errors.contains("`mine` (base.yaml:2:") && errors.contains("`pypi` (pypi:"), "{errors}");
    }
}
