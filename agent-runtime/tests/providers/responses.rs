//! The Responses API: what is sent, and what becomes of what comes back.

use super::bodies::{body, long, model_at};
use super::server::{events, response, stream};
use super::*;
use serde_json::json;

async fn hear_data(data: &[&str]) -> Heard {
    let server = Server::answering(stream(&events(data))).await;
    let endpoint = endpoint("openai-responses", server.url("/v1"), "gpt-5");
    hear(&OpenAiResponses::new(endpoint, HttpClient::new()).expect("a good endpoint")).await
}

#[test]
fn the_golden_body() {
    let item = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "ENC"});
    let reasoning = Block::Reasoning { text: String::new(), opaque: Some(item) };
    let expected = concat!(
        r#"{"model":"gpt-5","stream":true,"store":false,"include":["reasoning.encrypted_content"],"max_output_tokens":8192,"#,
        r#""instructions":"Be brief.","tools":[{"type":"function","name":"read","description":"Reads a file.","parameters":"#,
        r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]},"strict":false}],"#,
        r#""input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"One"},{"type":"input_text","text":"Two"}]},"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"ENC"},"#,
        r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Look:"}],"phase":"commentary"},"#,
        r#"{"type":"function_call","call_id":"call_4_0","name":"read","arguments":"{\"path\":  \"a.rs\"}"},"#,
        r#"{"type":"function_call","call_id":"call_4_1","name":"read","arguments":"{}"},"#,
        r#"{"type":"function_call_output","call_id":"call_4_0","output":"fn main() {}"},"#,
        r#"{"type":"function_call_output","call_id":"call_4_1","output":"no such file"},"#,
        r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"Stop \"now\"\n"}]}]}"#,
    );
    let sent = long(reasoning, Some(json!({"phases": ["commentary"]})));
    assert_eq!(body(&*model_at("openai-responses", "gpt-5"), &sent), expected);
}

#[test]
fn reasoning_without_its_encrypted_form_or_without_what_it_led_to_is_not_sent() {
    let model = model_at("openai-responses", "gpt-5");
    let open =
        Block::Reasoning { text: "hm".to_owned(), opaque: Some(json!({"type": "reasoning", "id": "rs_1", "summary": []})) };
    assert!(!body(&*model, &long(open, None)).contains("rs_1"));
    let item = json!({"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "ENC"});
    let last = Block::Reasoning { text: String::new(), opaque: Some(item) };
    let answer = Sent::Assistant { blocks: vec![text("Yes."), last], opaque: None };
    let user = || Sent::User(vec!["Hello".into()]);
    assert!(!body(&*model, &conversation(vec![user(), answer, user()])).contains("rs_2"));
}

#[tokio::test]
async fn a_gpt_that_reasons_speaks_and_calls_two_tools() {
    let heard = hear_data(&[
        r#"{"type":"response.created","response":{"id":"resp_1","status":"in_progress","output":[]}}"#,
        r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"rs_1","summary":[]}}"#,
        r#"{"type":"response.reasoning_summary_part.added","summary_index":0,"part":{"type":"summary_text","text":""}}"#,
        r#"{"type":"response.reasoning_summary_text.delta","summary_index":0,"delta":"Let me "}"#,
        r#"{"type":"response.reasoning_summary_text.delta","summary_index":0,"delta":"see."}"#,
        r#"{"type":"response.reasoning_summary_part.added","summary_index":1,"part":{"type":"summary_text","text":""}}"#,
        r#"{"type":"response.reasoning_summary_text.delta","summary_index":1,"delta":"Both."}"#,
        r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","id":"rs_1","status":null,"content":null,"summary":[{"type":"summary_text","text":"Let me see."},{"type":"summary_text","text":"Both."}],"encrypted_content":"ENC"}}"#,
        r#"{"type":"response.output_text.delta","output_index":1,"delta":"I look at "}"#,
        r#"{"type":"response.output_text.delta","output_index":1,"delta":"both 🦀."}"#,
        r#"{"type":"response.output_item.done","output_index":1,"item":{"type":"message","id":"msg_1","role":"assistant","phase":"commentary","status":"completed","content":[{"type":"output_text","text":"I look at both 🦀.","annotations":[]}]}}"#,
        r#"{"type":"response.function_call_arguments.delta","output_index":2,"delta":"{\"path\":  \"a.rs\"}"}"#,
        r#"{"type":"response.function_call_arguments.done","output_index":2,"arguments":"{\"path\":  \"a.rs\"}"}"#,
        r#"{"type":"response.output_item.done","output_index":2,"item":{"type":"function_call","id":"fc_1","call_id":"call_A","name":"read","arguments":"{\"path\":  \"a.rs\"}","status":"completed"}}"#,
        r#"{"type":"response.output_item.done","output_index":3,"item":{"type":"function_call","id":"fc_2","call_id":"call_B","name":"list","arguments":"{}","status":"completed"}}"#,
        r#"{"type":"response.something_new","x":1}"#,
        r#"{"type":"response.completed","response":{"status":"completed","incomplete_details":null,"output":[],"usage":{"input_tokens":115,"input_tokens_details":{"cached_tokens":100},"output_tokens":42,"output_tokens_details":{"reasoning_tokens":7}}}}"#,
    ])
    .await;
    let item = json!({"type": "reasoning", "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Let me see."}, {"type": "summary_text", "text": "Both."}], "encrypted_content": "ENC"});
    let usage = Usage {
        input_tokens: Some(115),
        output_tokens: Some(42),
        cache_read_tokens: Some(100),
        cache_write_tokens: None,
        reasoning_tokens: Some(7),
    };
    let expected = Heard {
        text: "I look at both 🦀.".to_owned(),
        reasoning: "Let me see.\n\nBoth.".to_owned(),
        argument_pieces: 1,
        blocks: vec![
            Block::Reasoning { text: "Let me see.\n\nBoth.".to_owned(), opaque: Some(item) },
            text("I look at both 🦀."),
            call("call_A", "read", r#"{"path":  "a.rs"}"#),
            call("call_B", "list", "{}"),
        ],
        usage: Some(usage),
        stop: Some(StopReason::ToolUse),
        opaque: Some(json!({"phases": ["commentary"]})),
        failure: None,
    };
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn an_answer_that_its_limit_cut_keeps_its_text_and_not_the_call_that_was_cut() {
    let heard = hear_data(&[
        r#"{"type":"response.output_item.done","item":{"type":"function_call","call_id":"a","name":"read","arguments":"{\"pa","status":"incomplete"}}"#,
        r#"{"type":"response.output_text.delta","delta":"One two"}"#,
        r#"{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"usage":{"input_tokens":1,"output_tokens":2}}}"#,
    ])
    .await;
    assert_eq!((heard.stop, heard.blocks), (Some(StopReason::MaxTokens), vec![text("One two")]));
}

#[tokio::test]
async fn each_end_has_its_meaning() {
    let refusal =
        r#"{"type":"response.output_item.done","item":{"type":"message","content":[{"type":"refusal","refusal":"No."}]}}"#;
    let completed = r#"{"type":"response.completed","response":{"status":"completed"}}"#;
    assert_eq!(hear_data(&[completed]).await.stop, Some(StopReason::EndTurn));
    let heard = hear_data(&[refusal, completed]).await;
    assert_eq!((heard.stop, heard.blocks), (Some(StopReason::Refusal), vec![text("No.")]));
    for (reason, expected) in [("content_filter", StopReason::Refusal), ("something", StopReason::Other("something".to_owned()))]
    {
        let event = format!(r#"{{"type":"response.incomplete","response":{{"incomplete_details":{{"reason":"{reason}"}}}}}}"#);
        assert_eq!(hear_data(&[&event]).await.stop, Some(expected), "{reason}");
    }
}

#[tokio::test]
async fn failures_inside_of_a_stream_are_told_by_their_codes() {
    for (event, kind) in [
        (
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"oops"}}}"#,
            "server",
        ),
        (r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"slow"}}}"#, "rate_limit"),
        (r#"{"type":"error","code":"context_length_exceeded","message":"too long","param":"input"}"#, "context_too_long"),
        (r#"{"type":"error","code":"insufficient_quota","message":"pay","param":null}"#, "quota"),
        (r#"{"type":"error","error":{"type":"invalid_request_error","code":"invalid_prompt","message":"no"}}"#, "bad_request"),
        (r#"{"error":{"message":"gateway","code":502}}"#, "server"),
    ] {
        assert_eq!(hear_data(&[r#"{"type":"response.output_text.delta","delta":"One"}"#, event]).await.kind(), kind, "{event}");
    }
    let cut = hear_data(&[r#"{"type":"response.output_text.delta","delta":"One"}"#]).await;
    assert_eq!((cut.kind(), &*cut.text), ("reset", "One"), "an end without the event that says so is a cut");
}

#[tokio::test]
async fn an_answer_in_plain_json_is_read_as_well() {
    let answer = json!({"status": "completed", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}], "usage": {"input_tokens": 3, "output_tokens": 1}});
    let server = Server::answering(response(200, "content-type: application/json\r\n", &answer.to_string())).await;
    let model = OpenAiResponses::new(endpoint("openai-responses", server.url("/v1"), "gpt-5"), HttpClient::new());
    let heard = hear(&model.expect("a good endpoint")).await;
    assert_eq!((&*heard.text, heard.stop, heard.blocks), ("Hello.", Some(StopReason::EndTurn), vec![text("Hello.")]));
    assert!(server.seen()[0].head.starts_with("POST /v1/responses HTTP/1.1\r\n"));
}
