//! What it costs to go on with a session of any size, to list many, and to read a whole log.
//!
//! `cargo bench -p longhand-session-store --bench resume -- FOLDER [LARGEST]`: works in a new folder below `FOLDER` and removes that again.
//! `LARGEST` is the size of the largest session in MB: 1000, or 10000 for all of them (it must fit on the disk).
//!
//! Each resume is a process of its own, so that its peak memory is its own too; times are medians. The sessions are made as a runtime
//! makes them: turns of two model calls with streamed answers and a tool call, a context of at most [`CONTEXT_BYTES`], checkpoints where
//! they are due.

#![expect(clippy::disallowed_methods, reason = "what is measured and checked is the real disk")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use serde_json::Value;
use session_store::*;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many processes open each session.
const ROUNDS: usize = 11;
/// What the bodies in the context take at most: a trim goes down to half of it.
const CONTEXT_BYTES: u64 = 400_000;
const LISTED: usize = 10_000;
const LISTS: usize = 9;
/// The log that is read as a whole.
const WHOLE_MB: u64 = 200;
const WHOLE_ROUNDS: usize = 5;
const SIZES_KB: [u64; 4] = [100, 10_000, 1_000_000, 10_000_000];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [one, home, id, how] = &args[..]
        && one == "--one"
    {
        return open_once(Path::new(home), id.parse()?, how);
    }
    let folder = PathBuf::from(args.first().cloned().unwrap_or_else(|| std::env::temp_dir().display().to_string()));
    let largest_mb: u64 = args.get(1).map_or(Ok(1000), |text| text.parse())?;
    let home = folder.join(format!("longhand-bench-resume-{}", std::process::id()));
    std::fs::create_dir_all(&home)?;
    let outcome =
        resume(&home, largest_mb * 1000).and_then(|()| list(&home.join("many"))).and_then(|()| whole(&home.join("whole")));
    std::fs::remove_dir_all(&home)?;
    outcome
}

/// A log in the making.
struct Writer {
    file: BufWriter<File>,
    at: Place,
    state: State,
    line: Vec<u8>,
    /// The bytes of bodies in the context, about.
    context: u64,
    /// How many checkpoints there are, and their bytes.
    checkpoints: (u64, u64),
}

impl Writer {
    fn new(home: &Path, id: SessionId) -> Outcome<Self> {
        let path = path(home, id);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut log =
            Self { file, at: Place::default(), state: State::default(), line: Vec::new(), context: 0, checkpoints: (0, 0) };
        log.add(Opened { epoch: 1, writer: id.uuid(), format: 1, owner: Owner::default() })?;
        log.add(SessionStarted { session: id, cwd: Some("/home/ada/tide".to_owned()), program: "bench".to_owned() })?;
        let (model, system) = ("anthropic/claude-sonnet-5".to_owned(), prose(4_000, 0));
        log.add(
            Profile { hash: String::new(), model, system, tools: Vec::new(), parameters: Parameters::default(), projection: 1 }
                .sealed(),
        )?;
        Ok(log)
    }

    fn bytes(&self) -> u64 {
        if self.at.is_known() { self.at.end() } else { 0 }
    }

    fn add(&mut self, event: impl Into<Event>) -> Outcome<Seq> {
        let seq = self.state.next_seq;
        let mut entry = Entry::new(seq, Timestamp::from_ms(1_769_904_000_000 + seq as i64 * 40), event);
        self.line.clear();
        let crc = entry.write_line(&mut self.line, self.at.crc);
        let len = u32::try_from(self.line.len() - 1)?;
        entry.place = Place { line: self.at.line + 1, offset: self.bytes(), len, crc };
        self.at = entry.place;
        self.file.write_all(&self.line)?;
        self.state.apply(&entry);
        Ok(seq)
    }

    fn checkpoint(&mut self) -> Outcome<()> {
        if let Some(mut checkpoint) = self.state.checkpoint() {
            checkpoint.durable = self.bytes();
            let before = self.bytes();
            self.add(checkpoint)?;
            self.checkpoints.0 += 1;
            self.checkpoints.1 += self.bytes() - before;
        }
        Ok(())
    }

    /// A question, a tool call, an answer: about 10 kB.
    fn turn(&mut self, number: u64) -> Outcome<()> {
        self.add(UserMessage { text: prose(200, number), ..UserMessage::default() })?;
        let call = self.answer(number, true)?;
        self.add(ToolApproved { call: call.clone(), by: "mode".to_owned() })?;
        self.add(ToolStarted { call: call.clone(), name: "read".to_owned(), side_effects: false })?;
        let (name, output) = ("read".to_owned(), prose(4_000, number + 7));
        self.add(ToolFinished { call, name, outcome: ToolOutcome::Ok, output, full: None, images: Vec::new(), duration_ms: 3 })?;
        self.answer(number + 1, false)?;
        let (reason, usage) =
            ("done".to_owned(), Usage { input_tokens: Some(90_000), output_tokens: Some(400), ..Usage::default() });
        self.add(TurnEnded { reason, error: None, model_calls: 2, usage, duration_ms: 5_000 })?;
        self.context += 7_000;
        if self.context > CONTEXT_BYTES {
            let half = self.state.context.len() / 2;
            let removed = self.state.context[..half].iter().map(|slot| SeqRange(slot.seq, slot.seq)).collect();
            let (note, reason) = (prose(300, number), "budget".to_owned());
            self.add(ContextTrimmed { removed, note, reason, tokens_before: 0, tokens_after: 0, summary: None })?;
            self.context /= 2;
        }
        if self.state.checkpoint_due() {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn answer(&mut self, number: u64, calls: bool) -> Outcome<String> {
        let origin =
            Origin { provider: "anthropic".to_owned(), endpoint: "https://api.anthropic.com".to_owned(), ..Origin::default() };
        let (profile, body_sha256) = ("af9540f4a1b22390d3f3a612f8c79dcc".to_owned(), sha256_hex(b"the body"));
        let context = self.state.context_ranges();
        let request =
            ModelRequest { origin: origin.clone(), profile, context, body_sha256, body_bytes: 90_000, ..ModelRequest::default() };
        let message = self.add(request)?;
        let text = prose(1_200, number);
        for offset in (0..text.len()).step_by(300) {
            let piece = text.get(offset..(offset + 300).min(text.len())).unwrap_or_default().to_owned();
            self.add(AssistantText { message, offset: offset as u64, text: piece })?;
        }
        let id = format!("call_{message}_0");
        let mut blocks = vec![Block::Text { text }];
        if calls {
            let arguments = "{\"path\": \"README.md\"}".to_owned();
            blocks.push(Block::ToolCall(ToolCall {
                id: id.clone(),
                provider_id: "toolu_01A".to_owned(),
                name: "read".to_owned(),
                arguments,
            }));
        }
        let usage = Some(Usage { input_tokens: Some(90_000), output_tokens: Some(400), ..Usage::default() });
        self.add(AssistantMessage { message, origin, blocks, stop: StopReason::EndTurn, partial: false, usage, opaque: None })?;
        Ok(id)
    }

    /// Closes the session, or leaves it as after a `kill -9`.
    fn end(mut self, is_closed: bool) -> Outcome<(State, u64, (u64, u64))> {
        if is_closed {
            if self.state.closing_checkpoint_due() {
                self.checkpoint()?;
            }
            let model = self.state.profile.as_ref().map(|profile| profile.model.clone());
            let summary = Summary {
                offset: self.bytes(),
                name: None,
                title: self.state.title.clone(),
                cwd: self.state.cwd.clone(),
                model,
                created_at: self.state.created_at.unwrap_or_default(),
                updated_at: self.state.updated_at,
                messages: self.state.messages,
                usage: self.state.usage,
            };
            self.add(Closed { epoch: 1, summary: Some(Box::new(summary)) })?;
        }
        let bytes = self.bytes();
        let file = self.file.into_inner()?;
        file.sync_all()?;
        Ok((self.state, bytes, self.checkpoints))
    }
}

/// Text with the line ends and quotes of real text, another one for each `number`.
fn prose(bytes: usize, number: u64) -> String {
    const WORDS: [&str; 16] = [
        "tide",
        "turns",
        "the",
        "\"twice\"",
        "a",
        "day,\n",
        "and",
        "nobody",
        "has",
        "asked",
        "it",
        "why",
        "fn main() {",
        "}\n",
        "let x =",
        "0;",
    ];
    let mut random = fastrand::Rng::with_seed(number);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(WORDS[random.usize(..WORDS.len())]);
        text.push(' ');
    }
    text
}

fn path(home: &Path, id: SessionId) -> PathBuf {
    home.join("sessions").join(id.relative_path()).with_extension("jsonl")
}

fn make(home: &Path, bytes: u64, is_closed: bool) -> Outcome<(SessionId, State, u64, (u64, u64))> {
    let id = SessionId::new(Timestamp::from_ms(1_769_904_000_000));
    let mut log = Writer::new(home, id)?;
    let mut number = 0;
    while log.bytes() < bytes {
        log.turn(number)?;
        number += 2;
    }
    let (state, bytes, checkpoints) = log.end(is_closed)?;
    Ok((id, state, bytes, checkpoints))
}

fn resume(home: &Path, largest_kb: u64) -> Outcome<()> {
    println!("resume: medians of {ROUNDS} processes; `bare` appends as much as opening does, and syncs it");
    println!("  size of the log           open    bare    cold   load     read  peak memory  checkpoints");
    for kb in SIZES_KB.into_iter().filter(|kb| *kb <= largest_kb) {
        for (is_closed, how) in [(true, "closed"), (false, "killed")] {
            let folder = home.join("one");
            let (id, state, bytes, checkpoints) = make(&folder, kb * 1000, is_closed)?;
            let mut opened = Vec::new();
            for _ in 0..ROUNDS {
                opened.push(one(&folder, id, how, &state)?);
            }
            let cold = one(&folder, id, "cold", &state)?;
            let median = |of: fn(&Opening) -> f64| median(opened.iter().map(of).collect());
            println!(
                "  {:>9.1} MB, {how}  {:>6.2} ms {:>5.2} ms {:>5.2} ms {:>5.2} ms {:>5.0} kB  {:>6.1} MB  {:>6} ({:.0}%)",
                bytes as f64 / 1e6,
                median(|one| one.open_ms),
                median(|one| one.bare_ms),
                cold.open_ms,
                median(|one| one.load_ms),
                median(|one| one.read_kb),
                median(|one| one.memory_mb),
                checkpoints.0,
                checkpoints.1 as f64 / bytes as f64 * 100.0,
            );
            std::fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

/// What a process that opened a session says.
struct Opening {
    open_ms: f64,
    bare_ms: f64,
    load_ms: f64,
    read_kb: f64,
    memory_mb: f64,
}

fn one(home: &Path, id: SessionId, how: &str, expected: &State) -> Outcome<Opening> {
    let output =
        Command::new(std::env::current_exe()?).args(["--one", &home.display().to_string(), &id.to_string(), how]).output()?;
    let said: Value = serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let number = |name: &str| said[name].as_f64().ok_or("a number is missing");
    let right = said["messages"] == expected.messages && said["context"] == expected.context.len() && said["missing"] == 0;
    if !right {
        return Err(format!("the session was not opened as it is: {said}").into());
    }
    Ok(Opening {
        open_ms: number("open_ms")?,
        bare_ms: number("bare_ms")?,
        load_ms: number("load_ms")?,
        read_kb: number("read_kb")?,
        memory_mb: number("memory_mb")?,
    })
}

/// Opens a session in this process, and says what that took.
fn open_once(home: &Path, id: SessionId, how: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bare_ms = bare(home)?;
    if how == "cold" {
        let log = RealFs.open(&path(home, id), OpenMode::Append)?;
        log.sync_data()?;
        log.forget_cached();
    }
    let (memory, read) = (peak_kb()?, read_bytes()?);
    let store = FileStore::open(FileStoreOptions::new(home))?;
    let start = Instant::now();
    let opened = runtime.block_on(store.open(id))?;
    let open_ms = ms(start.elapsed());
    let read_kb = read_bytes()?.saturating_sub(read) as f64 / 1000.0;
    let memory_mb = peak_kb()?.saturating_sub(memory) as f64 / 1000.0;
    let start = Instant::now();
    let loaded = runtime.block_on(store.load(id))?;
    let load_ms = ms(start.elapsed());
    let said = serde_json::json!({
        "open_ms": open_ms, "bare_ms": bare_ms, "load_ms": load_ms, "read_kb": read_kb, "memory_mb": memory_mb,
        "messages": opened.state.messages, "context": loaded.state.context.len(), "missing": opened.state.missing().len(),
    });
    println!("{said}");
    if how == "killed" {
        std::process::exit(0);
    }
    runtime.block_on(opened.log.close())?;
    runtime.block_on(store.shutdown(Duration::from_secs(5)))?;
    Ok(())
}

/// An append of what opening appends, and its sync.
fn bare(home: &Path) -> Outcome<f64> {
    let mut file = File::options().append(true).create(true).open(home.join("bare"))?;
    file.write_all(&[b'x'; 300])?;
    file.sync_data()?;
    let start = Instant::now();
    file.write_all(&[b'x'; 300])?;
    file.sync_data()?;
    Ok(ms(start.elapsed()))
}

fn list(home: &Path) -> Outcome<()> {
    for number in 0..LISTED {
        // Over the days of three years.
        let id = SessionId::new(Timestamp::from_ms(1_700_000_000_000 + number as i64 * 9_000_000));
        let mut log = Writer::new(home, id)?;
        log.add(UserMessage { text: prose(200, number as u64), ..UserMessage::default() })?;
        log.answer(number as u64, false)?;
        let model = Some("anthropic/claude-sonnet-5".to_owned());
        let summary = Summary { offset: log.bytes(), title: log.state.title.clone(), model, messages: 2, ..Summary::default() };
        log.add(Closed { epoch: 1, summary: Some(Box::new(summary)) })?;
        log.file.flush()?;
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let store = FileStore::open(FileStoreOptions::new(home))?;
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let start = Instant::now();
        let list = runtime.block_on(store.list())?;
        times.push(ms(start.elapsed()));
        if list.len() != LISTED || list.iter().any(|session| session.messages != 2) {
            return Err("the list is wrong".into());
        }
    }
    println!("list of {LISTED} sessions without an index: {:.1} ms, median of {LISTS}", median(times));
    Ok(())
}

fn whole(home: &Path) -> Outcome<()> {
    let (id, state, bytes, _) = make(home, WHOLE_MB * 1_000_000, true)?;
    let text = std::fs::read(path(home, id))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let store = Arc::new(FileStore::open(FileStoreOptions::new(home))?);
    let (mut values, mut verified, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WHOLE_ROUNDS {
        let start = Instant::now();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| serde_json::from_slice::<Value>(line).is_ok()).count() as u64;
        values.push(ms(start.elapsed()));
        let start = Instant::now();
        let found = runtime.block_on(store.verify(id))?;
        verified.push(ms(start.elapsed()));
        let start = Instant::now();
        let entries = runtime.block_on(async {
            let mut reader = store.read(id, 0).await?;
            let mut entries = 0;
            while reader.next().await?.is_some() {
                entries += 1;
            }
            Ok::<u64, StoreError>(entries)
        })?;
        read.push(ms(start.elapsed()));
        if !found.ok || lines != state.next_seq || found.events != lines || entries != lines {
            return Err(format!("what was read is not what was written: {found:?}").into());
        }
    }
    let speed = |times: Vec<f64>| bytes as f64 / 1e3 / median(times);
    let (values, verified, read) = (speed(values), speed(verified), speed(read));
    println!(
        "a whole log of {:.0} MB, medians of {WHOLE_ROUNDS}; `serde_json` makes a `Value` of each line in memory",
        bytes as f64 / 1e6
    );
    println!("  serde_json {values:>6.0} MB/s");
    println!("  verify     {verified:>6.0} MB/s  {:.2}x", verified / values);
    println!("  read       {read:>6.0} MB/s  {:.2}x", read / values);
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The most memory that this process ever had; 0 where the system does not say.
fn peak_kb() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.and_then(|line| line.trim().strip_suffix("kB")).map_or(Ok(0), |kb| kb.trim().parse())?)
}

/// How much this process has read; 0 where the system does not say.
fn read_bytes() -> Outcome<u64> {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    Ok(io.lines().find_map(|line| line.strip_prefix("rchar: ")).map_or(Ok(0), str::parse)?)
}
