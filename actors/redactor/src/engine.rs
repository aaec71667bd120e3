//! The engine: one pure function from a window of bytes to what may be shown of it. It keeps no state between
//! calls and looks behind the window by one byte at most, so that for any split of any text the output is
//! that of the whole text. It must never show a byte that a later byte could still make part of a secret.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::known::Known;
use crate::pass::Pass;
use crate::secret::{Redacted, Secret};
use crate::tokens::{End, TAIL_MIN};

/// Most bytes that can ever be held back: the longest format or known piece plus one overlap. The caller must
/// be able to keep a window of this size.
pub const HOLD_MAX: usize = 24 * 1024;
/// Longest kind shown in a mark.
const KIND_MAX: usize = 64;

/// Why a redactor could not be made.
#[derive(Debug, Error)]
pub enum RedactorError {
    /// The secrets, in all their forms, take more bytes than the search allows.
    #[error(
        "the secrets take {bytes} bytes in all their forms, the limit is {limit}: give fewer or smaller ones"
    )]
    TooManySecrets {
        /// Bytes that they take.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The search could not be built.
    #[error("building the search for known secrets: {0}")]
    Build(String),
}

/// What a pass must know of the bytes before the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    /// The byte just before the window. `None`, the default, is the beginning of a text; after a crash, when
    /// it is not known, `None` masks rather too much than too little.
    pub before: Option<u8>,
    /// How many bytes of the window were shown already (released after a silence) and must not be shown
    /// again.
    pub shown: usize,
}

impl Context {
    /// The context of what follows the first `consumed` bytes of this window.
    #[must_use]
    pub fn after(self, window: &[u8], consumed: usize) -> Self {
        let before = consumed.checked_sub(1).map_or(self.before, |last| window.get(last).copied());
        Self { before, shown: self.shown.saturating_sub(consumed) }
    }
}

/// One masked place: its kind and how many bytes of the window it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The name of the secret or of the token format.
    pub kind: Arc<str>,
    /// Bytes masked.
    pub bytes: usize,
}

/// The result of one pass over a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// What may be shown.
    pub out: Vec<u8>,
    /// How many bytes of the window are decided. The next window starts after them.
    pub consumed: usize,
    /// How many bytes at the window's end wait for what follows.
    pub held: usize,
    /// What was masked.
    pub hits: Vec<Hit>,
}

/// Finds and masks secrets. Immutable; cheap to share by `Arc`.
pub struct Redactor {
    secrets: Vec<(Arc<str>, Secret)>,
    pub(crate) known: Known,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} known secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// A redactor for these secrets, each with the kind shown in its mark, and for all published formats.
    /// Secrets shorter than [`crate::SECRET_MIN`] bytes are not searched for; see [`Self::ignored`].
    ///
    /// # Errors
    /// When the secrets take more bytes than the search allows.
    pub fn new<N: AsRef<str>>(secrets: impl IntoIterator<Item = (N, Secret)>) -> Result<Self, RedactorError> {
        let secrets: Vec<_> =
            secrets.into_iter().map(|(name, secret)| (Arc::from(kind_of(name.as_ref())), secret)).collect();
        let known = Known::new(&secrets)?;
        Ok(Self { secrets, known })
    }

    /// The kinds of those secrets that are too short to be searched for.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.secrets
            .iter()
            .filter(|(_, secret)| secret.expose().trim_ascii().len() < crate::forms::SECRET_MIN)
            .map(|(kind, _)| &**kind)
    }

    /// A whole text, made safe to show.
    #[must_use]
    pub fn redact(&self, text: &str) -> Redacted<String> {
        self.redact_telling(text).0
    }

    /// As [`Self::redact`]; also returns what was masked.
    pub fn redact_telling(&self, text: &str) -> (Redacted<String>, Vec<Hit>) {
        let scan = self.scan(text.as_bytes(), End::Complete);
        // Marks are ASCII and masked places begin and end at ASCII bytes or at a secret's own bounds, so this
        // copies nothing unless a secret cut a character in two.
        let shown = String::from_utf8(scan.out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        (Redacted::new(shown), scan.hits)
    }

    /// As [`Self::redact_telling`] of a text that holds something to hide; `None` for one that is shown as it
    /// is.
    #[must_use]
    pub fn redact_unless_clean(&self, text: &str) -> Option<(Redacted<String>, Vec<Hit>)> {
        let clean = Pass::new(self, Context::default(), text.as_bytes(), End::Complete).finds_nothing();
        (!clean).then(|| self.redact_telling(text))
    }

    /// Whole bytes, made safe to show.
    #[must_use]
    pub fn redact_bytes(&self, bytes: &[u8]) -> Redacted<Vec<u8>> {
        Redacted::new(self.scan(bytes, End::Complete).out)
    }

    /// What may be shown of a window that starts a text.
    #[must_use]
    pub fn scan(&self, window: &[u8], end: End) -> Scan {
        self.scan_after(Context::default(), window, end)
    }

    /// What may be shown of a window that follows `context`.
    #[must_use]
    pub fn scan_after(&self, context: Context, window: &[u8], end: End) -> Scan {
        Pass::new(self, context, window, end).run()
    }

    /// What may be shown of a held tail after a silence. A tail that is too short to reveal anything is
    /// released, but stays undecided: it is shown (`Scan::held` bytes of the window are, from now on) and not
    /// consumed, so that if a secret goes on after the silence, its rest is still masked. `None`: the tail
    /// waits.
    #[must_use]
    pub fn release(&self, context: Context, tail: &[u8]) -> Option<Scan> {
        if tail.len() >= TAIL_MIN || tail.len() <= context.shown {
            return None;
        }
        let whole = self.scan_after(context, tail, End::Complete);
        if !whole.hits.is_empty() {
            // A short secret that is also the beginning of a longer one.
            return Some(whole);
        }
        let out = tail.get(context.shown..).unwrap_or_default().to_vec();
        Some(Scan { out, consumed: 0, held: tail.len(), hits: Vec::new() })
    }
}

/// The name as it may stand in a mark: letters, digits, `-`, `_`, `.`.
fn kind_of(name: &str) -> String {
    let kept = |character: char| {
        if character.is_ascii_alphanumeric() || "-_.".contains(character) { character } else { '_' }
    };
    let kind: String = name.chars().take(KIND_MAX).map(kept).collect();
    if kind.is_empty() { "secret".to_owned() } else { kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        Redactor::new([("API_KEY", Secret::from("s3cret-value-0123")), ("PIN", Secret::from("48151"))])
            .unwrap()
    }

    fn redact(text: &str) -> String {
        redactor().redact(text).into_inner()
    }

    #[test]
    fn a_clean_text_is_told_from_one_that_is_not() {
        for text in
            ["", "plain", "key=s3cret-value-0123;", "ends in s3cret-value-012", "ghp_", "sk-ant-api03-"]
        {
            let shown = redactor().redact_unless_clean(text).map(|(shown, _)| shown.into_inner());
            assert_eq!(shown.is_none(), redact(text) == text, "{text}");
            assert_eq!(shown.unwrap_or_else(|| text.to_owned()), redact(text));
        }
    }

    #[test]
    fn known_secrets_are_masked_by_name() {
        assert_eq!(redact("key=s3cret-value-0123;"), "key=[REDACTED:API_KEY];");
        assert_eq!(redact("48151"), "[REDACTED:PIN]");
        assert_eq!(redact("s3cret-value-0123s3cret-value-0123"), "[REDACTED:API_KEY][REDACTED:API_KEY]");
    }

    #[test]
    fn published_formats_are_masked() {
        for (text, kind) in [
            ("AKIAIOSFODNN7EXAMPLE", "aws-access-key-id"),
            ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "github-token"),
            ("gho_abcdefghijklmnopqrstuvwxyz0123456789", "github-token"),
            ("github_pat_11ABCDEFG0123456789_abcdefghijklmnop", "github-token"),
            ("glpat-abcdefghij0123456789", "gitlab-token"),
            ("sk-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKL", "openai-key"),
            ("sk-proj-abc_DEF-0123456789abcdef", "openai-key"),
            ("sk-ant-api03-abc_DEF-0123456789abcdef", "anthropic-key"),
            ("nvapi-abcdefghijklmnop-0123456789_XYZ", "nvidia-key"),
            ("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "huggingface-token"),
            ("xoxb-123456789012-abcdefGHIJKL", "slack-token"),
            ("sk_live_abcdefghijklmnopqrstuvwx", "stripe-key"),
            ("AIzaSyA-abcdefghijklmnopqrstuvwxyz01234", "google-api-key"),
            ("npm_abcdefghijklmnopqrstuvwxyz0123456789", "npm-token"),
            ("pypi-AgEIcHlwaS5vcmcCJGFiY2RlZg", "pypi-token"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "jwt"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/=\n-----END RSA PRIVATE KEY-----", "private-key"),
        ] {
            assert_eq!(redact(text), format!("[REDACTED:{kind}]"), "{text}");
            assert_eq!(redact(&format!("a {text}, b")), format!("a [REDACTED:{kind}], b"), "{text}");
            assert_eq!(redact(&format!("\"{text}\"\n")), format!("\"[REDACTED:{kind}]\"\n"), "{text}");
        }
    }

    #[test]
    fn names_and_hosts_stay_where_only_a_value_is_secret() {
        assert_eq!(
            redact("postgres://app:p4ss:w0rd@db.example/x"),
            "postgres://app:[REDACTED:url-password]@db.example/x"
        );
        assert_eq!(redact("redis://:hunter2@h"), "redis://:[REDACTED:url-password]@h");
        assert_eq!(
            redact("Authorization: Basic dXNlcjpwYXNz\r\nA: b"),
            "Authorization: Basic [REDACTED:authorization]\r\nA: b"
        );
        assert_eq!(
            redact("authorization: Bearer abcdefghijklmnop"),
            "authorization: Bearer [REDACTED:authorization]"
        );
        assert_eq!(
            redact("authorization = 0123456789abcdef0123"),
            "authorization = [REDACTED:authorization]"
        );
        assert_eq!(redact(r#"{"x-api-key": "0123456789abcdef"}"#), r#"{"x-api-key": "[REDACTED:api-key]"}"#);
        assert_eq!(
            redact("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            "aws_secret_access_key = [REDACTED:aws-secret-access-key]"
        );
    }

    #[test]
    fn ordinary_text_comes_through_byte_for_byte() {
        for text in [
            "",
            "pip install sk-learn task-scheduler risk-assessment-of-long-names-in-kebab-case",
            "http://localhost:8080/path?x=1 https://example.com:443 ssh://git@host",
            "Bearer authentication-scheme is described in RFC 6750",
            "Authorization: required by the server",
            "Authorization: Bearer YOUR_API_KEY",
            "Authorization: Bearer cofferdam:cred:gh",
            "authorization = base64.decodebytes(authorization)",
            "eyJ is how base64 of JSON begins; hf_transfer; npm_config_cache; xai-org/grok",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "AKIA is four letters; AKIAIOSFODNN7EXAMPLEX is too long",
        ] {
            assert_eq!(redact(text), text);
        }
        let binary: Vec<u8> = (0..=255).cycle().take(4096).collect();
        assert_eq!(*redactor().redact_bytes(&binary), binary);
    }

    #[test]
    fn overlapping_secrets_leave_nothing_between_them() {
        let redactor =
            Redactor::new([("A", Secret::from("abcdefgh")), ("B", Secret::from("efghijkl"))]).unwrap();
        assert_eq!(*redactor.redact("xabcdefghijklx"), "x[REDACTED:A]x");
        // A known secret with bytes that its published format would not hold.
        let redactor = Redactor::new([("K", Secret::from("sk-abcdefghijklmnopqrstuvwxyz$tail"))]).unwrap();
        assert_eq!(*redactor.redact("Bearer sk-abcdefghijklmnopqrstuvwxyz$tail."), "Bearer [REDACTED:K].");
    }

    #[test]
    fn only_a_tail_that_could_begin_a_secret_is_held() {
        let redactor = redactor();
        for (window, held) in [
            ("hello", 0),
            ("hello s3cret-val", 10),
            ("hello s3cret-val!", 0),
            ("token gh", 2),
            ("token ghp_", 4),
            ("token ghp_!", 0),
            ("risk", 0),
            ("a sk", 2),
            ("-----BEGIN PUBLIC", 0),
            ("-----BEGIN PRIV", 15),
        ] {
            let scan = redactor.scan(window.as_bytes(), End::More);
            assert_eq!(scan.held, held, "{window}");
            assert_eq!(scan.out, &window.as_bytes()[..window.len() - held]);
        }
    }

    #[test]
    fn a_stream_that_ends_first_masks_what_it_cut() {
        let scan = |text: &str, end| String::from_utf8(redactor().scan(text.as_bytes(), end).out).unwrap();
        assert_eq!(scan("x s3cret-va", End::Eof), "x [REDACTED:API_KEY]");
        assert_eq!(scan("x s3cret", End::Eof), "x s3cret");
        assert_eq!(scan("x ghp_abcdef", End::Eof), "x [REDACTED:github-token]");
        assert_eq!(scan("x ghp_abcdef", End::Complete), "x ghp_abcdef");
        assert_eq!(scan("x ghp_abc", End::Eof), "x ghp_abc");
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_the_rest_of_a_secret_is_masked() {
        let context = Context { before: Some(b' '), shown: 5 };
        let scan = redactor().scan_after(context, b"s3cret-value-0123!", End::More);
        assert_eq!(scan.out, b"[REDACTED:API_KEY]!");
        let scan = redactor().scan_after(context, b"s3crets are fine", End::More);
        assert_eq!(scan.out, b"ts are fine");
    }
}
