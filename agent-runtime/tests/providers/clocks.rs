//! The five clocks, each against a server that makes it run out, with small real limits; and that letting go lets go.

use super::server::{Step, events, stream_head};
use super::*;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(150);
/// Longer than any machine takes, far shorter than a default limit.
const HUNG: Duration = Duration::from_secs(60);

const WORD: &str = r#"{"choices":[{"delta":{"content":"Hi"}}]}"#;

fn word() -> Vec<u8> {
    events(&[WORD]).into_bytes()
}

/// Hears `model` within `clocks`, checks that it neither hung nor gave up early, and that the connection was dropped.
async fn times_out(server: &Server, clocks: Clocks) -> Heard {
    let begun = Instant::now();
    let model = openai(server);
    let heard = tokio::time::timeout(HUNG, hear_within(&model, &clocks)).await.expect("the call hangs");
    assert!(begun.elapsed() >= SHORT, "{:?}: {}", begun.elapsed(), heard.detail());
    tokio::time::timeout(HUNG, server.closed(1)).await.expect("the connection is still open");
    heard
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_runs_out_the_first_byte_clock() {
    let server = Server::new(vec![vec![Step::Stall]]).await;
    let heard = times_out(&server, Clocks { first_byte: SHORT, ..Clocks::default() }).await;
    assert_eq!(heard.kind(), "first_byte_timeout");
    assert!(heard.detail().contains("0.15 s") && heard.detail().contains("the first-byte timeout"), "{}", heard.detail());
}

#[tokio::test]
async fn headers_and_then_nothing_run_out_the_idle_clock() {
    let server = Server::new(vec![vec![Step::Send(stream_head()), Step::Stall]]).await;
    assert_eq!(times_out(&server, Clocks { idle: SHORT, ..Clocks::default() }).await.kind(), "idle_timeout");
}

#[tokio::test]
async fn words_and_then_nothing_run_out_the_idle_clock_and_the_words_are_kept() {
    let server = Server::new(vec![vec![Step::Send(stream_head()), Step::Send(word()), Step::Stall]]).await;
    let heard = times_out(&server, Clocks { idle: SHORT, ..Clocks::default() }).await;
    assert_eq!((heard.text.as_str(), heard.kind()), ("Hi", "idle_timeout"));
}

#[tokio::test]
async fn pings_for_ever_run_out_the_progress_clock_and_no_other() {
    for ping in
        [": ping\n\n", "event: ping\ndata: {\"type\":\"ping\"}\n\n", "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n"]
    {
        let pings = Step::Forever(Duration::from_millis(10), ping.into());
        let server = Server::new(vec![vec![Step::Send(stream_head()), pings]]).await;
        let clocks = Clocks { idle: Duration::from_secs(5), progress: SHORT, ..Clocks::default() };
        assert_eq!(times_out(&server, clocks).await.kind(), "progress_timeout", "{ping}");
    }
}

#[tokio::test]
async fn an_answer_that_goes_on_and_on_runs_out_the_cap() {
    let server = Server::new(vec![vec![Step::Send(stream_head()), Step::Forever(Duration::from_millis(10), word())]]).await;
    let clocks = Clocks { idle: Duration::from_secs(5), progress: Duration::from_secs(5), cap: SHORT, ..Clocks::default() };
    let heard = times_out(&server, clocks).await;
    assert_eq!(heard.kind(), "cap_timeout");
    assert!(heard.text.starts_with("Hi"), "{}", heard.text);
}

#[tokio::test]
async fn waiting_for_headers_counts_as_no_progress_too() {
    let server = Server::new(vec![vec![Step::Stall]]).await;
    let clocks = Clocks { progress: SHORT, ..Clocks::default() };
    assert_eq!(times_out(&server, clocks).await.kind(), "progress_timeout");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_runs_out_the_connect_clock() {
    // A listener whose queue is full takes no more connections: their packets are dropped.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(SHORT, tokio::net::TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    let endpoint = endpoint("openai", format!("http://{address}/v1"), "gpt-5");
    let model = OpenAi::new(endpoint, HttpClient::new()).expect("a good endpoint");
    let clocks = Clocks { connect: SHORT, ..Clocks::default() };
    let heard = tokio::time::timeout(HUNG, hear_within(&model, &clocks)).await.expect("the call hangs");
    assert_eq!(heard.kind(), "connect_timeout", "{}", heard.detail());
}

#[tokio::test]
async fn a_slow_answer_that_goes_on_is_let_go_on() {
    let mut script = vec![Step::Send(stream_head())];
    for _ in 0..20 {
        script.extend([Step::Wait(Duration::from_millis(75)), Step::Send(word())]);
    }
    script.push(Step::Send(events(&["[DONE]"]).into_bytes()));
    let server = Server::new(vec![script]).await;
    // The whole takes longer than each of both limits; no gap in it does.
    let clocks = Clocks { idle: Duration::from_millis(1200), progress: Duration::from_millis(1200), ..Clocks::default() };
    let heard = hear_within(&openai(&server), &clocks).await;
    assert_eq!((heard.text.len(), heard.stop, heard.failure), (40, Some(StopReason::EndTurn), None));
}

#[tokio::test]
async fn the_clocks_stand_still_while_nobody_reads() {
    let script = vec![
        Step::Send(stream_head()),
        Step::Send(word()),
        Step::Wait(Duration::from_millis(30)),
        Step::Send(word()),
        Step::Send(events(&["[DONE]"]).into_bytes()),
    ];
    let server = Server::new(vec![script]).await;
    let model = openai(&server);
    let limit = Duration::from_secs(1);
    let clocks = Clocks { idle: limit, progress: limit, cap: limit, ..Clocks::default() };
    let mut stream = model.call(model.body(&hello()).into(), &clocks).await.expect("a stream");
    let (mut words, begun) = (0, Instant::now());
    loop {
        // Waits as a turn does: begins to read, is called away by something else, and comes back much later.
        let next = tokio::time::timeout(Duration::from_millis(1), stream.next()).await;
        match next {
            Ok(Some(Ok(ModelEvent::Text(_)))) => words += 1,
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(failure))) => panic!("{failure}"),
            Ok(None) => break,
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(words, 2);
    assert!(begun.elapsed() > limit, "the test reads too fast to show anything");
}

#[tokio::test]
async fn dropping_the_call_or_the_stream_drops_the_connection() {
    let server = Server::new(vec![vec![Step::Stall], vec![Step::Send(stream_head()), Step::Send(word()), Step::Stall]]).await;
    let model = openai(&server);
    let clocks = Clocks::default();
    let call = model.call(model.body(&hello()).into(), &clocks);
    assert!(tokio::time::timeout(SHORT, call).await.is_err(), "the server never answers");
    tokio::time::timeout(HUNG, server.closed(1)).await.expect("the connection is still open");

    let mut stream = model.call(model.body(&hello()).into(), &clocks).await.expect("a stream");
    assert_eq!(stream.next().await, Some(Ok(ModelEvent::Text("Hi".to_owned()))));
    drop(stream);
    tokio::time::timeout(HUNG, server.closed(2)).await.expect("the connection is still open");
}

#[tokio::test]
async fn the_client_is_built_off_the_runtime_and_only_once() {
    let http = HttpClient::new();
    // A limit of nothing polls once: the work is not done in the poll.
    assert!(tokio::time::timeout(Duration::ZERO, http.warm()).await.is_err(), "it was built on the runtime's thread");
    http.warm().await;
    assert!(tokio::time::timeout(Duration::ZERO, http.clone().warm()).await.is_ok(), "it was built twice");
}
