//! The fault server itself, seen from a client that reads bytes: each fault is what it says it is.

use fault_server::{Answer, BlackHole, FaultServer, Flaw, Reply, Script, wait_until};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Long enough to tell silence from slowness, short enough to wait for.
const SILENCE: Duration = Duration::from_secs(1);

struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).expect("the server listens") }
    }

    fn post(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: k\r\nanthropic-version: 2023-06-01\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).expect("the server reads");
    }

    /// All that comes until the connection ends or is silent, and how it ended: `None` for silence.
    fn read(&mut self) -> (String, Option<io::Result<()>>) {
        self.stream.set_read_timeout(Some(SILENCE)).expect("a socket takes a limit");
        let mut all = Vec::new();
        let mut piece = [0; 64 << 10];
        let end = loop {
            match self.stream.read(&mut piece) {
                Ok(0) => break Some(Ok(())),
                Ok(n) => all.extend_from_slice(&piece[..n]),
                Err(silence) if silence.kind() == io::ErrorKind::WouldBlock => break None,
                Err(broken) => break Some(Err(broken)),
            }
            if all.ends_with(b"0\r\n\r\n") {
                break None;
            }
        };
        (String::from_utf8_lossy(&all).into_owned(), end)
    }
}

fn anthropic() -> Value {
    json!({"model": "m", "max_tokens": 10, "stream": true, "messages": [{"role": "user", "content": "hello"}]})
}

fn openai() -> Value {
    json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "hello"}]})
}

/// What a client sees of one answer.
fn answer(answer: Answer) -> (String, Option<io::Result<()>>) {
    let server = FaultServer::start([answer]).expect("the server starts");
    let mut client = Client::connect(server.address());
    client.post("/v1/messages", &anthropic());
    client.read()
}

#[test]
fn a_reply_is_a_whole_stream_of_each_provider() {
    let reply = Reply::reasoning("let me see").then_text("Hello there.").then_tool_call("read", r#"{"path":"a"}"#);
    let server = FaultServer::start(Script::repeating(Answer::Reply(reply))).expect("the server starts");
    let mut client = Client::connect(server.address());
    client.post("/v1/messages", &anthropic());
    let (stream, _) = client.read();
    for event in ["message_start", "thinking_delta", "signature_delta", "text_delta", "input_json_delta", "message_stop"] {
        assert!(stream.contains(event), "no {event} in {stream}");
    }
    assert!(stream.contains(r#""stop_reason":"tool_use""#), "{stream}");
    client.post("/v1/chat/completions", &openai());
    let (stream, _) = client.read();
    for piece in ["reasoning_content", r#""content":"Hello ""#, "tool_calls", "prompt_tokens", "data: [DONE]"] {
        assert!(stream.contains(piece), "no {piece} in {stream}");
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].sent_text().as_str(), requests[1].sent_text().as_str()), ("Hello there.", "Hello there."));
    assert_eq!(requests[0].connection, requests[1].connection, "a connection is kept");
}

#[test]
fn what_a_strict_service_refuses_is_refused_and_kept() {
    let server = FaultServer::start([Answer::text("fine")]).expect("the server starts");
    let mut client = Client::connect(server.address());
    let mut body = anthropic();
    body["messages"][0]["content"] = json!(" ");
    client.post("/v1/messages", &body);
    let (response, _) = client.read();
    assert!(response.starts_with("HTTP/1.1 400") && response.contains("non-whitespace"), "{response}");
    assert_eq!(server.refusals().len(), 1);
    client.post("/v1/messages", &anthropic());
    assert!(client.read().0.contains("fine"), "a refusal uses no answer up");
}

#[test]
fn a_lenient_server_takes_anything() {
    let server = FaultServer::start_lenient([Answer::text("fine")]).expect("the server starts");
    let mut client = Client::connect(server.address());
    client.post("/v1/messages", &json!({}));
    assert!(client.read().0.contains("fine"));
}

#[test]
fn silence_is_silence() {
    let (bytes, end) = answer(Answer::NeverAnswer);
    assert!(bytes.is_empty() && end.is_none(), "{bytes}");
    let (bytes, end) = answer(Answer::headers_then_nothing());
    assert!(bytes.starts_with("HTTP/1.1 200") && bytes.ends_with("\r\n\r\n") && end.is_none(), "{bytes}");
    let (bytes, end) = answer(Answer::broken("one two three", 2, Flaw::Stall));
    assert!(bytes.contains("two") && !bytes.contains("three") && end.is_none(), "{bytes}");
}

#[test]
fn a_client_that_hangs_up_is_noticed() {
    let server = FaultServer::start([Answer::NeverAnswer]).expect("the server starts");
    let mut client = Client::connect(server.address());
    client.post("/v1/messages", &anthropic());
    assert!(client.read().1.is_none());
    drop(client);
    let noticed = wait_until(Duration::from_secs(10), || server.requests()[0].hung_up);
    assert!(noticed, "the server did not notice that the client is gone");
}

#[test]
fn pings_and_nothing_else_or_an_answer_at_last() {
    let server = FaultServer::start([Answer::pings_forever(Duration::from_millis(20))]).expect("the server starts");
    let mut client = Client::connect(server.address());
    client.post("/v1/messages", &anthropic());
    let mut seen = String::new();
    while seen.matches("event: ping").count() < 5 {
        let mut piece = [0; 4096];
        let n = client.stream.read(&mut piece).expect("pings come");
        seen.push_str(&String::from_utf8_lossy(&piece[..n]));
    }
    assert!(!seen.contains("message_start"));
    let (stream, _) = answer(Answer::pings_then(3, Duration::from_millis(20), "at last"));
    assert!(stream.matches("event: ping").count() == 3 && stream.contains("last"), "{stream}");
}

#[test]
fn a_trickle_adds_up() {
    let (stream, _) = answer(Answer::trickle("one two", Duration::from_micros(10)));
    assert!(stream.contains("1\r\n{\r\n") && stream.ends_with("0\r\n\r\n"), "{stream}");
}

#[test]
fn cuts_end_the_connection_in_their_own_way() {
    let (stream, end) = answer(Answer::broken("one two three", 1, Flaw::CutMidEvent));
    assert!(stream.contains("one") && !stream.contains("two") && matches!(end, Some(Ok(()))), "{stream}");
    assert!(!stream.ends_with("0\r\n\r\n"));
    let (stream, end) = answer(Answer::broken("one two", 1, Flaw::EndEarly));
    assert!(stream.ends_with("0\r\n\r\n") && !stream.contains("message_stop") && end.is_none(), "{stream}");
    let (_, end) = answer(Answer::broken("one two", 1, Flaw::Reset));
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    let refused = FaultServer::start([Answer::Refuse]).expect("the server starts");
    let mut client = Client::connect(refused.address());
    assert!(matches!(client.read(), (bytes, Some(Err(_))) if bytes.is_empty()));
    assert!(refused.requests().is_empty());
}

#[test]
fn lies_are_told_and_the_rest_follows() {
    let (stream, _) = answer(Answer::broken("one two", 1, Flaw::MalformedJson));
    assert!(stream.contains("text_de\n\n") && stream.contains("two"), "{stream}");
    let (stream, _) = answer(Answer::broken("one two", 1, Flaw::TenMegabyteLine));
    assert!(stream.len() > 10 << 20 && stream.contains("two"));
    let kind = "overloaded_error".to_owned();
    let (stream, _) = answer(Answer::broken("one two", 1, Flaw::Error { kind, message: "Overloaded".into() }));
    assert!(stream.contains(r#""error":{"type":"overloaded_error""#), "{stream}");
    let (page, _) = answer(Answer::WrongContentType);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("text/html"), "{page}");
    let (limit, _) = answer(Answer::rate_limited(Duration::from_secs(2)));
    assert!(
        limit.starts_with("HTTP/1.1 429") && limit.contains("retry-after: 2\r\n") && limit.contains("rate_limit_error"),
        "{limit}"
    );
}

#[test]
fn a_cut_tool_call_says_that_the_limit_cut_it() {
    let (stream, _) = answer(Answer::max_tokens_inside_tool_call("I write.", "write", r#"{"path":"a","content":"b"}"#));
    assert!(stream.contains(r#""stop_reason":"max_tokens""#) && stream.contains("input_json_delta"), "{stream}");
}

#[test]
fn a_black_hole_never_completes_a_connection() {
    let hole = BlackHole::open().expect("the hole opens");
    let address: SocketAddr = hole.url().trim_start_matches("http://").parse().expect("an address");
    let refused = TcpStream::connect_timeout(&address, SILENCE).expect_err("nobody answers");
    assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn an_answer_is_the_same_in_json() {
    let answers = vec![
        Answer::broken("one", 1, Flaw::Pings { every_ms: 5 }),
        Answer::Reply(Reply::tool_call("read", "{}")),
        Answer::rate_limited(Duration::from_millis(500)),
        Answer::NeverAnswer,
    ];
    let json = serde_json::to_string(&answers).expect("answers are JSON");
    assert_eq!(serde_json::from_str::<Vec<Answer>>(&json).expect("and back"), answers);
}
