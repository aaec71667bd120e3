//! Writes a provider as its line under `inference.providers`.
//!
//! The line reads back as the same provider, whatever characters a URL or path has. It can't hold a key,
//! since a provider's type has no field for one.

use std::fmt::Write as _;

use gateway::config::{Cost, Provider, StreamUsage, Trust};
use policy::quoted;

/// Returns the line, without indent.
pub fn line(name: &str, provider: &Provider) -> String {
    let mut text = format!(
        "{}: {{ kind: {}, base_url: {}",
        scalar(name),
        provider.kind.as_str(),
        quoted(&provider.base_url)
    );
    let mut field = |name: &str, value: &str| {
        // Writing to a string can't fail.
        let _ = write!(text, ", {name}: {value}");
    };
    if let Some(reference) = provider.credential.as_ref().and_then(|credential| credential.reference()) {
        field("credential", &scalar(&reference.to_string()));
    }
    field("trust", trust(provider.trust));
    field("cost", cost(provider.cost));
    if provider.stream_usage == StreamUsage::Leave {
        field("stream_usage", "leave");
    }
    text.push_str(" }");
    text
}

/// Returns the value as the file writes it.
pub fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::High => "high",
        Trust::Standard => "standard",
        Trust::Low => "low",
        Trust::SelfHosted => "self-hosted",
    }
}

/// Returns the value as the file writes it.
pub fn cost(cost: Cost) -> &'static str {
    match cost {
        Cost::PerToken => "per-token",
        Cost::None => "none",
    }
}

/// Writes a string as a YAML scalar: unquoted only if it can't be read as anything else.
pub fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '.')
        && text.chars().all(plain)
        && !text.ends_with(':')
        // No keyword of YAML (YAML 1.1's included), and nothing that is read as a number (`.5`, `.inf`).
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str())
        && (!text.starts_with('.') || text.starts_with("./") || text.starts_with("../"));
    if is_word { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gateway::config::Kind;
    use redactor::{Credential, Reference};

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (name, url, reference) in [
            ("near", "http://localhost:8000/v1", None),
            ("off", "https://api.test/v1", Some("env:KEY")),
            ("1.5", "https://api.test/a-b/~c", Some("file:/etc/a key, \"quoted\" } # of: ours")),
            ("x", "https://api.test", Some("systemd:key\u{2028}\u{85}é")),
        ] {
            let provider = Provider {
                kind: Kind::Openai,
                base_url: url.into(),
                credential: reference.map(|text| Credential::Reference(Reference::parse(text).unwrap())),
                trust: Trust::Low,
                cost: Cost::None,
                stream_usage: StreamUsage::Leave,
            };
            let line = line(name, &provider);
            let read: BTreeMap<String, Provider> = serde_yaml::from_str(&line).unwrap();
            let found = &read[name];
            assert_eq!(
                (&found.base_url, &found.credential),
                (&provider.base_url, &provider.credential),
                "{line}"
            );
            assert!(
                found.trust == Trust::Low
                    && found.cost == Cost::None
                    && found.stream_usage == StreamUsage::Leave
            );
        }
    }

    #[test]
    fn words_stay_words() {
        for text in [
            "a", "on", "NO", "null", "1", "1e3", ".5", ".inf", "a:", "a: b", "- a", "", " a", "#a", "{a}",
            "a\nb", "é", "~", "./a", "../a", "/a b",
        ] {
            let read: Vec<String> = serde_yaml::from_str(&format!("[{}]", scalar(text))).unwrap();
            assert_eq!(read, [text], "{}", scalar(text));
        }
    }
}
