//! What becomes of the streams that servers send.

use super::server::{Step, events, response, stream, stream_head};
use super::*;
use serde_json::json;
use std::time::Duration;

async fn hear_claude(events: &str) -> Heard {
    hear(&anthropic(&Server::answering(stream(events)).await)).await
}

async fn hear_gpt(data: &[&str]) -> Heard {
    hear(&openai(&Server::answering(stream(&events(data))).await)).await
}

/// An Anthropic stream: each event has its name, as the real ones do.
fn claude(data: &[&str]) -> String {
    let named = |data: &&str| {
        let name = serde_json::from_str::<serde_json::Value>(data).expect("JSON")["type"].as_str().expect("a type").to_owned();
        format!("event: {name}\ndata: {data}\n\n")
    };
    data.iter().map(named).collect()
}

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","role":"assistant","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":5,"cache_read_input_tokens":100,"output_tokens":1}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

#[tokio::test]
async fn a_claude_that_thinks_speaks_and_calls_two_tools() {
    let heard = hear_claude(&claude(&[
        START,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me "}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"see."}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"SIG=="}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"ENC"}}"#,
        r#"{"type":"content_block_stop","index":1}"#,
        r#"{"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"I look at "}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"both 🦀."}}"#,
        r#"{"type":"content_block_stop","index":2}"#,
        r#"{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_A","name":"read","input":{}}}"#,
        r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":""}}"#,
        r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"path\":  \"a"}}"#,
        r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":".rs\"}"}}"#,
        r#"{"type":"content_block_stop","index":3}"#,
        r#"{"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"toolu_B","name":"list","input":{}}}"#,
        r#"{"type":"content_block_stop","index":4}"#,
        r#"{"type":"something_new","x":1}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":42}}"#,
        STOP,
    ]))
    .await;
    let thinking = json!({"type": "thinking", "thinking": "Let me see.", "signature": "SIG=="});
    let usage = Usage {
        input_tokens: Some(115),
        output_tokens: Some(42),
        cache_read_tokens: Some(100),
        cache_write_tokens: Some(5),
        reasoning_tokens: None,
    };
    let expected = Heard {
        text: "I look at both 🦀.".to_owned(),
        reasoning: "Let me see.".to_owned(),
        argument_pieces: 4,
        blocks: vec![
            Block::Reasoning { text: "Let me see.".to_owned(), opaque: Some(thinking) },
            Block::Opaque { opaque: json!({"type": "redacted_thinking", "data": "ENC"}) },
            text("I look at both 🦀."),
            call("toolu_A", "read", r#"{"path":  "a.rs"}"#),
            call("toolu_B", "list", "{}"),
        ],
        usage: Some(usage),
        stop: Some(StopReason::ToolUse),
        ..Heard::default()
    };
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn thinking_that_is_not_shown_still_goes_back() {
    let heard = hear_claude(&claude(&[
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"S"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#,
        STOP,
    ]))
    .await;
    let opaque = Some(json!({"type": "thinking", "thinking": "", "signature": "S"}));
    assert_eq!(heard.blocks, [Block::Reasoning { text: String::new(), opaque }]);
    assert_eq!(heard.usage, None);
}

#[tokio::test]
async fn each_stop_reason_has_its_meaning() {
    for (reason, expected) in [
        ("end_turn", StopReason::EndTurn),
        ("stop_sequence", StopReason::EndTurn),
        ("tool_use", StopReason::ToolUse),
        ("max_tokens", StopReason::MaxTokens),
        ("model_context_window_exceeded", StopReason::MaxTokens),
        ("refusal", StopReason::Refusal),
        ("pause_turn", StopReason::Other("pause_turn".to_owned())),
    ] {
        let delta = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}}}}"#);
        assert_eq!(hear_claude(&claude(&[START, &delta, STOP])).await.stop, Some(expected), "{reason}");
    }
    for (reason, expected) in [
        ("stop", StopReason::EndTurn),
        ("length", StopReason::MaxTokens),
        ("content_filter", StopReason::Refusal),
        ("something", StopReason::Other("something".to_owned())),
    ] {
        let chunk = format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
        assert_eq!(hear_gpt(&[&chunk, "[DONE]"]).await.stop, Some(expected), "{reason}");
    }
}

#[tokio::test]
async fn at_the_output_limit_the_cut_call_goes_and_whole_blocks_stay() {
    let heard = hear_claude(&claude(&[
        START,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Now:"}}"#,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"A","name":"read","input":{}}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#,
        r#"{"type":"content_block_stop","index":1}"#,
        r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"B","name":"write","input":{}}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"text\": \"lo"}}"#,
        r#"{"type":"content_block_stop","index":2}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":8192}}"#,
        STOP,
    ]))
    .await;
    assert_eq!(heard.blocks, [text("Now:"), call("A", "read", "{}")]);
    assert_eq!(heard.stop, Some(StopReason::MaxTokens));

    let heard = hear_gpt(&[
        r#"{"choices":[{"delta":{"content":"Now:"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"A","function":{"name":"read","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"B","function":{"name":"write","arguments":"{\"te"}}]}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
        "[DONE]",
    ])
    .await;
    assert_eq!(heard.blocks, [text("Now:"), call("A", "read", "{}")]);
    assert_eq!(heard.stop, Some(StopReason::MaxTokens));
}

#[tokio::test]
async fn a_gpt_that_reasons_speaks_and_calls_two_tools_at_once() {
    let heard = hear_gpt(&[
        r#"{"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"Both"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":" it is"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"read","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c2","type":"function","function":{"name":"list","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{}"}},{"index":0,"function":{"arguments":" 1}"}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}"#,
        "[DONE]",
    ])
    .await;
    let usage = Usage {
        input_tokens: Some(9),
        output_tokens: Some(7),
        cache_read_tokens: Some(4),
        cache_write_tokens: None,
        reasoning_tokens: Some(3),
    };
    let expected = Heard {
        text: "Both it is".to_owned(),
        reasoning: "Hm".to_owned(),
        argument_pieces: 5,
        blocks: vec![
            Block::Reasoning { text: "Hm".to_owned(), opaque: Some(json!({"reasoning_content": "Hm"})) },
            text("Both it is"),
            call("c1", "read", r#"{"a": 1}"#),
            call("c2", "list", "{}"),
        ],
        usage: Some(usage),
        stop: Some(StopReason::ToolUse),
        ..Heard::default()
    };
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn tool_calls_are_told_apart_however_a_server_numbers_them() {
    let one = call("c1", "read", r#"{"a":1}"#);
    let two = call("c2", "read", r#"{"b":2}"#);
    let cases: [(&str, &[&str]); 5] = [
        // Whole calls, all of them number 0.
        (
            "whole",
            &[
                r#"[{"index":0,"id":"c1","function":{"name":"read","arguments":"{\"a\":1}"}}]"#,
                r#"[{"index":0,"id":"c2","function":{"name":"read","arguments":"{\"b\":2}"}}]"#,
            ],
        ),
        // Both at once, without numbers, one with its arguments as an object.
        (
            "at once",
            &[
                r#"[{"id":"c1","function":{"name":"read","arguments":"{\"a\":1}"}},{"id":"c2","function":{"name":"read","arguments":{"b":2}}}]"#,
            ],
        ),
        // The id and the name with each piece.
        (
            "repeated",
            &[
                r#"[{"index":0,"id":"c1","function":{"name":"read","arguments":"{\"a\""}}]"#,
                r#"[{"index":0,"id":"c1","function":{"name":"read","arguments":":1}"}}]"#,
                r#"[{"index":1,"id":"c2","function":{"name":"read","arguments":"{\"b\":2}"}}]"#,
            ],
        ),
        // The name in a later piece, the id later still.
        (
            "late name",
            &[
                r#"[{"index":0,"function":{"arguments":"{\"a\""}}]"#,
                r#"[{"index":0,"function":{"name":"read","arguments":":1"}}]"#,
                r#"[{"index":0,"id":"c1","function":{"arguments":"}"}}]"#,
                r#"[{"index":1,"id":"c2","function":{"name":"read","arguments":"{\"b\":2}"}}]"#,
            ],
        ),
        // No numbers; ids only where a call begins.
        (
            "ids only",
            &[
                r#"[{"id":"c1","function":{"name":"read","arguments":"{\"a\""}}]"#,
                r#"[{"function":{"arguments":":1}"}}]"#,
                r#"[{"id":"c2","function":{"name":"read","arguments":"{\"b\""}}]"#,
                r#"[{"function":{"arguments":":2}"}}]"#,
            ],
        ),
    ];
    for (name, pieces) in cases {
        let chunks: Vec<_> =
            pieces.iter().map(|calls| format!(r#"{{"choices":[{{"delta":{{"tool_calls":{calls}}}}}]}}"#)).collect();
        let finish = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        let data: Vec<_> = chunks.iter().map(String::as_str).chain([finish]).collect();
        let heard = hear_gpt(&data).await;
        assert_eq!(heard.blocks, [one.clone(), two.clone()], "{name}");
        assert_eq!(heard.stop, Some(StopReason::ToolUse), "{name}");
    }
    let nameless = [
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"read","arguments":"{}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"list","arguments":"{}"}}]}}]}"#,
        "[DONE]",
    ];
    assert_eq!(hear_gpt(&nameless).await.blocks, [call("", "read", "{}"), call("", "list", "{}")]);
}

#[tokio::test]
async fn fields_that_have_to_go_back_are_kept() {
    let heard = hear_gpt(&[
        r#"{"choices":[{"delta":{"reasoning":"a","reasoning_details":[{"type":"reasoning.text","text":"a","index":0}]}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"b","reasoning_details":[{"type":"reasoning.text","text":"b","index":0}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"x","arguments":"{}"},"extra_content":{"google":{"thought_signature":"T"}}}]}}]}"#,
        "[DONE]",
    ])
    .await;
    let details = json!([{"type": "reasoning.text", "text": "ab", "index": 0}]);
    let calls = json!([{"extra_content": {"google": {"thought_signature": "T"}}}]);
    assert_eq!(heard.opaque, Some(json!({"reasoning_details": details, "tool_calls": calls})));
    let reasoning = Block::Reasoning { text: "ab".to_owned(), opaque: Some(json!({"reasoning": "ab"})) };
    assert_eq!(heard.blocks[0], reasoning);
}

#[tokio::test]
async fn a_refusal_is_text_and_a_stop_reason() {
    let heard = hear_gpt(&[
        r#"{"choices":[{"delta":{"refusal":"I will not."}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        "[DONE]",
    ])
    .await;
    assert_eq!((heard.text.as_str(), heard.stop), ("I will not.", Some(StopReason::Refusal)));
}

#[tokio::test]
async fn a_stream_cut_before_its_end_is_a_reset_and_keeps_what_came() {
    let begun = claude(&[START, r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Half"}}"#]);
    let heard = hear_claude(&begun).await;
    assert_eq!((heard.text.as_str(), heard.kind(), heard.stop), ("Half", "reset", None));
    // In the middle of an event.
    let heard = hear_claude(&format!("{begun}data: {{\"type\":\"message_st")).await;
    assert_eq!((heard.text.as_str(), heard.kind()), ("Half", "reset"));

    let heard = hear_gpt(&[r#"{"choices":[{"delta":{"content":"Half"}}]}"#]).await;
    assert_eq!((heard.text.as_str(), heard.kind()), ("Half", "reset"));
    // Less than the length that the server promised.
    let head = "content-type: text/event-stream\r\ncontent-length: 9999\r\n";
    let server = Server::answering(response(200, head, &events(&[r#"{"choices":[{"delta":{"content":"Half"}}]}"#]))).await;
    let heard = hear(&openai(&server)).await;
    assert_eq!((heard.text.as_str(), heard.kind()), ("Half", "reset"));
    assert!(heard.detail().starts_with("openai at 127.0.0.1:"), "{}", heard.detail());
}

#[tokio::test]
async fn a_reason_to_finish_ends_an_answer_also_without_done() {
    let chunks =
        events(&[r#"{"choices":[{"delta":{"content":"All"}}]}"#, r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#]);
    assert_eq!(hear(&openai(&Server::answering(stream(&chunks)).await)).await.stop, Some(StopReason::EndTurn));
    // Even where the connection breaks instead of `[DONE]`.
    let head = response(200, "content-type: text/event-stream\r\ncontent-length: 9999\r\n", &chunks);
    let heard = hear(&openai(&Server::answering(head).await)).await;
    assert_eq!((heard.text.as_str(), heard.stop, heard.failure), ("All", Some(StopReason::EndTurn), None));
}

#[tokio::test]
async fn an_error_inside_of_a_stream_ends_it_by_its_kind() {
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Half"}}"#;
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let heard = hear_claude(&claude(&[START, delta, overloaded, STOP])).await;
    assert_eq!((heard.text.as_str(), heard.kind(), &heard.stop), ("Half", "overloaded", &None));
    assert!(heard.detail().ends_with("broke off: overloaded_error: Overloaded"), "{}", heard.detail());

    let heard = hear_gpt(&[r#"{"error":{"message":"Slow down","type":"rate_limit_error","code":429}}"#, "[DONE]"]).await;
    assert_eq!((heard.kind(), heard.stop), ("rate_limit", None));
    assert_eq!(hear_gpt(&[r#"{"error":"model runner has unexpectedly stopped"}"#]).await.kind(), "server");
}

#[tokio::test]
async fn what_is_no_answer_of_the_protocol_is_told_as_such() {
    for data in ["{\"choices\": nonsense", "[1]", "\"words\""] {
        let heard = hear_gpt(&[data]).await;
        assert_eq!(heard.kind(), "protocol", "{data}");
        assert!(heard.detail().contains(data), "{}", heard.detail());
    }
    assert_eq!(hear_claude("data: {\"no\": 1}\n\n").await.kind(), "protocol");
    let page = response(200, "content-type: text/html\r\n", "<html>Sign in\u{1b}[2J");
    let heard = hear(&openai(&Server::answering(page).await)).await;
    assert_eq!(heard.kind(), "protocol");
    let detail = heard.detail();
    assert!(detail.contains("`text/html`") && detail.contains("<html>Sign in\u{FFFD}[2J"), "{detail}");
}

#[tokio::test]
async fn a_server_that_ignores_that_a_stream_was_asked_for_is_understood() {
    let json = |body: &str| response(200, "content-type: application/json\r\n", body);
    let answer = r#"{"type":"message","content":[{"type":"text","text":"Hi"},{"type":"tool_use","id":"A","name":"read","input":{"a":1}}],"stop_reason":"tool_use","usage":{"input_tokens":3,"output_tokens":4}}"#;
    let heard = hear(&anthropic(&Server::answering(json(answer)).await)).await;
    assert_eq!(heard.text, "Hi");
    assert_eq!(heard.blocks, [text("Hi"), call("A", "read", r#"{"a":1}"#)]);
    assert_eq!(heard.usage.and_then(|usage| usage.input_tokens), Some(3));
    assert_eq!(heard.stop, Some(StopReason::ToolUse));

    let answer =
        r#"{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}"#;
    let heard = hear(&openai(&Server::answering(json(answer)).await)).await;
    assert_eq!((heard.text.as_str(), &heard.blocks[..], heard.stop), ("Hi", &[text("Hi")][..], Some(StopReason::EndTurn)));

    let refused = json(r#"{"error":{"message":"Overloaded","type":"overloaded_error"}}"#);
    assert_eq!(hear(&anthropic(&Server::answering(refused).await)).await.kind(), "overloaded");
    assert_eq!(hear(&openai(&Server::answering(json("{\"a\": 1}")).await)).await.kind(), "protocol");
    assert_eq!(hear(&openai(&Server::answering(json("{\"a\":")).await)).await.kind(), "protocol");
}

#[tokio::test]
async fn a_stream_that_trickles_byte_by_byte_is_the_same_stream() {
    let whole = events(&[r#"{"choices":[{"delta":{"content":"Größe 🦀"}}]}"#, "[DONE]"]).replace('\n', "\r\n");
    let mut script = vec![Step::Send(stream_head())];
    for byte in whole.bytes() {
        script.extend([Step::Send(vec![byte]), Step::Wait(Duration::from_millis(1))]);
    }
    let heard = hear(&openai(&Server::new(vec![script]).await)).await;
    assert_eq!((heard.text.as_str(), heard.stop), ("Größe 🦀", Some(StopReason::EndTurn)));
}

#[tokio::test]
async fn a_line_of_ten_megabytes_is_one_piece_and_one_of_twenty_is_refused() {
    let line = |megabytes: usize| format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(megabytes << 20));
    let heard = hear_gpt(&[&line(10), "[DONE]"]).await;
    assert_eq!((heard.text.len(), heard.stop), (10 << 20, Some(StopReason::EndTurn)));
    let heard = hear_gpt(&[&line(20), "[DONE]"]).await;
    assert_eq!((heard.text.len(), heard.kind()), (0, "protocol"));
}

#[tokio::test]
async fn a_connection_is_used_again_after_an_answer_was_read_to_its_end() {
    let body = events(&[r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, "[DONE]"]);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // The script answers the first request of a connection; the second one waits on it in vain, unless it came by a new one.
    let server = Server::new(vec![vec![Step::Send(head.into_bytes()), Step::Stall]]).await;
    let model = openai(&server);
    assert_eq!(hear(&model).await.text, "Hi");
    let clocks = Clocks { first_byte: Duration::from_millis(100), ..Clocks::default() };
    hear_within(&model, &clocks).await;
    assert_eq!(server.seen().len(), 1);
}
