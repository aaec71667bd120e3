//! Keys that stand in the configuration itself, whatever place they were put in: refused, since whoever reads
//! the file, or a copy of it in a repository, has them. Must never repeat one.

use redactor::{Redactor, Secret};

/// # Errors
/// Where one stands, what it looks like, and what to write instead.
pub(super) fn none_in(text: &str) -> Result<(), String> {
    let nothing_known: [(&str, Secret); 0] = [];
    let redactor = Redactor::new(nothing_known).map_err(|e| e.to_string())?;
    for (number, line) in (1..).zip(text.lines()) {
        let Some((_, hits)) = redactor.redact_unless_clean(line) else { continue };
        let Some(hit) = hits.first() else { continue };
        return Err(format!(
            "line {number}: a key stands here (it looks like one of the kind `{}`), and a configuration names keys by reference only: \
             `env:NAME` or `file:/path`, in `credentials`, in a provider's `credential` or in the upstream proxy's",
            hit.kind
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_refused_wherever_it_stands_and_not_repeated() {
        let token = format!("ghp_{}", "a1B2c3".repeat(6));
        for text in [
            format!("agents:\n  a:\n    command: [x]\n    env: {{ GITHUB_TOKEN: {token} }}"),
            format!("agents:\n  a:\n    command: [x, --token, {token}]\n"),
            format!("version: 1\nagents: {{}} # {token}\nlimits: {{}}\n"),
            "agents:\n  a:\n    command: [curl, 'https://me:correct-horse-7@a.example/']\n".to_owned(),
        ] {
            let why = none_in(&text).unwrap_err();
            assert!(why.starts_with("line ") && why.contains("env:NAME"), "{why}");
            assert!(!why.contains("a1B2c3") && !why.contains("horse"), "{why}");
        }
    }

    #[test]
    fn references_placeholders_and_what_a_shell_puts_together_are_none() {
        for text in [
            "credentials:\n  github:\n    from: env:GITHUB_TOKEN\n    env: GITHUB_TOKEN\n",
            "inference: { providers: { a: { kind: openai, credential: 'file:/run/keys/openai' } } }",
            "agents: { a: { command: [sh, -c, 'exec agent --token \"$API_TOKEN\"'], env: { TZ: UTC } } }",
            include_str!("../../docs/config.md"),
        ] {
            assert_eq!(none_in(text), Ok(()));
        }
    }
}
