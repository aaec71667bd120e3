//! The real protocols through the gateway: what goes up, what comes down, and when.

#![expect(clippy::unwrap_used, reason = "tests")]

mod mock;

use std::time::Duration;

use bytes::Bytes;
use gateway::{Protocol, usage::Tokens};
use http_body::Frame;
use http_body_util::BodyExt as _;
use mock::{KEY, Provider, Told, before_both, both, fetch, house, post};

const SSE: &[(&str, &str)] =
    &[("content-type", "text/event-stream"), ("set-cookie", "__cf=1"), ("server", "x")];
const JSON: &[(&str, &str)] = &[("content-type", "application/json"), ("x-request-id", "req_up")];

#[tokio::test]
async fn a_chat_completion_passes_with_the_model_and_the_key_exchanged() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let answer = r#"{"id":"c1","object":"chat.completion","choices":[{"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
    provider.whole(200, JSON, answer).await;
    let sent = r#"{"messages":[{"role":"user","content":"hello"}],  "model":"small","temperature":0.10}"#;
    let (status, headers, body) = house.whole(post("/v1/chat/completions", sent)).await;
    assert_eq!((status, body.as_str()), (200, answer));
    assert_eq!(headers["x-cofferdam-request-id"], "req-1");
    assert_eq!(headers["x-upstream-request-id"], "req_up");
    let seen = provider.last();
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.body, sent.replace("\"small\"", "\"meta/llama-3.3-70b\""));
    assert_eq!(seen.headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(seen.headers["host"], format!("127.0.0.1:{}", provider.port));
    assert_eq!(seen.headers["accept-encoding"], "identity");
    for absent in ["x-api-key", "cookie"] {
        assert!(!seen.headers.contains_key(absent), "{absent}");
    }
    assert!(!format!("{:?}", seen.headers).contains("placeholder"));
    let tokens = Tokens { input: Some(9), output: Some(2), ..Tokens::default() };
    assert_eq!(
        house.told(),
        [
            Told::Admitted { provider: "oai".into(), route: "small".into() },
            Told::FirstByte,
            Told::Finished {
                provider: "oai".into(),
                route: "small".into(),
                code: 200,
                tokens,
                complete: true
            },
        ]
    );
}

#[tokio::test]
async fn a_stream_arrives_chunk_by_chunk_byte_for_byte() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (provider, house) = before_both(protocol).await;
        let mut sender = provider.stream(200, SSE);
        let sent =
            r#"{"model":"small","stream":true,"messages":[{}],"stream_options":{"include_usage":true}}"#;
        let request = post("/v1/chat/completions", sent);
        let mut response = house.ask(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(!response.headers().contains_key("set-cookie") && !response.headers().contains_key("server"));
        let chunks = [
            "data: {\"choices\":[{\"delta\":{\"content\":\"Gr\u{fc}\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"sk-\"}}]}\r\n\r\n",
            ": keep-alive\n\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n",
            "data: [DONE]\n\n",
        ];
        for chunk in chunks {
            sender.send(Frame::data(Bytes::from(chunk))).await.unwrap();
            // Each must come before the next one is even sent.
            let frame = tokio::time::timeout(Duration::from_secs(60), response.body_mut().frame()).await;
            assert_eq!(frame.expect("in time").unwrap().unwrap().into_data().unwrap(), chunk);
        }
        drop(sender);
        assert!(response.body_mut().frame().await.is_none());
        drop(response);
        assert_eq!(provider.last().body, sent.replace("small", "meta/llama-3.3-70b"));
        assert!(matches!(
            house.told().last(),
            Some(Told::Finished {
                tokens: Tokens { input: Some(5), output: Some(3), .. },
                complete: true,
                ..
            })
        ));
    }
}

#[tokio::test]
async fn a_stream_whose_usage_nobody_asked_for_is_counted_all_the_same() {
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n";
    let done = "data: [DONE]\n\n";
    for (path, needs) in
        [("/v1/chat/completions", r#""messages":[{}]"#), ("/v1/completions", r#""prompt":"x""#)]
    {
        let (provider, house) = before_both(Protocol::Http1).await;
        let mut sender = provider.stream(200, SSE);
        let body = format!(r#"{{"model":"small","stream":true,{needs}}}"#);
        let mut response = house.ask(post(path, body.clone())).await;
        let asking = r#""meta/llama-3.3-70b","stream_options":{"include_usage":true}"#;
        assert_eq!(provider.last().body, body.replace(r#""small""#, asking));
        // Each event at once, but for the one that tells only the usage.
        for chunk in [delta, ": keep-alive\n\n", usage, done] {
            sender.send(Frame::data(Bytes::from(chunk))).await.unwrap();
            if chunk == usage {
                continue;
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), response.body_mut().frame()).await;
            assert_eq!(frame.expect("in time").unwrap().unwrap().into_data().unwrap(), chunk);
        }
        drop(sender);
        assert!(response.body_mut().frame().await.is_none());
        drop(response);
        let Some(Told::Finished { tokens, complete: true, .. }) = house.told().pop() else {
            panic!("not told")
        };
        assert_eq!((tokens.input, tokens.output), (Some(5), Some(3)));
    }
}

#[tokio::test]
async fn a_provider_that_is_not_to_be_asked_for_usage_gets_what_the_agent_wrote() {
    let provider = Provider::start().await;
    let section = both(provider.port)
        .replace(r#""kind":"openai","#, r#""kind":"openai","stream_usage":"leave","#)
        .replace(r#","model":"meta/llama-3.3-70b""#, "");
    let house = house(Protocol::Http1, &section);
    let stream = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5}}\n\ndata: [DONE]\n\n";
    provider.whole(200, SSE, stream).await;
    let sent = r#"{"model":"small","stream":true,"messages":[{}]}"#;
    let (status, _, body) = house.whole(post("/v1/chat/completions", sent)).await;
    assert_eq!((status, body.as_str()), (200, stream));
    assert_eq!(provider.last().body, sent);
}

#[tokio::test]
async fn anthropic_messages_stream() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-real\",\"usage\":{\"input_tokens\":11,\"output_tokens\":1}}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":6}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    provider.whole(200, SSE, stream).await;
    let mut request = post(
        "/v1/messages?beta=true",
        r#"{"model":"claude-sonnet","max_tokens":5,"stream":true,"messages":[{}]}"#,
    );
    request.headers_mut().insert("anthropic-beta", "tools-2".parse().unwrap());
    request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
    let (status, _, body) = house.whole(request).await;
    assert_eq!((status, body.as_str()), (200, stream));
    let seen = provider.last();
    assert_eq!(seen.path, "/v1/messages?beta=true");
    assert_eq!(seen.headers["x-api-key"], KEY);
    assert_eq!(seen.headers["anthropic-beta"], "tools-2");
    assert_eq!(seen.headers["anthropic-version"], "2023-06-01");
    assert!(!seen.headers.contains_key("authorization"));
    assert!(seen.body.starts_with(b"{\"model\":\"claude-real\""));
    assert!(matches!(
        house.told().last(),
        Some(Told::Finished { tokens: Tokens { input: Some(11), output: Some(6), .. }, .. })
    ));
    provider.whole(200, JSON, r#"{"input_tokens":14}"#).await;
    let (status, _, body) =
        house.whole(post("/v1/messages/count_tokens", r#"{"model":"claude-x","messages":[{}]}"#)).await;
    assert_eq!((status, body.as_str()), (200, r#"{"input_tokens":14}"#));
}

#[tokio::test]
async fn responses_events_completions_and_embeddings() {
    let (provider, house) = before_both(Protocol::Http2).await;
    let stream = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"usage\":null}}\n\n\
        event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n\
        event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"usage\":{\"input_tokens\":21,\"input_tokens_details\":{\"cached_tokens\":8},\"output_tokens\":4}}}\n\n";
    provider.whole(200, SSE, stream).await;
    let (status, _, body) =
        house.whole(post("/v1/responses", r#"{"model":"small","input":"x","stream":true}"#)).await;
    assert_eq!((status, body.as_str()), (200, stream));
    let seen = provider.last();
    assert_eq!((seen.path.as_str(), seen.version), ("/v1/responses", http::Version::HTTP_2));
    assert_eq!(seen.headers["authorization"], format!("Bearer {KEY}"));
    assert!(matches!(
        house.told().last(),
        Some(Told::Finished {
            tokens: Tokens { input: Some(21), output: Some(4), cache_read: Some(8), .. },
            ..
        })
    ));
    for (path, answer, tokens) in [
        (
            "/v1/completions",
            r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            (Some(1), Some(2)),
        ),
        (
            "/v1/embeddings",
            r#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":3,"total_tokens":3}}"#,
            (Some(3), None),
        ),
    ] {
        provider.whole(200, JSON, answer).await;
        let (status, _, body) =
            house.whole(post(path, r#"{"model":"small","input":"x","prompt":"x"}"#)).await;
        assert_eq!((status, body.as_str(), provider.last().path.as_str()), (200, answer, path));
        let Some(Told::Finished { tokens: told, .. }) = house.told().pop() else { panic!("not told") };
        assert_eq!((told.input, told.output), tokens);
    }
}

#[tokio::test]
async fn models_are_listed_from_the_routes_without_asking_anyone() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let (status, headers, body) = house.whole(fetch("/v1/models")).await;
    assert_eq!((status, &headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let list: serde_json::Value = serde_json::from_str(&body).unwrap();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["claude-real", "small"]);
    assert_eq!(provider.count(), 0);
}

#[tokio::test]
async fn one_model_is_there_if_the_list_has_it() {
    let provider = Provider::start().await;
    let section = both(provider.port).replace("\"small\"", "\"meta/llama-3.1-8b\"");
    let house = house(Protocol::Http1, &section);
    let (_, _, list) = house.whole(fetch("/v1/models")).await;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    for id in ["meta/llama-3.1-8b", "meta%2Fllama-3.1-8b", "claude-real"] {
        let (status, _, body) = house.whole(fetch(&format!("/v1/models/{id}"))).await;
        assert_eq!(status, 200, "{body}");
        let model: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(model["id"], id.replace("%2F", "/"));
        assert!(list["data"].as_array().unwrap().contains(&model), "{list} {model}");
    }
    // A pattern would serve it, and yet no list has it.
    for id in ["claude-other", "meta", "meta/llama-3.1-8b/", "gpt-4"] {
        let (status, _, body) = house.whole(fetch(&format!("/v1/models/{id}"))).await;
        let refusal: serde_json::Value = serde_json::from_str(&body).unwrap();
        let shape = (&refusal["error"], &refusal["layer"]);
        assert_eq!((status, shape), (404, (&"not_found".into(), &"inference".into())), "{body}");
        assert!(refusal["hint"].as_str().unwrap().contains("meta/llama-3.1-8b"), "{body}");
    }
    assert_eq!(provider.count(), 0);
    assert_eq!(house.told().len(), 4);
}

#[tokio::test]
async fn connections_are_kept_and_a_dead_one_is_replaced() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let ask = || post("/v1/chat/completions", r#"{"model":"small","messages":[{}]}"#);
    // A connection is kept a moment after the answer's end.
    let kept = async |wanted: usize| {
        let settled = async {
            while house.gateway.sweep() != wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled).await.expect("so many are kept");
    };
    for _ in 0..3 {
        provider.whole(200, JSON, "{}").await;
        assert_eq!(house.whole(ask()).await.0, 200);
        kept(1).await;
    }
    assert_eq!(house.dialed.lock().unwrap().len(), 1);
    provider.whole(200, &[("content-type", "application/json"), ("connection", "close")], "{}").await;
    assert_eq!(house.whole(ask()).await.0, 200);
    kept(0).await;
    provider.whole(200, JSON, "{}").await;
    assert_eq!(house.whole(ask()).await.0, 200);
    assert_eq!(house.dialed.lock().unwrap().len(), 2);
    let ports: Vec<_> = provider.seen.lock().unwrap().iter().map(|s| s.peer).collect();
    assert!(ports[..4].windows(2).all(|w| w[0] == w[1]) && ports[4] != ports[3]);
}

#[tokio::test]
async fn a_stream_survives_a_publication() {
    let (provider, house) = before_both(Protocol::Http1).await;
    let mut sender = provider.stream(200, SSE);
    let mut response =
        house.ask(post("/v1/chat/completions", r#"{"model":"small","stream":true,"messages":[{}]}"#)).await;
    house.gateway.publish(&serde_json::from_str(r#"{"providers":{},"routes":[]}"#).unwrap()).unwrap();
    sender.send(Frame::data(Bytes::from_static(b"data: 1\n\n"))).await.unwrap();
    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    let (status, _, body) =
        house.whole(post("/v1/chat/completions", r#"{"model":"small","messages":[{}]}"#)).await;
    assert_eq!(status, 403, "{body}");
    assert_eq!(house.gateway.in_flight(), 1);
    drop(response);
    assert_eq!(house.gateway.in_flight(), 0);
}
