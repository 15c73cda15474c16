//! What is sent: golden bodies, and that a body is a pure function whose bytes only grow at the end.

use super::*;
use agent_runtime::session_store::ImageRef;
use agent_runtime::{Base64, SentImage, SentPart, SentResult};
use bytes::Bytes;
use serde_json::{Value, json};

fn result(id: &str, output: &str, is_error: bool) -> SentResult {
    SentResult { id: id.to_owned(), name: "read".to_owned(), output: output.to_owned(), is_error, images: Vec::new() }
}

fn called(id: &str, arguments: &str) -> Block {
    Block::ToolCall(ToolCall {
        id: id.to_owned(),
        ..match call("toolu_x", "read", arguments) {
            Block::ToolCall(call) => call,
            _ => ToolCall::default(),
        }
    })
}

/// One of everything: two calls in one message, one of them broken, results, and words of the person after them.
pub(super) fn long(reasoning: Block, opaque: Option<Value>) -> Conversation {
    conversation(vec![
        Sent::User(vec!["One".into(), "Two".into()]),
        Sent::Assistant {
            blocks: vec![reasoning, text("Look:"), called("call_4_0", r#"{"path":  "a.rs"}"#), called("call_4_1", "")],
            opaque,
        },
        Sent::ToolResults(vec![result("call_4_0", "fn main() {}", false), result("call_4_1", "no such file", true)]),
        Sent::User(vec!["Stop \"now\"\n".into()]),
    ])
}

pub(super) fn body(model: &dyn Model, conversation: &Conversation) -> String {
    String::from_utf8(model.body(conversation).to_vec()).expect("JSON is UTF-8")
}

pub(super) fn model_at(provider: &str, name: &str) -> Box<dyn Model> {
    let endpoint = Endpoint::new(provider, "http://127.0.0.1:1", name);
    match provider {
        "anthropic" => Box::new(Anthropic::new(endpoint, HttpClient::new()).expect("a good endpoint")),
        "openai-responses" => Box::new(OpenAiResponses::new(endpoint, HttpClient::new()).expect("a good endpoint")),
        _ => Box::new(OpenAi::new(endpoint, HttpClient::new()).expect("a good endpoint")),
    }
}

#[test]
fn the_golden_body_of_anthropic() {
    let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "SIG=="});
    let reasoning = Block::Reasoning { text: "hm".to_owned(), opaque: Some(thinking) };
    let expected = concat!(
        r#"{"model":"claude-opus-4-6","max_tokens":8192,"stream":true,"cache_control":{"type":"ephemeral"},"#,
        r#""system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],"#,
        r#""tools":[{"name":"read","description":"Reads a file.","input_schema":"#,
        r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}}],"#,
        r#""messages":[{"role":"user","content":[{"type":"text","text":"One"},{"type":"text","text":"Two"}]},"#,
        r#"{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"SIG=="},{"type":"text","text":"Look:"},"#,
        r#"{"type":"tool_use","id":"call_4_0","name":"read","input":{"path":  "a.rs"}},"#,
        r#"{"type":"tool_use","id":"call_4_1","name":"read","input":{}}]},"#,
        r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_4_0","content":"fn main() {}"},"#,
        r#"{"type":"tool_result","tool_use_id":"call_4_1","content":"no such file","is_error":true},"#,
        r#"{"type":"text","text":"Stop \"now\"\n"}]}]}"#,
    );
    assert_eq!(body(&*model_at("anthropic", "claude-opus-4-6"), &long(reasoning, None)), expected);
}

#[test]
fn the_golden_body_of_openai() {
    let reasoning = Block::Reasoning { text: "hm".to_owned(), opaque: Some(json!({"reasoning_content": "hm"})) };
    let opaque = json!({"reasoning_details": [{"type": "x"}], "tool_calls": [{"extra_content": {"google": {"thought_signature": "T"}}}, {}]});
    let expected = concat!(
        r#"{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":8192,"#,
        r#""tools":[{"type":"function","function":{"name":"read","description":"Reads a file.","parameters":"#,
        r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}}}],"#,
        r#""messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"One\n\nTwo"},"#,
        r#"{"role":"assistant","content":"Look:","tool_calls":["#,
        r#"{"id":"call_4_0","type":"function","function":{"name":"read","arguments":"{\"path\":  \"a.rs\"}"},"#,
        r#""extra_content":{"google":{"thought_signature":"T"}}},"#,
        r#"{"id":"call_4_1","type":"function","function":{"name":"read","arguments":"{}"}}],"#,
        r#""reasoning_content":"hm","reasoning_details":[{"type":"x"}]},"#,
        r#"{"role":"tool","tool_call_id":"call_4_0","content":"fn main() {}"},"#,
        r#"{"role":"tool","tool_call_id":"call_4_1","content":"no such file"},"#,
        r#"{"role":"user","content":"Stop \"now\"\n"}]}"#,
    );
    assert_eq!(body(&*model_at("openai", "gpt-5"), &long(reasoning, Some(opaque))), expected);
}

#[test]
fn parameters_take_the_form_that_the_server_knows() {
    let mut asked = hello();
    let parameters = Parameters { effort: Some("high".to_owned()), temperature: Some(0.5), ..Parameters::default() };
    asked.profile = Arc::new(Profile { parameters, ..profile() });
    let head = |provider, name| {
        let body: Value = serde_json::from_str(&body(&*model_at(provider, name), &asked)).expect("JSON");
        let mut head = body.as_object().expect("an object").clone();
        head.retain(|name, _| {
            !["model", "stream", "stream_options", "tools", "system", "messages", "cache_control"].contains(&&**name)
        });
        Value::Object(head)
    };
    let adaptive = json!({"type": "adaptive", "display": "summarized"});
    assert_eq!(
        head("anthropic", "claude-opus-4-6"),
        json!({"max_tokens": 8192, "thinking": adaptive, "output_config": {"effort": "high"}, "temperature": 0.5})
    );
    let budget = json!({"type": "enabled", "budget_tokens": 4096});
    assert_eq!(head("anthropic", "claude-sonnet-4-5"), json!({"max_tokens": 8192, "thinking": budget}));
    assert_eq!(head("openai", "o5"), json!({"max_completion_tokens": 8192, "reasoning_effort": "high", "temperature": 0.5}));
    assert_eq!(head("ollama", "qwen4"), json!({"max_tokens": 8192, "reasoning_effort": "high", "temperature": 0.5}));
}

#[test]
fn reasoning_that_nobody_signed_is_not_sent() {
    let unsigned = Block::Reasoning { text: "hm".to_owned(), opaque: None };
    for (provider, name) in [("anthropic", "claude-opus-4-6"), ("openai", "gpt-5"), ("openai-responses", "gpt-5")] {
        assert!(!body(&*model_at(provider, name), &long(unsigned.clone(), None)).contains("hm"), "{provider}");
    }
}

#[test]
fn a_body_is_pure_and_a_longer_conversation_has_the_shorter_one_as_its_start() {
    let reasoning = Block::Opaque { opaque: json!({"type": "redacted_thinking", "data": "D"}) };
    let whole = long(reasoning, None);
    for (provider, name) in
        [("anthropic", "claude-opus-5-5"), ("openai", "gpt-5"), ("openai-responses", "gpt-5"), ("ollama", "qwen4")]
    {
        let model = model_at(provider, name);
        assert_eq!(body(&*model, &whole), body(&*model, &whole.clone()));
        for length in 1..whole.messages.len() {
            let shorter = conversation(whole.messages[..length].to_vec());
            let shorter = body(&*model, &shorter);
            // All but the brackets that close the messages; of Anthropic's last message, what closes it too.
            let kept = shorter.trim_end_matches(['}', ']']);
            assert!(body(&*model, &whole).starts_with(kept), "{provider}: {length} messages");
        }
    }
}

#[tokio::test]
async fn the_request_has_the_headers_that_the_provider_wants_and_the_body_byte_for_byte() {
    let server = Server::answering(server::response(500, "", "")).await;
    let claude = anthropic(&server);
    let gpt = openai(&server);
    hear(&claude).await;
    hear(&gpt).await;
    let seen = server.seen();
    assert!(seen[0].head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{}", seen[0].head);
    assert_eq!(seen[0].header("x-api-key"), Some(KEY));
    assert_eq!(seen[0].header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[0].header("anthropic-beta"), None);
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    assert_eq!(seen[0].body.as_bytes(), claude.body(&hello()));
    assert!(seen[1].head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", seen[1].head);
    assert_eq!(seen[1].header("authorization"), Some(&*format!("Bearer {KEY}")));
    assert_eq!(seen[1].header("transfer-encoding"), None);
    assert_eq!(seen[1].body.as_bytes(), gpt.body(&hello()));
}

#[tokio::test]
async fn the_beta_header_goes_with_the_field_that_needs_it() {
    let server = Server::answering(server::response(500, "", "")).await;
    let endpoint = endpoint("anthropic", server.url(""), "claude-opus-5-5");
    hear(&Anthropic::new(endpoint, HttpClient::new()).expect("a good endpoint")).await;
    let seen = server.seen();
    assert!(seen[0].body.contains(r#""block_binding":{"prefix_mismatch_behavior":"drop_block"}"#), "{}", seen[0].body);
    assert_eq!(seen[0].header("anthropic-beta"), Some("thinking-binding-controls-2026-08-01"));
}

#[tokio::test]
async fn a_body_of_many_pieces_arrives_whole() {
    let server = Server::answering(server::response(500, "", "")).await;
    let model = openai(&server);
    let long = conversation(vec![Sent::User(vec!["x".repeat(3_000_000).into()])]);
    let _ = model.call(model.body(&long).into(), &Clocks::default()).await;
    assert_eq!(server.seen()[0].body.as_bytes(), model.body(&long));
}

fn image(bytes: &[u8]) -> SentImage {
    let image = ImageRef { media_type: "image/png".to_owned(), width: 2, height: 1, ..ImageRef::default() };
    SentImage { image, base64: Base64::of(bytes) }
}

fn with_images(bytes: &[u8]) -> Conversation {
    let seen = SentResult { images: vec![image(bytes)], ..result("call_4_0", "[a.png]", false) };
    conversation(vec![
        Sent::User(vec![SentPart::Image(image(bytes)), "What is this?".into()]),
        Sent::Assistant { blocks: vec![called("call_4_0", "{}"), called("call_4_1", "{}")], opaque: None },
        Sent::ToolResults(vec![seen, result("call_4_1", "no", true)]),
        Sent::User(vec!["And this?".into(), SentPart::Image(image(bytes))]),
    ])
}

#[test]
fn images_have_each_protocols_own_form() {
    let messages = |provider: &str, field: &str| {
        let body: Value = serde_json::from_str(&body(&*model_at(provider, "m"), &with_images(b"png"))).expect("JSON");
        body[field].clone()
    };
    let source = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "cG5n"}});
    let text = |kind: &str, text: &str| json!({"type": kind, "text": text});
    let anthropic = messages("anthropic", "messages");
    assert_eq!(anthropic[0]["content"], json!([source, text("text", "What is this?")]));
    let results = json!([
        {"type": "tool_result", "tool_use_id": "call_4_0", "content": [source, text("text", "[a.png]")]},
        {"type": "tool_result", "tool_use_id": "call_4_1", "content": "no", "is_error": true},
        text("text", "And this?"),
        source,
    ]);
    assert_eq!(anthropic[2]["content"], results);

    let url = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n"}});
    let openai = messages("openai", "messages");
    assert_eq!(openai[1]["content"], json!([url, text("text", "What is this?")]));
    assert_eq!(openai[3], json!({"role": "tool", "tool_call_id": "call_4_0", "content": "[a.png]"}));
    let behind = text("text", "[What the tool `read` (call_4_0) returned:]");
    assert_eq!(openai[5], json!({"role": "user", "content": [behind, url, text("text", "And this?"), url]}));

    let url = json!({"type": "input_image", "image_url": "data:image/png;base64,cG5n"});
    let responses = messages("openai-responses", "input");
    assert_eq!(responses[0]["content"], json!([url, text("input_text", "What is this?")]));
    let output = json!({"type": "function_call_output", "call_id": "call_4_0", "output": [url, text("input_text", "[a.png]")]});
    assert_eq!(responses[3], output);
}

#[test]
fn the_bytes_of_an_image_are_shared_by_all_bodies() {
    for provider in ["anthropic", "openai", "openai-responses"] {
        let conversation = with_images(&[7; 300_000]);
        let Sent::User(parts) = &conversation.messages[0] else { panic!("a person's words") };
        let SentPart::Image(image) = &parts[0] else { panic!("an image") };
        let messages = model_at(provider, "m").messages(&conversation.messages);
        let is_shared = |piece: &&Bytes| piece.as_ptr() == image.base64.bytes().as_ptr() && piece.len() == 400_000;
        assert_eq!(messages.pieces().iter().filter(is_shared).count(), 1, "{provider}");
        assert!(messages.pieces().iter().filter(|piece| piece.len() != 400_000).all(|piece| piece.len() < 1_000), "{provider}");
    }
}
