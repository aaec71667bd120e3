//! The published token formats, as data. A format is a literal prefix that no ordinary text holds by chance,
//! and the shape that follows. Nothing here may need to look behind its prefix by more than one byte, nor be
//! unbounded.
//!
//! Sources: GitHub "Token formats", GitLab "Token overview", AWS IAM identifiers, Slack token types, Stripe
//! API keys, PyPI and npm token docs, RFC 7519 (JWT), RFC 7468 (PEM), RFC 6750 and 7617 (Authorization), RFC
//! 3986.

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
/// token68 without `.`, `~` and `/`, which names in programs have in them.
const PLAIN: Class = Class::ranges(b"azAZ09--__++==");
/// Between a name and its value in headers, JSON, YAML, shell and ini files.
const SEPARATOR: Class = Class::ranges(b"  \t\t\"\"''::==\\\\");
/// A user name in a URL's authority.
const URL_USER: Class = Class::ranges(b"azAZ09--..__~~%%!!$$&&''()**++,,;;==");
/// A password there: all bytes except those that end it, or that begin a mask put there before.
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

/// A format whose prefix may begin an ordinary word.
const fn wordlike(kind: &'static str, prefixes: &'static [&'static [u8]], steps: &'static [Step]) -> Format {
    Format { kind, prefixes, steps, mask_from: 0, left: Left::NotToken, cut_short: CutShort::Show }
}

const fn exactly(class: Class, count: usize) -> Step {
    Step::Run { class, min: count, max: count, digit: false }
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
    token("together-key", &[b"tgp_v1_"], &[run(URLSAFE, 20)], Left::NotToken),
    token("cerebras-key", &[b"csk-"], &[run(ALNUM, 32)], Left::NotToken),
    wordlike("fireworks-key", &[b"fw_"], &[run(ALNUM, 22)]),
    wordlike("elevenlabs-key", &[b"sk_"], &[exactly(HEX, 48), Step::NotNext(WORD)]),
    token("langsmith-key", &[b"lsv2_pt_", b"lsv2_sk_"], &[run(WORD, 32)], Left::NotToken),
    // Services with which agents search the web and run code elsewhere.
    token("tavily-key", &[b"tvly-"], &[run(URLSAFE, 20)], Left::NotToken),
    wordlike("firecrawl-key", &[b"fc-"], &[exactly(HEX, 32), Step::NotNext(ALNUM)]),
    wordlike("brave-key", &[b"BSA"], &[Step::Run { class: URLSAFE, min: 24, max: 40, digit: true }]),
    token("jina-key", &[b"jina_"], &[run(WORD, 32)], Left::NotToken),
    token("e2b-key", &[b"e2b_"], &[run(HEX, 40)], Left::NotToken),
    token("browserbase-key", &[b"bb_live_"], &[run(URLSAFE, 20)], Left::NotToken),
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
    token(
        "bitbucket-token",
        &[b"ATBB", b"ATCTT3"],
        &[run(Class::ranges(b"azAZ09__--=="), 32)],
        Left::NotAlnum,
    ),
    token("buildkite-token", &[b"bkua_", b"bkpt_", b"bkrt_"], &[run(HEX, 40)], Left::NotToken),
    token("circleci-token", &[b"CCIPAT_", b"CCIPRJ_"], &[run(WORD, 40)], Left::NotToken),
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
    token("databricks-token", &[b"dapi"], &[exactly(HEX, 32), Step::NotNext(ALNUM)], Left::NotToken),
    token("doppler-token", &[b"dp.pt.", b"dp.st.", b"dp.sa.", b"dp.ct."], &[run(DOTTED, 40)], Left::NotToken),
    token(
        "fly-token",
        &[b"fm2_", b"fm1r_", b"fm1a_"],
        &[Step::Run { class: BASE64, min: 100, max: LONG_MAX, digit: false }],
        Left::NotToken,
    ),
    token("heroku-key", &[b"HRKU-"], &[run(URLSAFE, 36)], Left::NotToken),
    token("netlify-token", &[b"nfp_"], &[run(ALNUM, 36)], Left::NotToken),
    token(
        "planetscale-token",
        &[b"pscale_tkn_", b"pscale_pw_", b"pscale_oauth_"],
        &[run(DOTTED, 32)],
        Left::NotToken,
    ),
    wordlike("pulumi-token", &[b"pul-"], &[exactly(HEX, 40), Step::NotNext(ALNUM)]),
    value("terraform-token", &[b".atlasv1."], &[run(URLSAFE, 60)], 0, CutShort::Mask),
    token(
        "grafana-token",
        &[b"glsa_", b"glc_"],
        &[run(Class::ranges(b"azAZ09__++//=="), 32)],
        Left::NotToken,
    ),
    token(
        "sentry-token",
        &[b"sntrys_", b"sntryu_"],
        &[run(Class::ranges(b"azAZ09__--++//=="), 40)],
        Left::NotToken,
    ),
    token("newrelic-key", &[b"NRAK-", b"NRII-", b"NRRA-"], &[run(URLSAFE, 27)], Left::NotToken),
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
    // The first part is the bot's number in base64, which begins with one of these.
    wordlike(
        "discord-token",
        &[b"MT", b"Mj", b"Mz", b"ND", b"NT", b"Nj", b"Nz", b"OD", b"OT"],
        &[
            Step::Run { class: URLSAFE, min: 20, max: 28, digit: false },
            Step::Literal(b"."),
            exactly(URLSAFE, 6),
            Step::Literal(b"."),
            Step::Run { class: URLSAFE, min: 27, max: TOKEN_MAX, digit: false },
        ],
    ),
    value(
        "discord-webhook",
        &[b"discord.com/api/webhooks/", b"discordapp.com/api/webhooks/"],
        &[run(Class::ranges(b"azAZ09//__--"), 40)],
        1,
        CutShort::Mask,
    ),
    wordlike("twilio-key", &[b"SK"], &[exactly(HEX, 32), Step::NotNext(ALNUM)]),
    wordlike("mailgun-key", &[b"key-"], &[exactly(HEX, 32), Step::NotNext(ALNUM)]),
    token("square-token", &[b"sq0atp-", b"sq0csp-"], &[run(URLSAFE, 22)], Left::NotToken),
    token("figma-token", &[b"figd_"], &[run(URLSAFE, 40)], Left::NotToken),
    token("postman-key", &[b"PMAK-"], &[run(Class::ranges(b"af09--"), 50)], Left::NotToken),
    token(
        "onepassword-token",
        &[b"ops_eyJ"],
        &[Step::Run { class: URLSAFE, min: 100, max: LONG_MAX, digit: false }],
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
    wordlike("notion-token", &[b"secret_"], &[exactly(ALNUM, 43), Step::NotNext(WORD)]),
    token("notion-token", &[b"ntn_"], &[run(ALNUM, 40)], Left::NotToken),
    token("supabase-token", &[b"sbp_"], &[run(HEX, 40)], Left::NotToken),
    token("supabase-token", &[b"sb_secret_"], &[run(URLSAFE, 20)], Left::NotToken),
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
    // Only what is as long as tokens are: what stands in their place in texts about them (`Bearer TOKEN`,
    // `cofferdam:cred:NAME`) is shorter.
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
    // Without a scheme it may be anything, the text of a program, too. So it has no dot and no slash, as
    // names that a program calls have.
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

#[cfg(test)]
mod tests {
    use crate::Redactor;

    /// Made up, each of its published form.
    #[test]
    fn tokens_are_masked_and_words_that_begin_like_them_are_not() {
        let (hex, alnum) = ("0123456789abcdef".repeat(4), "aB3dE5gH7jK9".repeat(12));
        let tokens = [
            ("discord-token", "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs".to_owned()),
            ("tavily-key", format!("tvly-dev-{}", &alnum[..32])),
            ("firecrawl-key", format!("fc-{}", &hex[..32])),
            ("brave-key", format!("BSA{}", &alnum[..28])),
            ("databricks-token", format!("dapi{}", &hex[..32])),
            ("twilio-key", format!("SK{}", &hex[..32])),
            ("grafana-token", format!("glsa_{}_{}", &alnum[..32], &hex[..8])),
            ("sentry-token", format!("sntrys_{}", &alnum[..60])),
            ("figma-token", format!("figd_{}", &alnum[..43])),
            ("newrelic-key", format!("NRAK-{}", &alnum.to_uppercase()[..27])),
            ("pulumi-token", format!("pul-{}", &hex[..40])),
            ("square-token", format!("sq0atp-{}", &alnum[..22])),
            ("heroku-key", "HRKU-0123abcd-0123-4567-89ab-0123456789ab".to_owned()),
            ("circleci-token", format!("CCIPAT_{}_{}", &alnum[..22], &hex[..40])),
            ("buildkite-token", format!("bkua_{}", &hex[..40])),
            ("langsmith-key", format!("lsv2_pt_{}_{}", &hex[..32], &hex[..10])),
            ("notion-token", format!("secret_{}", &alnum[..43])),
            ("mailgun-key", format!("key-{}", &hex[..32])),
            ("elevenlabs-key", format!("sk_{}", &hex[..48])),
            ("e2b-key", format!("e2b_{}", &hex[..40])),
            ("netlify-token", format!("nfp_{}", &alnum[..36])),
            ("doppler-token", format!("dp.pt.{}", &alnum[..40])),
            ("postman-key", format!("PMAK-{}-{}", &hex[..24], &hex[..34])),
            ("supabase-token", format!("sb_secret_{}", &alnum[..31])),
        ];
        let redactor = Redactor::new::<&str>([]).unwrap();
        for (kind, token) in tokens {
            assert_eq!(
                *redactor.redact(&format!("is {token}, no")),
                format!("is [REDACTED:{kind}], no"),
                "{token}"
            );
        }
        let webhook = format!("https://discord.com/api/webhooks/198622483471925248/{}", &alnum[..68]);
        assert!(redactor.redact(&webhook).ends_with("webhooks/[REDACTED:discord-webhook]"));
        let terraform = format!("{}.atlasv1.{}", &alnum[..14], &alnum[..67]);
        assert!(redactor.redact(&terraform).ends_with("[REDACTED:terraform-token]"));
        for word in [
            "MTU of NT and ODBC, OTHER_NAMES_OF_MANY_WORDS.rs",
            "SKU-1234, key-value, fc-list, pul-ley, sk_test, secret_name_of_the_thing",
            "dapi, BSAfe, https://discord.com/api/webhooks",
            "NTLMSSP.negotiate.message",
        ] {
            assert_eq!(*redactor.redact(word), word);
        }
    }
}
