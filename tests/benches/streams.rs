//! A thousand turns that stream at the same time in one process, with the provider in another: how late anything is, and what a turn takes.
//!
//! `cargo bench -p longhand-tests --bench streams`; an argument is the number of turns. The provider sends a word to each turn every 250 ms. Beside it, in a run of
//! its own, the same answers read by a bare client that keeps nothing.
//!
//! - **stall**: how late a task was that wanted to run every 5 ms on the very threads that the turns run on;
//! - **gap**: between two words of a turn, as its reader sees them, less the pause between them; the provider's own lateness is in it, and in that of the
//!   bare client.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use agent_runtime::providers::{Endpoint, HttpClient, OpenAi};
use agent_runtime::session_store::{FileStore, FileStoreOptions};
use agent_runtime::{Clocks, EndReason, Model, ModelEvent, Runtime, Setup, TurnEvent};
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TURNS: usize = 1_000;
const WORDS: usize = 60;
const PACE: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(5);
/// Turns begin within this time, as people do.
const BEGIN_WITHIN: Duration = Duration::from_secs(2);

fn main() -> Outcome<()> {
    let turns = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(TURNS);
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!(
        "{:<26} {:>8} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "", "turns", "stall p99", "stall max", "gap p99", "gap max", "kB a turn"
    );
    for way in [Way::Bare, Way::Turns] {
        let provider = Provider::start()?;
        threads.block_on(measure(way, &provider.url, turns))?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Bare,
    Turns,
}

/// The fault server as a process of its own. It ends with this value.
struct Provider {
    child: Child,
    url: String,
}

impl Provider {
    fn start() -> Outcome<Self> {
        let words = "word ".repeat(WORDS);
        let script = format!(r#"[{{"reply": {{"parts": [{{"text": "{words}"}}], "pace_ms": {}}}}}]"#, PACE.as_millis());
        let mut command = Command::new(env!("CARGO_BIN_EXE_fault-server"));
        let mut child = command.arg("--lenient").arg(script).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("its output is piped")?).lines();
        let url =
            lines.find_map(|line| line.ok()?.strip_prefix("OPENAI_BASE_URL=").map(str::to_owned)).ok_or("it says where it is")?;
        // It prints a line for each request.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, url })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure(way: Way, url: &str, turns: usize) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(folder.path()))?));
    let model: Arc<dyn Model> = Arc::new(OpenAi::new(Endpoint::new("openai", url, "gpt-5"), HttpClient::new())?);
    // What is there once is there before: the client, the threads of the store.
    one(way, &runtime, &model, folder.path(), Duration::ZERO).await?;

    let before = memory_kb();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let ticker = tokio::spawn(tick(stopped.clone()));
    let memory = tokio::spawn(most_memory(stopped));
    let all = (0..turns).map(|number| {
        let (runtime, model, folder) = (runtime.clone(), Arc::clone(&model), folder.path().to_owned());
        let begins = BEGIN_WITHIN.mul_f64(number as f64 / turns as f64);
        tokio::spawn(async move { one(way, &runtime, &model, &folder, begins).await })
    });
    let mut gaps = Vec::new();
    for ended in join_all(all).await {
        gaps.extend(ended??);
    }
    stop.send_replace(true);
    let mut stalls = ticker.await?;
    let each = (memory.await?.saturating_sub(before)) as f64 / turns as f64;
    let name = if way == Way::Bare { "a bare client" } else { "turns (100 ms, 150 kB)" };
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let [stall, stall_max] = [0.99, 1.0].map(|q| ms(quantile(&mut stalls, q)));
    let [gap, gap_max] = [0.99, 1.0].map(|q| ms(quantile(&mut gaps, q)));
    println!("{name:<26} {turns:>8} {stall:>10} {stall_max:>10} {gap:>10} {gap_max:>10} {each:>12.1}");
    runtime.shutdown(Duration::from_secs(60)).await?;
    Ok(())
}

/// One answer, as a turn or bare; gives how much longer each pause was than the provider's.
async fn one(way: Way, runtime: &Runtime, model: &Arc<dyn Model>, folder: &Path, begins: Duration) -> Outcome<Vec<Duration>> {
    tokio::time::sleep(begins).await;
    let (mut gaps, mut last, mut length) = (Vec::with_capacity(WORDS), None, 0);
    let mut came = |bytes: usize| {
        length += bytes;
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            gaps.push(now.duration_since(last).saturating_sub(PACE));
        }
    };
    match way {
        Way::Bare => {
            let body = r#"{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
            let mut stream = model.call(bytes::Bytes::from_static(body.as_bytes()).into(), &Clocks::default()).await?;
            while let Some(event) = stream.next().await {
                if let ModelEvent::Text(text) = event? {
                    came(text.len());
                }
            }
        }
        Way::Turns => {
            let session = runtime.create(Setup::new(Arc::clone(model), folder)).await?;
            let mut turn = session.send("hello").await?;
            while let Some(event) = turn.next().await {
                if let TurnEvent::Delta(delta) = event {
                    came(delta.text.len());
                }
            }
            let outcome = turn.outcome().await;
            assert_eq!(outcome.reason, EndReason::Done, "{:?}", outcome.error);
        }
    }
    assert_eq!(length, "word ".len() * WORDS, "all of it came");
    Ok(gaps)
}

async fn tick(stopped: tokio::sync::watch::Receiver<bool>) -> Vec<Duration> {
    let mut late = Vec::new();
    while !*stopped.borrow() {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due.into()).await;
        late.push(Instant::now().saturating_duration_since(due));
    }
    late
}

async fn most_memory(stopped: tokio::sync::watch::Receiver<bool>) -> u64 {
    let mut most = 0;
    while !*stopped.borrow() {
        most = most.max(memory_kb());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    most
}

fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    memory.and_then(|memory| memory.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn quantile(samples: &mut [Duration], q: f64) -> Duration {
    samples.sort_unstable();
    samples.get(((samples.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or_default()
}
