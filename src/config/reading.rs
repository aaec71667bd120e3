//! Parses a configuration's text. An error names its place, its key, and what would be right.
//!
//! Must never quote a line of the text: a secret may be in it by mistake.

use serde::de::DeserializeOwned;
use serde_yaml::{Error, Options};

/// Reads one document.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn read<T: DeserializeOwned>(text: &str, options: Options) -> Result<T, String> {
    let mut key = None;
    serde_yaml::with_deserializer_from_str_with_options(text, options, |document| {
        serde_path_to_error::deserialize(document).map_err(|error| {
            key = Some(error.path().to_string());
            error.into_inner()
        })
    })
    .map_err(|error| told(&error, key.as_deref()))
}

fn told(error: &Error, key: Option<&str>) -> String {
    let full = error.without_snippet().to_string();
    let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
    // An empty path is a dot; an unknown key is a question mark.
    let key = key.map(|key| key.trim_end_matches(['.', '?'])).filter(|key| !key.is_empty());
    let key = key.map(|key| format!("{key}: "));
    // The place is put in front instead. The library's advice to its caller (`set ...`) is of no use to the
    // operator.
    let message = full.split(" at line ").next().unwrap_or(&full);
    let message = message.split(", set ").next().unwrap_or(message);
    let message = plain(message);
    let near = near(message).map(|near| format!("; did you mean `{near}`?"));
    [place.as_deref(), key.as_deref(), Some(message), near.as_deref()].into_iter().flatten().collect()
}

/// Rewords a message of the YAML library as what is expected in that place. Never repeats the value that was
/// found there: it may be a secret.
fn plain(message: &str) -> &str {
    match message {
        "expected sequence start" => "a list is wanted, as `[one, two]`",
        "expected mapping start" => "fields are wanted, as `{ name: value }`",
        "expected string scalar" => "a single text is wanted, neither a list nor fields",
        "cannot deserialize tagged scalar into string" => "a text is wanted: take its tag (`!!…`) out",
        "invalid floating point" => "a number is wanted, such as 2 or 0.5",
        "invalid u16" => "a whole number from 0 to 65535 is wanted",
        "invalid u32" => "a whole number from 0 to 4294967295 is wanted",
        "invalid u64" | "invalid usize" => "a whole number is wanted, 0 or more",
        "invalid socket address syntax" => {
            "an IP address and a port are wanted, such as `127.0.0.1:8642`: a name such as `localhost` is none"
        }
        text if text.starts_with("cannot deserialize null into string") => {
            "a text is wanted, and `~`, `null` and nothing are none: put it in quotes, or take it out"
        }
        boolean if boolean.starts_with("invalid boolean") => "`true` or `false` is wanted",
        size if SIZES.iter().any(|end| size.ends_with(end)) => "a size is wanted, such as 512MiB or 4GiB",
        depth if depth == "recursion limit exceeded" || depth.starts_with("budget breached: Depth") => {
            "it is nested deeper than any configuration is"
        }
        documents
            if documents.starts_with("budget breached: Documents")
                || documents.starts_with("multiple YAML documents") =>
        {
            "a configuration is one document: this begins another, so take out the `---`"
        }
        breach if breach.starts_with("budget breached: ") => "it is larger than any configuration is",
        other => other,
    }
}

/// How the library's messages about sizes in bytes end; no other values are read this way.
const SIZES: [&str; 3] =
    [", expected integer overflow", ", expected parsable string", ", expected an integer or string"];

/// Returns the known field whose name is closest to an unknown one's.
fn near(message: &str) -> Option<&str> {
    let (unknown, known) = message.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    let known: Vec<&str> = known.trim_start_matches("one of ").split(", ").collect();
    policy::nearest(unknown, &known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Agent {
        #[allow(dead_code, reason = "read for its errors")]
        command: Vec<String>,
        #[allow(dead_code, reason = "read for its errors")]
        listen: Option<SocketAddr>,
    }

    #[test]
    fn a_fault_is_told_by_place_key_and_what_would_be_right() {
        for (text, told) in [
            ("a: { command: sleep }", "line 1, column 15: a.command: a list is wanted, as `[one, two]`"),
            ("a: [x]", "line 1, column 4: a: fields are wanted, as `{ name: value }`"),
            (
                "a:\n  comand: [x]\n",
                "line 2, column 3: a.comand: unknown field `comand`, expected one of command, listen; did you mean `command`?",
            ),
            (
                "a: { command: [x], listen: nowhere }",
                "line 1, column 28: a.listen: an IP address and a port are wanted, such as `127.0.0.1:8642`: a name such as `localhost` is none",
            ),
            ("a: { command: [x] }\na: { command: [y] }", "line 2, column 1: duplicate mapping key: a"),
        ] {
            let fault = read::<BTreeMap<String, Agent>>(text, Options::default()).unwrap_err();
            assert_eq!(fault, told, "{text}");
        }
    }
}
