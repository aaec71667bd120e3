//! An explanation in words, for a terminal.

use std::fmt;

use super::{Asked, Explanation, Verdict};
use crate::{Destination, Treatment, WEBSOCKET_TEXT};

/// Writes a request that has no canonical form as it was asked about.
pub(super) fn as_asked(asked: &Asked, to: &Destination) -> String {
    let query = asked.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let method = if asked.message.is_some() { WEBSOCKET_TEXT } else { &asked.method };
    printable(&format!("{method} {to}{}{query}", asked.path))
}

/// A text with everything but printable ASCII escaped, so that it is safe on a terminal.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        ' '..='~' => c.to_string(),
        other => other.escape_default().to_string(),
    };
    text.chars().map(shown).collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Allow => "ALLOWED",
            Verdict::Audit => "ALLOWED (audit: it would be refused)",
            Verdict::Deny => "DENIED",
        };
        writeln!(f, "{verdict}  {}  by {}", self.request, self.binary)?;
        for second in &self.seconds {
            writeln!(f, "  and so:  {second}")?;
        }
        if let (Some(policy), Some(rule)) = (&self.policy, &self.rule) {
            write!(f, "  rule:    {policy}: {rule}")?;
            match &self.location {
                Some(location) => writeln!(f, "  ({location})")?,
                None => writeln!(f)?,
            }
        }
        match self.treatment {
            Some(Treatment::Relay { tls_skip: true }) => {
                writeln!(f, "  bytes:   relayed unread (tls: skip)")?
            }
            Some(Treatment::Relay { tls_skip: false }) => writeln!(f, "  bytes:   relayed unread (L4)")?,
            Some(Treatment::Inspect { protocol }) => {
                writeln!(f, "  bytes:   inspected as {}", protocol.as_str())?
            }
            None => {}
        }
        if let Some(denial) = &self.denial {
            writeln!(f, "  why:     {} ({})", denial.detail, denial.layer)?;
        }
        if let Some(why) = &self.bad_request {
            writeln!(f, "  why:     {why} (bad_request)")?;
        }
        if let Some(note) = &self.note {
            writeln!(f, "  note:    {note}")?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, "  nearest: {}: {}", nearest.policy, nearest.endpoint)?;
            if let Some(rule) = &nearest.rule {
                write!(f, ": {rule}")?;
            }
            writeln!(f, "  ({})", nearest.location)?;
            for difference in &nearest.differs {
                writeln!(f, "           - {difference}")?;
            }
        }
        if let Some(entry) = &self.mend {
            writeln!(
                f,
                "  mend:    under network_policies this would allow it, and as little else as a policy can say:"
            )?;
            entry.lines().try_for_each(|line| writeln!(f, "           {line}"))?;
        }
        Ok(())
    }
}
