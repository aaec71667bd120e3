//! The published token formats, as data. A format is a literal prefix that no ordinary text holds by chance, and
//! the shape that follows. Nothing here may need to look behind its prefix by more than one byte, nor be unbounded.
//!
//! Sources: GitHub "Token formats", GitLab "Token overview", AWS IAM identifiers, Slack token types, Stripe API
//! keys, PyPI and npm token docs, RFC 7519 (JWT), RFC 7468 (PEM), RFC 6750 and 7617 (Authorization), RFC 3986.

use crate::shape::{Class, CutShort, Format, Left, Step};

const ALNUM: Class = Class::ranges(b"azAZ09");
const UPPER: Class = Class::ranges(b"AZ09");
const HEX: Class = Class::ranges(b"afAF09");
/// Letters, digits, `_`: what most tokens are made of.
const WORD: Class = Class::ranges(b"azAZ09__");
/// base64url, without padding.
const URLSAFE: Class = Class::ranges(b"azAZ09__--");
/// Tokens with several parts (`ya29.…`, GitLab's routable tokens).
const DOTTED: Class = Class::ranges(b"azAZ09__--..");
/// Standard base64.
const BASE64: Class = Class::ranges(b"azAZ09++//==");
/// token68 of RFC 7235.
const TOKEN68: Class = Class::ranges(b"azAZ09--..__~~++//==");
/// token68 without what names in programs have in them.
const PLAIN: Class = Class::ranges(b"azAZ09--__++==");
/// Between a name and its value in headers, JSON, YAML, shell and ini files.
const SEPARATOR: Class = Class::ranges(b"  \t\t\"\"''::==\\\\");
/// A user name in a URL's authority.
const URL_USER: Class = Class::ranges(b"azAZ09--..__~~%%!!$$&&''()**++,,;;==");
/// A password there: anything but what ends it, or a mask put there before.
const URL_PASSWORD: Class = Class::ranges(b"!!$.0;==AZ^~");

/// Longest single-part token taken as one.
const TOKEN_MAX: usize = 512;
/// Longest part of a JWT, header value and the like: three of them stay below `engine::HOLD_MAX`.
const LONG_MAX: usize = 4096;
/// Longest PEM body: a 16,384-bit RSA key takes 12.6 KiB.
const PEM_MAX: usize = 14 * 1024;

const fn run(class: Class, min: usize) -> Step {
    Step::Run { class, min, max: TOKEN_MAX, digit: false }
}

const fn token(
    kind: &'static str,
    prefixes: &'static [&'static [u8]],
    steps: &'static [Step],
    left: Left,
) -> Format {
    Format { kind, prefixes, steps, mask_from: 0, left, cut_short: CutShort::Mask }
}

const fn value(
    kind: &'static str,
    prefixes: &'static [&'static [u8]],
    steps: &'static [Step],
    mask_from: usize,
    cut_short: CutShort,
) -> Format {
    Format { kind, prefixes, steps, mask_from, left: Left::Any, cut_short }
}

const SCHEMES: Step =
    Step::AnyOf(&[b"Bearer ", b"bearer ", b"BEARER ", b"Token ", b"token ", b"ApiKey ", b"apikey "]);
const BASIC: Step = Step::AnyOf(&[b"Basic ", b"basic ", b"BASIC "]);
const GAP: Step = Step::Run { class: SEPARATOR, min: 1, max: 8, digit: false };

/// Every format, in order of precedence where two fit the same place.
pub(crate) static FORMATS: &[Format] = &[
    // Model providers.
    token("anthropic-key", &[b"sk-ant-"], &[run(URLSAFE, 20)], Left::NotAlnum),
    token(
        "openai-key",
        &[b"sk-proj-", b"sk-svcacct-", b"sk-admin-", b"sk-None-"],
        &[run(URLSAFE, 20)],
        Left::NotAlnum,
    ),
    token("openrouter-key", &[b"sk-or-v1-", b"sk-or-"], &[run(URLSAFE, 20)], Left::NotAlnum),
    // Also DeepSeek and the many that copied the form. No dash inside: `sk-` begins kebab-case words too.
    token("openai-key", &[b"sk-"], &[run(WORD, 20)], Left::NotToken),
    token("nvidia-key", &[b"nvapi-"], &[run(URLSAFE, 20)], Left::NotAlnum),
    token("huggingface-token", &[b"hf_", b"api_org_"], &[run(ALNUM, 30)], Left::NotToken),
    token("groq-key", &[b"gsk_"], &[run(ALNUM, 32)], Left::NotToken),
    token("xai-key", &[b"xai-"], &[run(ALNUM, 32)], Left::NotToken),
    token("perplexity-key", &[b"pplx-"], &[run(ALNUM, 32)], Left::NotToken),
    token("replicate-token", &[b"r8_"], &[run(ALNUM, 32)], Left::NotToken),
    token("google-api-key", &[b"AIza"], &[run(URLSAFE, 35)], Left::NotAlnum),
    token("google-oauth", &[b"GOCSPX-", b"ya29."], &[run(DOTTED, 20)], Left::NotAlnum),
    // Code hosts and package registries.
    token("github-token", &[b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"], &[run(WORD, 36)], Left::NotAlnum),
    token("github-token", &[b"github_pat_"], &[run(WORD, 22)], Left::NotAlnum),
    token(
        "gitlab-token",
        &[
            b"glpat-",
            b"gldt-",
            b"glrt-",
            b"glcbt-",
            b"glptt-",
            b"glft-",
            b"glsoat-",
            b"glagent-",
            b"glimt-",
            b"gloas-",
        ],
        &[run(DOTTED, 20)],
        Left::NotAlnum,
    ),
    token("npm-token", &[b"npm_"], &[run(ALNUM, 36)], Left::NotToken),
    token("pypi-token", &[b"pypi-AgE"], &[run(URLSAFE, 16)], Left::NotAlnum),
    token("pypi-token", &[b"pypi-"], &[run(URLSAFE, 48)], Left::NotToken),
    token("docker-token", &[b"dckr_pat_", b"dckr_oat_"], &[run(URLSAFE, 20)], Left::NotAlnum),
    token("rubygems-key", &[b"rubygems_"], &[run(HEX, 48)], Left::NotToken),
    // Clouds and services.
    token(
        "aws-access-key-id",
        &[b"AKIA", b"ASIA", b"ABIA", b"ACCA"],
        &[Step::Run { class: UPPER, min: 16, max: 16, digit: false }, Step::NotNext(ALNUM)],
        Left::NotAlnum,
    ),
    value(
        "aws-secret-access-key",
        &[b"aws_secret_access_key", b"AWS_SECRET_ACCESS_KEY", b"SecretAccessKey", b"secretAccessKey"],
        &[GAP, run(BASE64, 40)],
        2,
        CutShort::Mask,
    ),
    value(
        "aws-session-token",
        &[b"aws_session_token", b"AWS_SESSION_TOKEN", b"SessionToken", b"sessionToken"],
        &[GAP, Step::Run { class: BASE64, min: 64, max: LONG_MAX, digit: false }],
        2,
        CutShort::Mask,
    ),
    value("azure-key", &[b"AccountKey=", b"SharedAccessKey="], &[run(BASE64, 40)], 1, CutShort::Mask),
    token("digitalocean-token", &[b"dop_v1_", b"doo_v1_", b"dor_v1_"], &[run(HEX, 64)], Left::NotAlnum),
    token(
        "slack-token",
        &[b"xoxb-", b"xoxp-", b"xoxa-", b"xoxr-", b"xoxs-", b"xoxo-", b"xoxe-", b"xoxc-", b"xoxd-", b"xapp-"],
        &[Step::Run { class: Class::ranges(b"azAZ09--%%"), min: 10, max: TOKEN_MAX, digit: false }],
        Left::NotAlnum,
    ),
    value(
        "slack-webhook",
        &[b"hooks.slack.com/services/"],
        &[run(Class::ranges(b"azAZ09//"), 20)],
        1,
        CutShort::Mask,
    ),
    token(
        "stripe-key",
        &[b"sk_live_", b"sk_test_", b"rk_live_", b"rk_test_", b"whsec_"],
        &[run(BASE64, 16)],
        Left::NotAlnum,
    ),
    token(
        "sendgrid-key",
        &[b"SG."],
        &[run(URLSAFE, 16), Step::Literal(b"."), run(URLSAFE, 32)],
        Left::NotToken,
    ),
    value(
        "telegram-token",
        &[b":AA"],
        &[Step::Run { class: URLSAFE, min: 32, max: 40, digit: false }],
        0,
        CutShort::Show,
    ),
    token("shopify-token", &[b"shpat_", b"shpss_", b"shpca_", b"shppa_"], &[run(HEX, 32)], Left::NotAlnum),
    token("vault-token", &[b"hvs.", b"hvb."], &[run(URLSAFE, 24)], Left::NotToken),
    token("linear-key", &[b"lin_api_"], &[run(ALNUM, 32)], Left::NotAlnum),
    token("notion-token", &[b"ntn_"], &[run(ALNUM, 40)], Left::NotToken),
    token("supabase-token", &[b"sbp_"], &[run(HEX, 40)], Left::NotToken),
    token("atlassian-token", &[b"ATATT3"], &[run(Class::ranges(b"azAZ09__--=="), 40)], Left::NotAlnum),
    token("tailscale-key", &[b"tskey-"], &[run(URLSAFE, 20)], Left::NotToken),
    token("age-key", &[b"AGE-SECRET-KEY-1"], &[run(UPPER, 40)], Left::NotAlnum),
    // Formats by standard.
    token(
        "jwt",
        &[b"eyJ"],
        &[
            Step::Run { class: URLSAFE, min: 10, max: LONG_MAX, digit: false },
            Step::Literal(b"."),
            Step::Run { class: URLSAFE, min: 10, max: LONG_MAX, digit: false },
            Step::Literal(b"."),
            Step::Run { class: URLSAFE, min: 0, max: LONG_MAX, digit: false },
        ],
        Left::NotToken,
    ),
    token(
        "private-key",
        &[
            b"-----BEGIN PRIVATE KEY-----",
            b"-----BEGIN RSA PRIVATE KEY-----",
            b"-----BEGIN EC PRIVATE KEY-----",
            b"-----BEGIN DSA PRIVATE KEY-----",
            b"-----BEGIN OPENSSH PRIVATE KEY-----",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----",
        ],
        &[Step::PemBody { max: PEM_MAX }],
        Left::Any,
    ),
    // As long as tokens are: what stands in their place in texts about them (`Bearer TOKEN`, `cofferdam:cred:NAME`) is shorter.
    value(
        "authorization",
        &[b"Authorization", b"authorization", b"AUTHORIZATION"],
        &[GAP, SCHEMES, Step::Run { class: TOKEN68, min: 16, max: LONG_MAX, digit: false }],
        3,
        CutShort::Mask,
    ),
    // RFC 7617: name and password in base64, of seven bytes at least.
    value(
        "authorization",
        &[b"Authorization", b"authorization", b"AUTHORIZATION"],
        &[GAP, BASIC, Step::Run { class: BASE64, min: 12, max: LONG_MAX, digit: false }],
        3,
        CutShort::Mask,
    ),
    // Without a scheme it may be anything, a program's text too: no dot and no slash, as in what it calls.
    value(
        "authorization",
        &[b"Authorization", b"authorization", b"AUTHORIZATION"],
        &[GAP, Step::Run { class: PLAIN, min: 20, max: LONG_MAX, digit: true }],
        2,
        CutShort::Show,
    ),
    value(
        "bearer-token",
        &[b"Bearer ", b"bearer ", b"BEARER "],
        &[Step::Run { class: TOKEN68, min: 20, max: LONG_MAX, digit: true }],
        1,
        CutShort::Show,
    ),
    value(
        "api-key",
        &[
            b"x-api-key",
            b"X-Api-Key",
            b"X-API-Key",
            b"X-API-KEY",
            b"x-goog-api-key",
            b"X-Goog-Api-Key",
            b"Ocp-Apim-Subscription-Key",
            b"PRIVATE-TOKEN",
            b"Private-Token",
        ],
        &[GAP, run(TOKEN68, 16)],
        2,
        CutShort::Mask,
    ),
    // RFC 3986 userinfo: the password only, so that the log still says which host.
    value(
        "url-password",
        &[b"://"],
        &[
            Step::Run { class: URL_USER, min: 0, max: 256, digit: false },
            Step::Literal(b":"),
            Step::Run { class: URL_PASSWORD, min: 1, max: TOKEN_MAX, digit: false },
            Step::Next(b'@'),
        ],
        3,
        CutShort::Show,
    ),
];
