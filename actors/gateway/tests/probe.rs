//! One provider asked outside any sandbox: what is well, each way of failing by its own name, and the key in
//! none of them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod mock;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gateway::{
    Credentials, Protocol,
    config::Inference,
    probe::{Answer, Fault, MAX_ANSWER, Probe, Question, Said},
    routes::Routes,
};
use http_body::Frame;
use mock::{KEY, Plain, Provider, refusing};
use redactor::Secret;

type Headers = &'static [(&'static str, &'static str)];

const JSON: Headers = &[("content-type", "application/json")];

/// Asks a provider of this kind at a port, with [`KEY`].
async fn ask(kind: &str, port: u16, question: Question<'_>, within: Duration) -> Result<Answer, Fault> {
    ask_with(Some(KEY), kind, port, question, within).await
}

async fn ask_with(
    key: Option<&str>,
    kind: &str,
    port: u16,
    question: Question<'_>,
    within: Duration,
) -> Result<Answer, Fault> {
    let credential = if key.is_some() { r#","credential":"env:KEY""# } else { "" };
    let section = format!(
        r#"{{"providers":{{"it":{{"kind":"{kind}","base_url":"http://127.0.0.1:{port}/v1"{credential}}}}}}}"#
    );
    let inference: Inference = serde_json::from_str(&section).unwrap();
    let keys = Credentials::new(key.map(|key| ("env:KEY".to_owned(), Secret::from(key))));
    let routes = Routes::compile(&inference, &keys, &Routes::default()).unwrap();
    let probe = Probe {
        dial: Arc::new(Plain { protocol: Protocol::Http1, dialed: Arc::default() }),
        scrub: Arc::new(|text: &str| text.replace("hunter2hunter2", "[REDACTED:known]")),
        within,
    };
    probe.ask(&routes.providers()[0], question).await
}

/// Long enough for the slowest machine, where something is to come.
const LONG: Duration = Duration::from_secs(60);
/// Where nothing is to come.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn models_are_listed_by_both_protocols() {
    let provider = Provider::start().await;
    let list = format!(
        r#"{{"object":"list","data":[{{"id":"a/b","x":[1]}},{{"id":"no name"}},{{"id":"{KEY}"}},{{"id":"hunter2hunter2"}}]}}"#
    );
    for (kind, path, header, value) in [
        ("openai", "/v1/models", "authorization", format!("Bearer {KEY}")),
        ("anthropic", "/v1/models?limit=1000", "x-api-key", KEY.to_owned()),
    ] {
        provider.whole(200, JSON, &list).await;
        let answer = ask(kind, provider.port, Question::Models, LONG).await.unwrap();
        assert_eq!(answer.said, Said::Models { count: 4, names: vec![] }, "who has the key is quoted");
        let seen = provider.last();
        assert_eq!((seen.path.as_str(), seen.headers[header].to_str().unwrap()), (path, value.as_str()));
        assert!(seen.body.is_empty() && !seen.headers.contains_key("content-type"));
        provider.whole(200, JSON, &list.replace(KEY, "no:\u{7f}name")).await;
        let answer = ask_with(None, kind, provider.port, Question::Models, LONG).await.unwrap();
        assert_eq!(answer.said, Said::Models { count: 4, names: vec!["a/b".into()] });
        assert!(!provider.last().headers.contains_key(header));
    }
    provider.whole(200, JSON, r#"{"object":"list","data":null}"#).await;
    let answer = ask("openai", provider.port, Question::Models, LONG).await.unwrap();
    assert_eq!(answer.said, Said::Models { count: 0, names: vec![] });
}

#[tokio::test]
async fn a_model_says_one_token_by_both_protocols() {
    let provider = Provider::start().await;
    for (kind, path, answer) in [
        ("openai", "/v1/chat/completions", r#"{"choices":[{"message":{"content":"x"}}]}"#),
        ("anthropic", "/v1/messages", r#"{"type":"message","content":[{"type":"text","text":"x"}]}"#),
    ] {
        provider.whole(200, JSON, answer).await;
        let answer = ask(kind, provider.port, Question::Token("m"), LONG).await.unwrap();
        assert_eq!(answer.said, Said::Token);
        let seen = provider.last();
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!((seen.path.as_str(), &body["model"], &body["max_tokens"]), (path, &"m".into(), &1.into()));
    }
    // A model that thinks.
    let why = r#"{"error":{"message":"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}"#;
    provider.whole(400, JSON, why).await;
    provider.whole(200, JSON, r#"{"choices":[{}]}"#).await;
    assert!(ask("openai", provider.port, Question::Token("m"), LONG).await.is_ok());
    let body: serde_json::Value = serde_json::from_slice(&provider.last().body).unwrap();
    assert!(body["max_completion_tokens"] == 16 && body["max_tokens"].is_null(), "{body}");
    // And one that says the same of both is asked no third time.
    let asked = provider.count();
    provider.whole(400, JSON, why).await;
    provider.whole(400, JSON, why).await;
    assert!(ask("openai", provider.port, Question::Token("m"), LONG).await.is_err());
    assert_eq!(provider.count(), asked + 2);
}

#[tokio::test]
async fn each_fault_has_its_name_and_none_has_the_key() {
    let provider = Provider::start().await;
    let echo = format!(r#"{{"error":{{"message":"no\n access for {KEY} of hunter2hunter2","{KEY}":1}}}}"#);
    let cases: [(u16, Headers, &str, &str); 10] = [
        (401, JSON, &echo, "refused the credential (401)"),
        (403, JSON, &echo, "refused the credential (403)"),
        (429, JSON, &echo, "answered 429"),
        (500, &[("content-type", "text/html")], KEY, "answered 500"),
        (302, &[("location", "https://evil.example")], "", "redirects are never followed"),
        (200, &[("content-encoding", "gzip")], "x", "compressed its answer unasked"),
        (200, &[("content-type", "application/json; charset=utf-32")], "x", "in a character set"),
        (200, JSON, "<html>", "no list of models"),
        (200, JSON, r#"{"models":[]}"#, "no list of models"),
        (200, JSON, r#"{"data":[{"name":"x"}]}"#, "no list of models"),
    ];
    for (status, headers, body, wanted) in cases {
        provider.whole(status, headers, body).await;
        let fault = ask("openai", provider.port, Question::Models, LONG).await.unwrap_err();
        let told = format!("{fault} {fault:?}");
        assert!(fault.to_string().contains(wanted), "{status}: {fault}");
        assert!(
            !told.contains(KEY) && !told.contains("0123456789abcdef") && !told.contains("hunter2"),
            "{told}"
        );
    }
    provider.whole(200, JSON, r#"{"choices":[]}"#).await;
    let fault = ask("openai", provider.port, Question::Token("m"), LONG).await.unwrap_err();
    assert!(fault.to_string().contains("no chat completion"), "{fault}");
    let (_held, nobody) = refusing();
    let fault = ask("openai", nobody, Question::Models, LONG).await.unwrap_err();
    assert!(matches!(fault, Fault::Connect(_)), "{fault}");
}

/// Each a way in which a key can be said that no search finds, or a key too short for one.
#[tokio::test]
async fn who_was_sent_a_key_is_not_quoted_whatever_it_says() {
    let provider = Provider::start().await;
    let short = "k3yX";
    let reversed: String = KEY.chars().rev().collect();
    let spaced = KEY.chars().map(String::from).collect::<Vec<_>>().join(" ");
    let base32 = "ONVS23DJOZSS6WTLHEVVC3KWPFNDASTIMJWXG";
    for (key, said) in [
        (KEY, reversed.as_str()),
        (KEY, &spaced),
        (KEY, base32),
        (KEY, &KEY[..9]),
        (short, short),
        (short, "the key k3yX is none; use 'max_completion_tokens'"),
    ] {
        for body in [
            format!(r#"{{"error":{{"message":"{said}"}}}}"#),
            format!(r#"{{"message":"{said}"}}"#),
            format!(r#"{{"detail":"{said}"}}"#),
            format!(r#"{{"error":"{said}"}}"#),
        ] {
            for question in [Question::Models, Question::Token("m")] {
                // The second for who is asked once more by the other name.
                provider.whole(418, JSON, &body).await;
                if said.contains("max_completion_tokens") && question != Question::Models {
                    provider.whole(418, JSON, &body).await;
                }
                let fault = ask_with(Some(key), "openai", provider.port, question, LONG).await.unwrap_err();
                assert_eq!(fault.to_string(), "answered 418", "{body}");
                assert!(!format!("{fault:?}").contains(said), "{fault:?}");
            }
        }
        // Nor by what it calls its models.
        if !said.contains(' ') {
            provider.whole(200, JSON, &format!(r#"{{"data":[{{"id":"{said}"}}]}}"#)).await;
            let answer = ask_with(Some(key), "openai", provider.port, Question::Models, LONG).await.unwrap();
            assert_eq!(answer.said, Said::Models { count: 1, names: vec![] });
        }
    }
    // Who was sent none is, scrubbed and in one line.
    let why = r#"{"error":{"message":"no\n model of hunter2hunter2"}}"#;
    provider.whole(404, JSON, why).await;
    let fault = ask_with(None, "openai", provider.port, Question::Models, LONG).await.unwrap_err();
    assert_eq!(fault.to_string(), "answered 404: no model of [REDACTED:known]");
}

#[tokio::test]
async fn nobody_is_waited_for_or_read_without_end() {
    let provider = Provider::start().await;
    // Taken, and never answered.
    let fault = ask("openai", provider.port, Question::Models, SHORT).await.unwrap_err();
    assert!(matches!(fault, Fault::Silent(_)), "{fault}");
    // One that has heard nothing of that.
    let provider = Provider::start().await;
    // A byte, and no end. A test that sends nothing more can't be late.
    let mut drip = provider.stream(200, JSON);
    drip.send(Frame::data(Bytes::from_static(b"{"))).await.unwrap();
    let fault = ask("openai", provider.port, Question::Models, Duration::from_secs(3)).await.unwrap_err();
    assert!(matches!(fault, Fault::Endless(_)), "{fault}");
    // Bytes without end.
    let provider = Provider::start().await;
    let mut flood = provider.stream(200, JSON);
    let flooding = tokio::spawn(async move {
        let piece = Bytes::from(vec![b' '; 64 * 1024]);
        let mut sent = 0;
        while flood.send(Frame::data(piece.clone())).await.is_ok() && sent < 64 * MAX_ANSWER {
            sent += piece.len();
        }
        sent
    });
    let fault = ask("openai", provider.port, Question::Models, LONG).await.unwrap_err();
    assert!(fault.to_string().contains("more than"), "{fault}");
    let sent = flooding.await.unwrap();
    assert!(sent < 16 * MAX_ANSWER, "{sent} bytes were taken");
}
