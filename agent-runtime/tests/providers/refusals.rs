//! What servers refuse with, and what is learned from it.

use super::server::{Step, response};
use super::*;
use std::time::Duration;

async fn refused(status: u16, headers: &str, body: &str) -> ModelFailure {
    let server = Server::answering(response(status, headers, body)).await;
    hear(&openai(&server)).await.failure.expect("a failure")
}

#[tokio::test]
async fn each_status_has_its_kind() {
    for (status, kind) in [
        (301, "bad_request"),
        (400, "bad_request"),
        (401, "auth"),
        (402, "quota"),
        (403, "auth"),
        (404, "not_found"),
        (405, "bad_request"),
        (408, "server"),
        (409, "server"),
        (413, "context_too_long"),
        (418, "bad_request"),
        (422, "bad_request"),
        (425, "server"),
        (429, "rate_limit"),
        (500, "server"),
        (501, "server"),
        (502, "server"),
        (503, "server"),
        (504, "server"),
        (520, "server"),
        (529, "overloaded"),
    ] {
        let failure = refused(status, "content-type: text/plain\r\n", "words of the server").await;
        assert_eq!((failure.kind.as_str(), failure.status), (kind, Some(status)));
        assert!(failure.detail.contains(&format!("answered {status}")), "{}", failure.detail);
        assert!(failure.detail.contains("words of the server"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_rate_limit_says_how_long_to_wait() {
    let failure = refused(429, "retry-after: 7\r\n", r#"{"error":{"message":"Slow down","type":"rate_limit_error"}}"#).await;
    assert_eq!((failure.kind.as_str(), failure.retry_after), ("rate_limit", Some(Duration::from_secs(7))));
    assert_eq!(refused(503, "retry-after-ms: 1500\r\n", "").await.retry_after, Some(Duration::from_millis(1500)));
}

#[tokio::test]
async fn a_long_refusal_is_cut_and_never_holds_the_key() {
    let failure = refused(401, "", &format!("Incorrect API key: {KEY} {}", "y".repeat(1 << 20))).await;
    assert!(!failure.detail.contains(KEY) && failure.detail.contains("[key]"), "{:.200}", failure.detail);
    assert!(failure.detail.len() < 4300, "{}", failure.detail.len());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::answering(response(200, "", "")).await;
    let failure = refused(307, &format!("location: {}\r\n", elsewhere.url("/v1/chat/completions")), "").await;
    assert_eq!(failure.kind.as_str(), "bad_request");
    assert!(failure.detail.contains("redirects are not followed"), "{}", failure.detail);
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn nobody_at_home_and_no_such_host_are_connect_failures() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let free = listener.local_addr().expect("bound");
    drop(listener);
    for url in [format!("http://{free}/v1"), "http://no-such-host.invalid/v1".to_owned()] {
        let model = OpenAi::new(endpoint("openai", url, "gpt-5"), HttpClient::new()).expect("a good endpoint");
        let heard = hear(&model).await;
        assert_eq!(heard.kind(), "connect", "{}", heard.detail());
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_a_reset() {
    let server = Server::new(vec![vec![Step::Reset]]).await;
    assert_eq!(hear(&openai(&server)).await.kind(), "reset");
    // Or closes without a word.
    let server = Server::new(vec![vec![]]).await;
    assert_eq!(hear(&openai(&server)).await.kind(), "reset");
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_cannot_be_reached_over_https() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}/v1", listener.local_addr().expect("bound"));
    let model = OpenAi::new(endpoint("openai", url, "gpt-5"), HttpClient::new()).expect("a good endpoint");
    let plain = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        tokio::io::AsyncWriteExt::write_all(&mut stream, &response(400, "", "")).await.expect("a client");
        stream
    };
    let (heard, _stream) = tokio::join!(hear(&model), plain);
    assert_eq!(heard.kind(), "connect", "{}", heard.detail());
}

#[test]
fn a_key_that_no_header_can_hold_is_an_error_that_does_not_repeat_it() {
    let with_key = |key: &str| Endpoint { api_key: Some(Secret::new(key)), ..Endpoint::new("x", "http://h", "m") };
    for error in [
        OpenAi::new(with_key("sk-line\n"), HttpClient::new()).map(drop),
        Anthropic::new(with_key("sk-line\n"), HttpClient::new()).map(drop),
    ] {
        let words = error.expect_err("a line break is no part of a header").to_string();
        assert!(words.contains("header") && !words.contains("sk-line"), "{words}");
    }
}

/// Calls until the model is answered; gives what was learned and what was sent.
async fn learn(model: &dyn Model, server: &Server) -> (Vec<String>, Vec<serde_json::Value>) {
    for _ in 0..10 {
        let heard = hear(model).await;
        if heard.kind() != "learned" {
            assert_eq!(heard.kind(), "server", "{}", heard.detail());
            break;
        }
    }
    let bodies = server.seen().iter().map(|seen| serde_json::from_str(&seen.body).expect("JSON")).collect();
    (model.learned(), bodies)
}

async fn refusing(all: &[(u16, &str)]) -> Server {
    let scripts = all.iter().chain(&[(500, "")]).map(|(status, body)| vec![Step::Send(response(*status, "", body))]);
    Server::new(scripts.collect()).await
}

#[tokio::test]
async fn the_same_refusal_twice_is_learned_once() {
    let limit = r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for claude-x"}}"#;
    let server = refusing(&[(400, limit), (400, limit)]).await;
    let model = anthropic(&server);
    assert_eq!(hear(&model).await.kind(), "learned");
    assert_eq!(hear(&model).await.kind(), "bad_request");
    assert_eq!(model.learned(), ["max_tokens=4096"]);
}

#[tokio::test]
async fn reasoning_that_is_refused_goes() {
    let refusal = r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.1.content.0: Invalid `signature` in `thinking` block"}}"#;
    let server = refusing(&[(400, refusal)]).await;
    let model = anthropic(&server);
    let opaque = serde_json::json!({"type": "thinking", "thinking": "hm", "signature": "S"});
    let blocks = vec![Block::Reasoning { text: "hm".to_owned(), opaque: Some(opaque) }, text("Hi")];
    let hello = Sent::User(vec!["Hello".into()]);
    let asked = conversation(vec![hello.clone(), Sent::Assistant { blocks, opaque: None }, hello]);
    let refused = model.call(model.body(&asked).into(), &Clocks::default()).await.err().expect("a refusal");
    assert_eq!(refused.kind.as_str(), "learned");
    let body = String::from_utf8(model.body(&asked).to_vec()).expect("JSON is UTF-8");
    assert!(
        !body.contains("signature") && body.contains(r#"{"role":"assistant","content":[{"type":"text","text":"Hi"}]}"#),
        "{body}"
    );
}

#[tokio::test]
async fn a_refused_parameter_is_renamed_or_left_out_from_then_on() {
    let server = refusing(&[
        (400, r#"{"error":{"message":"Unsupported parameter: 'max_completion_tokens'","param":"max_completion_tokens"}}"#),
        (422, r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#),
        (400, r#"{"error":{"message":"max_tokens is too large: 8192. This model supports at most 4096 completion tokens"}}"#),
    ])
    .await;
    let model = openai(&server);
    let (learned, bodies) = learn(&model, &server).await;
    assert_eq!(learned, ["max_completion_tokens", "max_tokens", "stream_options"]);
    assert_eq!(bodies.len(), 4);
    assert_eq!(bodies[0]["max_completion_tokens"], 8192);
    assert_eq!((&bodies[1]["max_tokens"], &bodies[1]["max_completion_tokens"]), (&8192.into(), &serde_json::Value::Null));
    assert!(bodies[2]["stream_options"].is_null() && bodies[2]["max_tokens"] == 8192);
    assert!(bodies[3]["max_tokens"].is_null() && bodies[3]["max_completion_tokens"].is_null());

    // Another process begins with what this one learned.
    let learned = Endpoint { learned, ..endpoint("openai", server.url("/v1"), "gpt-5") };
    let later = OpenAi::new(learned, HttpClient::new()).expect("a good endpoint");
    assert_eq!(later.body(&hello()), model.body(&hello()));
}

#[tokio::test]
async fn claudes_ways_to_reason_and_its_output_limit_are_learned() {
    let disabled = r#"{"type":"error","error":{"type":"invalid_request_error","message":"\"thinking.type.enabled\" is not supported for this model. Use \"thinking.type.adaptive\" and \"output_config.effort\" to control thinking behavior."}}"#;
    let limit = r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for claude-x"}}"#;
    let extra =
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"cache_control: Extra inputs are not permitted"}}"#;
    let server = refusing(&[(400, disabled), (400, limit), (400, extra)]).await;
    let model = Anthropic::new(endpoint("anthropic", server.url(""), "glm-5"), HttpClient::new()).expect("a good endpoint");
    let parameters = Parameters { effort: Some("high".to_owned()), ..Parameters::default() };
    let mut asked = hello();
    asked.profile = Arc::new(Profile { parameters, ..profile() });
    for _ in 0..3 {
        let refused = model.call(model.body(&asked).into(), &Clocks::default()).await.err().expect("a refusal");
        assert_eq!(refused.kind.as_str(), "learned", "{}", refused.detail);
    }
    assert_eq!(model.learned(), ["cache_control", "max_tokens=4096", "thinking.enabled"]);
    let body: serde_json::Value = serde_json::from_slice(&model.body(&asked)).expect("JSON");
    assert_eq!(body["thinking"]["type"], "adaptive");
    assert_eq!(body["max_tokens"], 4096);
    assert!(!body.to_string().contains("cache_control"));
}

#[tokio::test]
async fn a_refusal_that_names_nothing_that_was_sent_teaches_nothing() {
    let server = refusing(&[(400, r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.5"}}"#)]).await;
    let model = openai(&server);
    assert_eq!(hear(&model).await.kind(), "bad_request");
    assert!(model.learned().is_empty());
}
