//! What a turn costs in our own code: all but the network, the tools and the disk, at histories of 100 to 10,000 messages; the way of a
//! token from its bytes to the reader; and a stream of 200,000 tokens a second.
//!
//! `cargo bench -p longhand-agent-runtime --bench overhead`; an argument names the folder to work in (default: one in memory, where there is
//! one, because the disk is not what is measured). Each figure stands beside its reference from the same run, and ours and theirs take turns.

#![expect(clippy::disallowed_methods, reason = "a bench measures time and reads what the system says of the process")]
#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

#[path = "common/at_once.rs"]
mod at_once;
#[path = "common/figures.rs"]
mod figures;

use agent_runtime::providers::{Endpoint, HttpClient, OpenAi};
use agent_runtime::session_store::{Entry, Event, FileStore, FileStoreOptions, NewSession, Note, State, Timestamp, sha256_hex};
use agent_runtime::{EndReason, Images, Model, RequestBuilder, Runtime, TurnEvent, project, tools};
use at_once::{ANSWER, AtOnce, earlier_turns, session, setup, words};
use figures::{head, row, short};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const HISTORIES: [usize; 3] = [100, 1_000, 10_000];
const TURNS: usize = 301;
/// A context window that nothing fills.
const ENDLESS: u64 = u64::MAX / 4;
/// First tokens, and tokens of the long stream.
const FIRST_TOKENS: usize = 201;
const TOKENS: usize = 400_000;
const TOKENS_PER_SECOND: f64 = 200_000.0;
const TOO_LONG: Duration = Duration::from_secs(60);

fn main() -> Outcome<()> {
    let memory = Path::new("/dev/shm");
    let temporary = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder: PathBuf = named.map_or_else(|| temporary.path().to_path_buf(), Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        println!("{}", head());
        HISTORIES.into_iter().for_each(requests);
        for messages in HISTORIES {
            turns(&folder, messages).await?;
        }
        first_tokens(&folder).await?;
        many_tokens(&folder).await
    })
}

/// One more exchange in a history, and the request for it, beside the same request from scratch.
fn requests(messages: usize) {
    let model = AtOnce::new(ENDLESS);
    let mut state = State::default();
    let add = |state: &mut State, event: Event| state.apply(&Entry::new(state.next_seq, Timestamp::from_ms(0), event));
    add(&mut state, profile().into());
    earlier_turns(messages, 1).into_iter().for_each(|event| add(&mut state, event));
    let mut builder = RequestBuilder::new();
    builder.build(&state, &model, 8_192).expect("there is a profile");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..51 {
        let next = state.next_seq;
        earlier_turns(2, next).into_iter().for_each(|event| add(&mut state, event));
        let start = Instant::now();
        let request = builder.build(&state, &model, 8_192).expect("there is a profile");
        ours.push(start.elapsed());
        let start = Instant::now();
        let profile = state.profile.clone().expect("there is a profile");
        let hash = sha256_hex(&model.body(&project(&state, &profile, &Images::default(), model.origin(), 8_192)));
        theirs.push(start.elapsed());
        assert_eq!(request.sha256, hash, "both are the same request");
    }
    println!("{}", row(&format!("request after {messages} messages"), &mut ours, "from scratch", &mut theirs));
}

/// A whole turn of one answer from a model in this process, beside two events that the same store makes durable: no loop waits for less.
async fn turns(folder: &Path, messages: usize) -> Outcome<()> {
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(folder))?));
    let session = session(&runtime, setup(Arc::new(AtOnce::new(ENDLESS)), folder), messages).await?;
    let other = runtime.store().create(NewSession::default()).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..TURNS {
        let text = words(number);
        let start = Instant::now();
        let outcome = session.send(&text).await?.outcome().await;
        ours.push(start.elapsed());
        assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, ANSWER), "{:?}", outcome.error);
        let start = Instant::now();
        for _ in 0..2 {
            let entry = other.log.append(Note { text: text.clone() }.into())?;
            other.log.durable(entry.seq).await?;
        }
        theirs.push(start.elapsed());
    }
    assert_eq!(session.state(|state| state.undoable().count()), 0, "nothing was trimmed");
    println!("{}", row(&format!("turn after {messages} messages"), &mut ours, "two durable events", &mut theirs));
    let own = ours[TURNS / 2].saturating_sub(theirs[TURNS / 2]);
    println!("{:<44} {:>9}", "  without them (bound 300 us)", short(own));
    runtime.shutdown(TOO_LONG).await?;
    Ok(())
}

/// From the bytes of a first token on the wire to the reader of the turn, beside a bare reader of such a connection.
async fn first_tokens(folder: &Path) -> Outcome<()> {
    let (url, sent_at) = serve(|| (vec![delta(0)], [delta(1), END.to_owned()].concat())).await?;
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(folder))?));
    let session = runtime.create(setup(client(&url)?, folder)).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..FIRST_TOKENS {
        let mut turn = session.send(&words(number)).await?;
        let mut shown = None;
        while let Some(event) = turn.next().await {
            if matches!(event, TurnEvent::Delta(_)) {
                shown.get_or_insert_with(Instant::now);
            }
        }
        turn.outcome().await;
        let shown = shown.ok_or("no token was shown")?;
        ours.push(shown.saturating_duration_since(at(&sent_at)));

        let mut bare = TcpStream::connect(url.trim_start_matches("http://").trim_end_matches("/v1")).await?;
        bare.set_nodelay(true)?;
        bare.write_all(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}").await?;
        let mut bytes = vec![0; 1 << 16];
        let mut read = 0;
        while !bytes[..read].windows(5).any(|part| part == b"delta") {
            read += bare.read(&mut bytes[read..]).await?;
        }
        theirs.push(Instant::now().saturating_duration_since(at(&sent_at)));
    }
    println!("{}", row("first token, from its bytes (bound 1 ms)", &mut ours, "a bare socket", &mut theirs));
    runtime.shutdown(TOO_LONG).await?;
    Ok(())
}

/// One turn that streams as fast as it can, read as it comes, beside the bytes alone.
async fn many_tokens(folder: &Path) -> Outcome<()> {
    let stream: String = (0..TOKENS).map(delta).chain([END.to_owned()]).collect();
    let text_bytes = (0..TOKENS).map(|number| token(number).len()).sum::<usize>();
    let (url, _) = serve(move || (Vec::new(), stream.clone())).await?;
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(folder))?));
    let session = runtime.create(setup(client(&url)?, folder)).await?;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut turn = session.send("Count.").await?;
    let mut shown = 0;
    while let Some(event) = turn.next().await {
        if let TurnEvent::Delta(delta) = event {
            shown += delta.text.len();
        }
    }
    let (took, cpu) = (start.elapsed(), cpu_seconds() - cpu);
    assert_eq!(shown, text_bytes, "every token was shown");
    let per_second = TOKENS as f64 / took.as_secs_f64();
    let cores = cpu / (TOKENS as f64 / TOKENS_PER_SECOND);
    println!("{TOKENS} tokens of one turn in {}: {per_second:.0} a second", short(took));
    println!("  cores at {TOKENS_PER_SECOND:.0} a second, server included (bound 1)  {cores:.2}");
    runtime.shutdown(TOO_LONG).await?;
    Ok(())
}

/// Processor time of this process so far, all threads together; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn token(number: usize) -> &'static str {
    ["The ", "tide ", "turns ", "twice ", "a ", "day, "][number % 6]
}

fn delta(number: usize) -> String {
    let text = token(number);
    format!(
        r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"bench","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}"#
    ) + "\n\n"
}

const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// When the last first token was sent.
type SentAt = Arc<Mutex<Option<Instant>>>;

fn at(sent_at: &SentAt) -> Instant {
    sent_at.lock().ok().and_then(|at| *at).expect("a first token was sent")
}

/// A server of Chat Completions on a thread of its own: the response's head, a pause, each part of the first tokens, and the rest.
async fn serve(answer: impl Fn() -> (Vec<String>, String) + Send + 'static) -> Outcome<(String, SentAt)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}/v1", listener.local_addr()?);
    let sent_at = SentAt::default();
    let noted = Arc::clone(&sent_at);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut socket, _)) = listener.accept().await {
                let (first, rest) = answer();
                let _ = answer_one(&mut socket, &first, &rest, &noted).await;
            }
        });
    });
    Ok((url, sent_at))
}

async fn answer_one(socket: &mut TcpStream, first: &[String], rest: &str, sent_at: &SentAt) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut request = Vec::new();
    loop {
        let read = socket.read_buf(&mut request).await?;
        let text = String::from_utf8_lossy(&request);
        let length =
            text.to_ascii_lowercase().split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length.unwrap_or(0));
        if read == 0 || whole {
            break;
        }
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n").await?;
    if !first.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        *sent_at.lock().expect("nobody panics with it") = Some(Instant::now());
        socket.write_all(first.concat().as_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    socket.write_all(rest.as_bytes()).await
}

fn client(url: &str) -> Outcome<Arc<dyn Model>> {
    Ok(Arc::new(OpenAi::new(Endpoint::new("bench", url, "bench"), HttpClient::new())?))
}

fn profile() -> agent_runtime::session_store::Profile {
    agent_runtime::session_store::Profile {
        hash: String::new(),
        model: "bench/at-once".to_owned(),
        system: ANSWER.repeat(100),
        tools: tools::builtin().iter().map(|tool| tool.spec()).collect(),
        parameters: agent_runtime::session_store::Parameters::default(),
        projection: agent_runtime::PROJECTION_VERSION,
    }
    .sealed()
}
