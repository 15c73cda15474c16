//! A server that does what a test says, byte by byte: it takes one request per connection and plays a script.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Writes these bytes.
    Send(Vec<u8>),
    /// Writes these bytes again and again, with this pause before each, for as long as the client takes them.
    Forever(Duration, Vec<u8>),
    /// Does nothing for a while.
    Wait(Duration),
    /// Keeps the connection open and silent until the client lets go of it.
    Stall,
    /// Breaks the connection: the client sees a reset.
    Reset,
}

/// What a client sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Plays script `n` to the `n`th connection, the last one to all later ones. Ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    closed: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn new(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (seen, closed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (all_seen, all_closed) = (Arc::clone(&seen), Arc::clone(&closed));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut scripts = scripts.into_iter().peekable();
            let mut script = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                script = scripts.next().unwrap_or(script);
                let (script, seen, closed) = (script.clone(), Arc::clone(&all_seen), Arc::clone(&all_closed));
                connections.spawn(async move {
                    serve(stream, script, &seen).await;
                    *closed.lock().expect("no panic holds it") += 1;
                });
            }
        });
        Self { address, seen, closed, task }
    }

    pub(crate) async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(vec![vec![Step::Send(bytes.into())]]).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic holds it").clone()
    }

    /// Returns once `count` connections ended.
    pub(crate) async fn closed(&self, count: usize) {
        while *self.closed.lock().expect("no panic holds it") < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, script: Vec<Step>, seen: &Mutex<Vec<Seen>>) {
    let Some(request) = read_request(&mut stream).await else { return };
    seen.lock().expect("no panic holds it").push(request);
    for step in script {
        let played = match step {
            Step::Send(bytes) => stream.write_all(&bytes).await.is_ok(),
            Step::Wait(pause) => {
                tokio::time::sleep(pause).await;
                true
            }
            Step::Forever(pause, bytes) => {
                while stream.write_all(&bytes).await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
                false
            }
            Step::Stall => {
                let mut byte = [0];
                stream.read(&mut byte).await.is_ok_and(|count| count > 0)
            }
            Step::Reset => {
                stream.set_zero_linger().expect("a TCP socket");
                return;
            }
        };
        if !played {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let mut seen = Seen { head: String::from_utf8_lossy(&bytes[..end]).into_owned(), body: String::new() };
            let length: usize = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                seen.body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
                return Some(seen);
            }
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

/// A whole response that ends with the connection.
pub(crate) fn response(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Because\r\nconnection: close\r\n{headers}\r\n{body}").into_bytes()
}

/// The head of a stream of events.
pub(crate) fn stream_head() -> Vec<u8> {
    response(200, "content-type: text/event-stream; charset=utf-8\r\n", "")
}

/// A whole stream of events.
pub(crate) fn stream(events: &str) -> Vec<u8> {
    response(200, "content-type: text/event-stream\r\n", events)
}

/// Events with each of `data` in one.
pub(crate) fn events(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}
