//! `--env`: variables set (`K=V`) or passed by name (`K`) into the sandbox.

use std::env::VarError;

use proxy::credentials::Section;

use crate::console::one_line;
use crate::failure::Failure;

/// Reads `--env` values into pairs.
pub fn pairs(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    given.iter().map(|text| pair(text)).collect()
}

/// Builds the whole environment of an agent: what every sandbox has, and the given variables. A given one
/// that isn't allowed (locked, preloading) is an error: to drop it in silence would only surprise later.
pub fn build(agent: &str, given: &[(String, String)]) -> Result<Vec<Vec<u8>>, Failure> {
    if let Some((name, _)) =
        given.iter().find(|(name, value)| !agent::environment::is_well_formed(name, value))
    {
        return Err(Failure::refused(format!(
            "{name:?} can't be set inside: a name is not empty and has no `=`, and neither name nor value has a NUL byte"
        )));
    }
    if let Some((name, _)) = given.iter().find(|(name, _)| OURS.contains(&name.as_str())) {
        return Err(locked(name));
    }
    let built = agent::environment::build(agent, given);
    match built.dropped.first() {
        None => Ok(built.variables),
        Some(name) => Err(locked(name)),
    }
}

/// Variables that cofferdam sets as well: connections that bypass the proxy lead nowhere, and code on
/// `PYTHONPATH` would be loaded into every Python program.
const OURS: [&str; 3] = ["NO_PROXY", "no_proxy", "PYTHONPATH"];

fn locked(name: &str) -> Failure {
    Failure::refused(format!(
        "{name} can't be set inside: cofferdam sets it itself, or it would load code into every program; a command can set it for \
         itself (`-- env {name}=… PROGRAM`)"
    ))
}

/// Adds the variables that hold placeholders of credentials. If one was also given, that is an error: its
/// value may be the key itself.
pub fn with_placeholders(
    given: Vec<(String, String)>,
    credentials: &Section,
) -> Result<Vec<(String, String)>, Failure> {
    let placeholders: Vec<(String, String)> = credentials.environment().collect();
    match given.iter().find(|(name, _)| placeholders.iter().any(|(held, _)| held == name)) {
        None => Ok([given, placeholders].concat()),
        Some((name, _)) => Err(Failure::refused(format!(
            "{name} is set twice: it holds the placeholder of a credential; take it out of the variables that you set"
        ))),
    }
}

fn pair(text: &str) -> Result<(String, String), Failure> {
    let key = text.split_once('=').map_or(text, |(key, _)| key);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if key.is_empty() || !key.chars().all(plain) || key.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Failure::refused(format!(
            "--env: '{}' is no variable's name: write NAME=VALUE, or NAME to pass on your own",
            one_line(key)
        )));
    }
    let value = match text.split_once('=') {
        Some((_, value)) => value.to_owned(),
        None => own(key)?,
    };
    if value.contains('\0') {
        return Err(Failure::refused(format!("--env {key}: the value holds a NUL byte")));
    }
    Ok((key.to_owned(), value))
}

/// Returns the operator's own value of a variable.
fn own(key: &str) -> Result<String, Failure> {
    std::env::var(key).map_err(|why| {
        Failure::refused(match why {
            VarError::NotPresent => {
                format!("--env {key}: you have no such variable; set one with --env {key}=VALUE")
            }
            VarError::NotUnicode(_) => {
                format!("--env {key}: its value is not UTF-8, and such variables aren't passed; set one with --env {key}=VALUE")
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_or_passed_by_name() {
        assert_eq!(pair("A=b=c").unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(pair("A=").unwrap(), ("A".into(), String::new()));
        assert_eq!(pair("PATH").unwrap().0, "PATH");
        for bad in ["", "=x", "1A=x", "A B=x", "NOT_SET_ANYWHERE_1", "A=\0"] {
            assert!(pair(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_can_stand_in_no_environment_is_told_apart_from_what_may_not() {
        let why = |name: &str, value: &str| build("a", &[(name.into(), value.into())]).unwrap_err().message;
        assert!(
            why("A", "x\0").contains("NUL")
                && why("A=B", "").contains('=')
                && why("", "x").contains("not empty")
        );
        for name in ["PATH", "NO_PROXY", "no_proxy", "PYTHONPATH", "LD_PRELOAD"] {
            assert!(why(name, "/x").contains("cofferdam sets it itself"), "{name}");
        }
    }
}
