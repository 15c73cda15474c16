//! What a cold session takes on the disk, and what it costs to read, beside the same session before it was made cold.
//!
//! `cargo bench -p longhand-session-store --bench cold -- FOLDER [SESSIONS]`. Needs about 300 MB there, and removes it.
//!
//! The transcripts are made up, and meant to be no easier to pack than real ones: prose is a chain of words, each drawn from those that follow the two
//! before it in this project's documents, so that no sentence is there twice by intent; code and tool output are slices of this project's own
//! sources, each taken once until all were; ids, hashes and signatures are random. Answers come in pieces of some 80
//! characters, as four a second from a model do. Times are medians of [`ROUNDS`] rounds, warm and cold in turns.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]
#![expect(clippy::disallowed_methods, reason = "the material is read from the sources, and what is measured is the real disk")]

use session_store::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 21;
const SIZES: [(&str, u64); 3] = [("200 kB", 200_000), ("2 MB", 2_000_000), ("20 MB", 20_000_000)];
const LISTED: usize = 500;
const PIECE_CHARS: usize = 80;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let folder = arguments.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let listed = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(LISTED);
    let home = tempfile::tempdir_in(&folder).expect("a folder to work in");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    println!("in {}", home.path().display());
    runtime.block_on(async {
        let mut material = Material::read();
        for (name, bytes) in SIZES {
            one_session(home.path(), name, bytes, &mut material).await;
        }
        list(home.path(), listed, &mut material).await;
    });
}

/// A clock that goes as a conversation does, not as this program.
struct Talking(AtomicI64);

impl Clock for Talking {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn open(home: &Path) -> (FileStore, Arc<Talking>) {
    let clock = Arc::new(Talking(AtomicI64::new(1_769_904_000_000)));
    let mut options = FileStoreOptions::new(home);
    options.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    (FileStore::open(options).expect("a store"), clock)
}

async fn one_session(home: &Path, name: &str, bytes: u64, material: &mut Material) {
    let home = home.join(bytes.to_string());
    let (store, clock) = open(&home);
    let log = transcript(&store, &clock, bytes, material).await;
    log.close().await.expect("closed");
    let id = log.id();
    let warm = copy_home(&home, id);
    let before = store.load(id).await.expect("loaded").state;
    let pieces = pieces_bytes(&store, id).await;

    let since = Instant::now();
    let Compressed { before: plain, after } = store.compress(id).await.expect("compressed");
    let took = since.elapsed();
    assert!(store.verify(id).await.expect("verified").ok);
    let now = store.load(id).await.expect("loaded").state;
    assert_eq!((before.context.len(), before.messages), (now.context.len(), now.messages), "what is timed is right");

    let (warm_store, _) = open(&warm);
    let (mut of_warm, mut of_cold) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_warm.push(time_load(&warm_store, id, before.messages).await);
        of_cold.push(time_load(&store, id, before.messages).await);
    }
    let (load_warm, load_cold) = (median(of_warm), median(of_cold));
    let (mut of_warm, mut of_cold) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_warm.push(time_list(&warm_store).await);
        of_cold.push(time_list(&store).await);
    }
    let (list_warm, list_cold) = (median(of_warm), median(of_cold));
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{name:>7}: {:.2} MB became {:.2} MB: {:.1}x ({:.0}% were pieces; {:.1}x without them) at {:.0} MB/s; {} messages in the context",
        mb(plain),
        mb(after),
        plain as f64 / after as f64,
        100.0 * pieces as f64 / plain as f64,
        (plain - pieces) as f64 / after as f64,
        mb(plain) / took.as_secs_f64(),
        before.context.len(),
    );
    println!("{:>9}resume: warm {load_warm:>9.1?}  cold {load_cold:>9.1?}  {:.1}x", "", ratio(load_cold, load_warm));
    println!("{:>9}list:   warm {list_warm:>9.1?}  cold {list_cold:>9.1?}  {:.1}x", "", ratio(list_cold, list_warm));
}

async fn list(home: &Path, count: usize, material: &mut Material) {
    let home = home.join("many");
    let (store, clock) = open(&home);
    let mut closing = tokio::task::JoinSet::new();
    for _ in 0..count {
        let log = transcript(&store, &clock, 20_000, material).await;
        closing.spawn(async move { log.close().await });
    }
    for closed in closing.join_all().await {
        closed.expect("closed");
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(time_list(&store).await);
    }
    let warm = median(times);
    let since = Instant::now();
    let kept =
        store.keep_cold(KeepCold { idle_for: Duration::ZERO, sessions_max: count, bytes_max: u64::MAX }).await.expect("kept");
    let took = since.elapsed();
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(time_list(&store).await);
    }
    let cold = median(times);
    assert_eq!((kept.sessions, store.list().await.expect("listed").len()), (count, count));
    println!(
        "{count} sessions of {:.0} kB: {:.1}x; {:.1?} for each; list: warm {warm:.1?}, cold {cold:.1?}, {:.1}x",
        kept.before as f64 / 1e3 / count as f64,
        kept.before as f64 / kept.after as f64,
        took / u32::try_from(count).expect("not so many"),
        ratio(cold, warm)
    );
}

async fn time_load(store: &FileStore, id: SessionId, messages: u64) -> Duration {
    let since = Instant::now();
    let loaded = store.load(id).await.expect("loaded");
    let took = since.elapsed();
    assert!(loaded.state.messages == messages && loaded.state.missing().is_empty(), "what is timed is right");
    took
}

async fn time_list(store: &FileStore) -> Duration {
    let since = Instant::now();
    let listed = store.list().await.expect("listed");
    assert!(!listed.is_empty());
    since.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

/// The same home once more.
fn copy_home(home: &Path, id: SessionId) -> PathBuf {
    let copy = home.with_extension("warm");
    let path = Path::new("sessions").join(id.relative_path()).with_extension("jsonl");
    std::fs::create_dir_all(copy.join(&path).parent().expect("a day")).expect("made");
    std::fs::copy(home.join(&path), copy.join(&path)).expect("copied");
    copy
}

async fn pieces_bytes(store: &FileStore, id: SessionId) -> u64 {
    let mut reader = store.read(id, 0).await.expect("read");
    let mut bytes = 0;
    while let Some(entry) = reader.next().await.expect("read") {
        if matches!(entry.event, Event::AssistantText(_) | Event::AssistantReasoning(_)) {
            bytes += u64::from(entry.place.len) + 1;
        }
    }
    bytes
}

/// A session of about `bytes`.
async fn transcript(store: &FileStore, clock: &Talking, bytes: u64, material: &mut Material) -> Arc<dyn SessionLog> {
    let opened = store.create(NewSession { id: None, cwd: Some("/home/ada/tide".to_owned()) }).await.expect("created");
    let mut session = Writing { log: opened.log, state: opened.state, clock, written: 0 };
    session.say(profile());
    while session.written < bytes {
        let words = material.number(60) + 5;
        session.say(UserMessage { text: material.prose(words), ..UserMessage::default() }.into());
        let calls = material.number(6);
        for round in 0..=calls {
            let has_call = round < calls;
            session.answer(material, has_call);
        }
        clock.0.fetch_add(60_000, Ordering::Relaxed);
    }
    session.log
}

struct Writing<'a> {
    log: Arc<dyn SessionLog>,
    state: State,
    clock: &'a Talking,
    written: u64,
}

impl Writing<'_> {
    fn say(&mut self, event: Event) -> Seq {
        let entry = self.log.append(event).expect("accepted");
        self.state.apply(&entry);
        self.written += u64::from(entry.place.len) + 1;
        if self.state.checkpoint_due()
            && let Some(checkpoint) = self.state.checkpoint()
        {
            let entry = self.log.append(checkpoint.into()).expect("accepted");
            self.state.apply(&entry);
        }
        entry.seq
    }

    /// An answer as it comes in, and what its tool said.
    fn answer(&mut self, material: &mut Material, has_call: bool) {
        let origin = Origin {
            provider: "anthropic".to_owned(),
            endpoint: "https://api.anthropic.com".to_owned(),
            model: "claude-sonnet-5".to_owned(),
            credential: "5e884898".to_owned(),
        };
        let request = ModelRequest {
            origin: origin.clone(),
            profile: profile_hash(),
            context: self.state.context_ranges(),
            body_sha256: material.hex(64),
            body_bytes: self.written,
            ..ModelRequest::default()
        };
        let message = self.say(request.into());
        let thought = if material.number(3) == 0 { material.prose(60) } else { String::new() };
        let words = if has_call { 20 } else { 150 };
        let code = if has_call { String::new() } else { format!("\n\n```rust\n{}```\n", material.slice(12)) };
        let text = material.prose(words) + &code;
        for (offset, piece) in pieces(&thought) {
            self.clock.0.fetch_add(250, Ordering::Relaxed);
            self.say(AssistantReasoning { message, offset, text: piece.to_owned() }.into());
        }
        for (offset, piece) in pieces(&text) {
            self.clock.0.fetch_add(250, Ordering::Relaxed);
            self.say(AssistantText { message, offset, text: piece.to_owned() }.into());
        }
        let mut blocks = Vec::new();
        if !thought.is_empty() {
            let opaque = serde_json::json!({"type": "thinking", "signature": material.hex(300)});
            blocks.push(Block::Reasoning { text: thought, opaque: Some(opaque) });
        }
        blocks.push(Block::Text { text });
        let call = format!("call_{message}_0");
        if has_call {
            let arguments = format!("{{\"path\":\"src/{}.rs\",\"offset\":{}}}", material.word(), material.number(900));
            blocks.push(Block::ToolCall(ToolCall {
                id: call.clone(),
                provider_id: format!("toolu_{}", material.hex(24)),
                name: "read".to_owned(),
                arguments,
            }));
        }
        let usage = Usage {
            input_tokens: Some(self.written / 5),
            output_tokens: Some(material.number(900) as u64),
            cache_read_tokens: Some(self.written / 6),
            ..Usage::default()
        };
        let stop = if has_call { StopReason::ToolUse } else { StopReason::EndTurn };
        self.say(AssistantMessage { message, origin, blocks, stop, partial: false, usage: Some(usage), opaque: None }.into());
        if has_call {
            self.say(ToolApproved { call: call.clone(), by: "mode".to_owned() }.into());
            self.say(ToolStarted { call: call.clone(), name: "read".to_owned(), side_effects: false }.into());
            let lines = material.number(120) + 5;
            let (name, outcome) = ("read".to_owned(), ToolOutcome::Ok);
            let duration_ms = material.number(40) as u64;
            self.say(
                ToolFinished { call, name, outcome, output: material.slice(lines), full: None, images: Vec::new(), duration_ms }
                    .into(),
            );
        } else {
            self.say(TurnEnded { reason: "done".to_owned(), error: None, model_calls: 1, usage, duration_ms: 5120 }.into());
        }
    }
}

fn pieces(text: &str) -> Vec<(u64, &str)> {
    let mut ends: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(PIECE_CHARS).collect();
    ends.push(text.len());
    ends.windows(2).map(|pair| (pair[0] as u64, &text[pair[0]..pair[1]])).collect()
}

fn profile() -> Event {
    let tool = |name: &str| ToolSpec {
        name: name.to_owned(),
        description: format!("What `{name}` does, in a few sentences, as tools are described to models."),
        parameters: serde_json::json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
    };
    Profile {
        hash: profile_hash(),
        model: "anthropic/claude-sonnet-5".to_owned(),
        system: include_str!("../../CONTRIBUTING.md").chars().take(3000).collect(),
        tools: ["read", "list", "search", "write", "edit", "shell", "todo"].map(tool).to_vec(),
        parameters: Parameters { max_output_tokens: Some(8192), ..Parameters::default() },
        projection: 1,
    }
    .into()
}

fn profile_hash() -> String {
    sha256_hex(b"the profile")
}

/// What transcripts are made of.
struct Material {
    state: u64,
    words: Vec<String>,
    /// For two words, those that follow them.
    follow: HashMap<(usize, usize), Vec<usize>>,
    last: (usize, usize),
    lines: Vec<String>,
    /// The slices of `lines` that were not taken yet: their starts.
    slices: Vec<usize>,
}

impl Material {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let prose: String = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "session-store/FORMAT.md", "CHANGELOG.md"]
            .iter()
            .map(|name| std::fs::read_to_string(root.join(name)).expect("a document"))
            .collect();
        let comments =
            |line: &str| line.trim_start().strip_prefix("//").map(|rest| rest.trim_start_matches(['/', '!', ' ']).to_owned());
        let mut lines = Vec::new();
        for part in ["session-store/src", "agent-runtime/src", "cli/src", "tests/src", "tests/tests"] {
            sources(&root.join(part), &mut lines);
        }
        let text: String = prose + &lines.iter().filter_map(|line| comments(line)).collect::<Vec<_>>().join(" ");
        let (mut words, mut known, mut chain) = (Vec::new(), HashMap::new(), Vec::new());
        for word in text.split_whitespace() {
            let number = *known.entry(word.to_owned()).or_insert_with(|| {
                words.push(word.to_owned());
                words.len() - 1
            });
            chain.push(number);
        }
        let mut follow: HashMap<_, Vec<usize>> = HashMap::new();
        for three in chain.windows(3) {
            follow.entry((three[0], three[1])).or_default().push(three[2]);
        }
        println!("material: {} words, {} of them different; {} lines of source", chain.len(), words.len(), lines.len());
        Self { state: 42, words, follow, last: (chain[0], chain[1]), lines, slices: Vec::new() }
    }

    /// A number below `end`.
    fn number(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % end.max(1)
    }

    fn word(&mut self) -> String {
        // One word in twenty starts anew, so that no long run of the documents is there twice.
        let next = match self.follow.get(&self.last).map(Vec::len) {
            Some(count) => {
                let pick = self.number(count);
                self.follow[&self.last][pick]
            }
            None => self.number(self.words.len()),
        };
        self.last = if self.number(20) == 0 { (self.number(self.words.len()), next) } else { (self.last.1, next) };
        self.words[next].clone()
    }

    fn prose(&mut self, words: usize) -> String {
        (0..words).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }

    /// Some lines of source that were not taken yet.
    fn slice(&mut self, lines: usize) -> String {
        const STEP: usize = 60;
        if self.slices.is_empty() {
            self.slices = (0..self.lines.len() / STEP).map(|slice| slice * STEP).collect();
        }
        let mut text = String::new();
        let mut left = lines;
        while left > 0 {
            let Some(count) = self.slices.len().checked_sub(1) else { break };
            let pick = self.number(count + 1);
            let start = self.slices.swap_remove(pick);
            for (number, line) in self.lines[start..start + STEP.min(left)].iter().enumerate() {
                text += &format!("{:>5}  {line}\n", start + number);
            }
            left -= STEP.min(left);
        }
        text
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(b"0123456789abcdef"[self.number(16)])).collect()
    }
}

fn sources(folder: &Path, lines: &mut Vec<String>) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, lines);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            lines.extend(std::fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned));
        }
    }
}
