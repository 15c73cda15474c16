//! Finding: the full text search over a gigabyte of sessions, and the list of ten thousand.
//!
//! `cargo bench -p longhand-session-store --bench search -- FOLDER [MEGABYTES]`. The text is made up: words drawn by Zipf's law from a vocabulary of
//! [`VOCABULARY`] words of 2 to 12 letters, in messages of 20 to 400 words, with tool calls between; so its words are as uneven as those of people, and no phrase
//! repeats. Each figure has a check of its result beside it.

#![expect(clippy::disallowed_methods, reason = "what is measured and checked is the real disk")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use session_store::{
    AssistantMessage, Block, Closed, Entry, Event, FileStore, FileStoreOptions, Opened, Origin, Owner, Profile, SearchHit,
    SearchIndex, SearchOrder, SearchQuery, SearchRole, SessionId, SessionStarted, SessionStore, StopReason, Summary, Timestamp,
    ToolCall, ToolFinished, ToolOutcome, UserMessage,
};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

const VOCABULARY: usize = 60_000;
/// Text of a session.
const SESSION_BYTES: usize = 250_000;
const QUERIES: usize = 40;
const HITS: usize = 20;
const LISTED: usize = 10_000;
/// 2026-01-01.
const BEGIN_MS: i64 = 1_767_225_600_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A generator of numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

struct Text {
    random: Random,
    words: Vec<String>,
}

impl Text {
    fn new() -> Self {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let word = |random: &mut Random| {
            (0..2 + random.below(11)).map(|_| char::from(b'a' + random.below(26) as u8)).collect::<String>()
        };
        let words = (0..VOCABULARY).map(|_| word(&mut random)).collect();
        Self { random, words }
    }

    /// A word; the one with rank `r` about as often as `1 / r`.
    fn rank(&mut self) -> usize {
        ((VOCABULARY as f64).powf(self.random.unit()) as usize).min(VOCABULARY - 1)
    }

    fn words(&mut self, count: usize) -> String {
        let mut text = String::new();
        for number in 0..count {
            let rank = self.rank();
            text.push_str(&self.words[rank]);
            text.push_str(if number % 12 == 11 { ".\n" } else { " " });
        }
        text
    }

    fn some(&mut self) -> String {
        let count = 20 + self.random.below(380);
        self.words(count)
    }
}

/// Writes a session's log as a store would.
fn write(home: &Path, id: SessionId, at_ms: i64, events: impl IntoIterator<Item = Event>) -> Outcome<()> {
    let owner =
        Owner { pid: 1, host: "bench".into(), boot: "gone".into(), since: Timestamp::from_ms(at_ms), program: "bench".into() };
    let opened = Opened { epoch: 1, writer: id.uuid(), format: 1, owner };
    let started =
        SessionStarted { session: id, cwd: Some(format!("/src/project{}", at_ms / 1000 % 50)), program: "bench".into() };
    let first = [Event::from(opened), Event::from(started)];
    let (mut bytes, mut crc, mut seq) = (Vec::new(), 0, 0);
    let mut push = |bytes: &mut Vec<u8>, event: Event| {
        crc = Entry::new(seq, Timestamp::from_ms(at_ms + seq.cast_signed() * 7_001), event).write_line(bytes, crc);
        seq += 1;
    };
    first.into_iter().chain(events).for_each(|event| push(&mut bytes, event));
    let summary = Summary {
        offset: bytes.len() as u64,
        title: Some(format!("The session of {at_ms}")),
        cwd: Some("/src".to_owned()),
        model: Some("anthropic/claude".to_owned()),
        created_at: Timestamp::from_ms(at_ms),
        messages: 8,
        ..Summary::default()
    };
    push(&mut bytes, Closed { epoch: 1, summary: Some(Box::new(summary)) }.into());
    let path = home.join("sessions").join(id.relative_path()).with_extension("jsonl");
    std::fs::create_dir_all(path.parent().ok_or("a folder")?)?;
    Ok(std::fs::write(path, bytes)?)
}

fn id(number: usize) -> (SessionId, i64) {
    let at_ms = BEGIN_MS + number as i64 * 900_000;
    (SessionId::new(Timestamp::from_ms(at_ms)), at_ms)
}

/// One turn: a question, a call, its output, an answer.
fn turn(text: &mut Text, seq: u64, bytes: &mut usize) -> Vec<Event> {
    let (question, arguments, output, answer) = (text.some(), text.words(6), text.some(), text.some());
    *bytes += question.len() + arguments.len() + output.len() + answer.len();
    let call = ToolCall {
        id: format!("call_{seq}_0"),
        name: ["shell", "read", "edit", "search"][text.random.below(4)].to_owned(),
        arguments: format!("{{\"command\":{arguments:?}}}"),
        ..ToolCall::default()
    };
    let message = |blocks| AssistantMessage {
        message: seq,
        origin: Origin::default(),
        blocks,
        stop: StopReason::EndTurn,
        partial: false,
        usage: None,
        opaque: None,
    };
    let finished = ToolFinished {
        call: call.id.clone(),
        name: call.name.clone(),
        outcome: ToolOutcome::Ok,
        output,
        full: None,
        images: Vec::new(),
        duration_ms: 5,
    };
    vec![
        UserMessage { text: question, ..UserMessage::default() }.into(),
        message(vec![Block::ToolCall(call)]).into(),
        finished.into(),
        message(vec![Block::Text { text: answer }]).into(),
    ]
}

fn profile() -> Event {
    Profile {
        hash: String::new(),
        model: "anthropic/claude".into(),
        system: String::new(),
        tools: Vec::new(),
        parameters: session_store::Parameters::default(),
        projection: 1,
    }
    .sealed()
    .into()
}

/// The time that this process has computed: what a figure is where others use the machine, too.
fn computed() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn quantile(samples: &mut [Duration], q: f64) -> Duration {
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * q) as usize]
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum()
}

async fn find(index: &SearchIndex, store: &FileStore, query: &SearchQuery, limit: usize) -> Outcome<Vec<SearchHit>> {
    let mut hits = Vec::new();
    let mut found = |hit| {
        hits.push(hit);
        if hits.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    index.search(store, query, &mut found).await?;
    Ok(hits)
}

async fn queries(index: &SearchIndex, store: &FileStore, name: &str, queries: Vec<SearchQuery>) -> Outcome<()> {
    let (mut samples, mut hits) = (Vec::new(), 0);
    // The first one warms what the next ones share.
    let _ = find(index, store, &queries[0], HITS).await?;
    let computing = computed();
    for query in &queries {
        let before = Instant::now();
        hits += find(index, store, query, HITS).await?.len();
        samples.push(before.elapsed());
    }
    let (p50, p99) = (quantile(&mut samples, 0.5), quantile(&mut samples, 0.99));
    let computing = (computed() - computing) / u32::try_from(queries.len())?;
    let found = hits as f64 / queries.len() as f64;
    println!(
        "{name:<28} p50 {p50:?}  p99 {p99:?}  computing {computing:?}  ({found:.1} findings each, with snippets; goal 50 ms)"
    );
    Ok(())
}

async fn search(folder: &Path, megabytes: usize) -> Outcome<()> {
    let home = folder.join("search");
    let mut text = Text::new();
    let (mut bytes, mut count) = (0, 0);
    let mut samples = Vec::new();
    while bytes < megabytes * 1_000_000 {
        let (id, at_ms) = id(count);
        let (mut events, begin) = (vec![profile()], bytes);
        while bytes - begin < SESSION_BYTES {
            let seq = events.len() as u64 + 2;
            events.extend(turn(&mut text, seq, &mut bytes));
        }
        if count % 50 == 0
            && let Some(Event::UserMessage(user)) = events.get(1)
        {
            samples.push((id, user.text.clone()));
        }
        write(&home, id, at_ms, events)?;
        count += 1;
    }
    let store = FileStore::open(FileStoreOptions::new(&home))?;
    let index = SearchIndex::new(&home);
    let sessions = store.list().await?;
    let (before, computing) = (Instant::now(), computed());
    let refreshed = index.refresh(&store, &sessions, &mut |_| {}).await?;
    let (took, computing) = (before.elapsed(), computed() - computing);
    let size = folder_bytes(&home.join("index"));
    println!("text                         {:.0} MB in {count} sessions, {} messages", bytes as f64 / 1e6, refreshed.added);
    println!(
        "index made                   {took:.1?}, computing {computing:.1?}, {:.1} MB/s; {:.0} MB, {:.2} of the text",
        bytes as f64 / 1e6 / took.as_secs_f64(),
        size as f64 / 1e6,
        size as f64 / bytes as f64
    );
    let before = Instant::now();
    index.refresh(&store, &sessions, &mut |_| {}).await?;
    println!("refresh, nothing new         {:?}", before.elapsed());
    let mut one_turn = Vec::new();
    for (id, _) in samples.iter().take(10) {
        let session = store.open(*id).await?;
        for event in turn(&mut text, 1, &mut bytes) {
            session.log.append(event)?;
        }
        session.log.close().await?;
        let sessions = store.list().await?;
        let before = Instant::now();
        assert_eq!(index.refresh(&store, &sessions, &mut |_| {}).await?.added, 4, "the turn, and only it");
        one_turn.push(before.elapsed());
    }
    println!("refresh after one turn       median {:?}, without the list", quantile(&mut one_turn, 0.5));

    let parse = SearchQuery::parse;
    let vocabulary = text.words.clone();
    let of_rank = |rank: usize| vocabulary[rank].as_str();
    queries(&index, &store, "a rare word", (0..QUERIES).map(|n| parse(of_rank(50_000 + n * 7))).collect()).await?;
    queries(&index, &store, "a common word", (0..QUERIES).map(|n| parse(of_rank(1 + n))).collect()).await?;
    queries(
        &index,
        &store,
        "two common words",
        (0..QUERIES).map(|n| parse(&format!("{} {}", of_rank(1 + n), of_rank(60 + n)))).collect(),
    )
    .await?;
    let phrases = samples.iter().cycle().take(QUERIES);
    let phrases: Vec<SearchQuery> = phrases
        .map(|(_, text)| {
            SearchQuery::default().and_phrase(&text.split_whitespace().skip(5).take(3).collect::<Vec<_>>().join(" "))
        })
        .collect();
    queries(&index, &store, "a phrase of three words", phrases).await?;
    let start = |rank: usize, letters: usize| parse(&format!("{}*", of_rank(rank).get(..letters).unwrap_or(of_rank(rank))));
    queries(&index, &store, "the start of a word, 3", (0..QUERIES).map(|n| start(2000 + n * 11, 3)).collect()).await?;
    queries(&index, &store, "the start of a word, 1", (0..QUERIES).map(|n| start(2000 + n * 11, 1)).collect()).await?;
    let filtered = |n: usize| {
        let mut query = parse(of_rank(1 + n));
        query.roles = vec![SearchRole::Tool];
        query.tool = Some("edit".into());
        query.folders = vec![format!("/src/project{}", n % 50)];
        query
    };
    queries(&index, &store, "common, tool and folder", (0..QUERIES).map(filtered).collect()).await?;
    let nothing = |n: usize| {
        let mut query = parse(of_rank(1 + n));
        query.roles = vec![SearchRole::User];
        query.tool = Some("edit".into());
        query
    };
    queries(&index, &store, "common, filters that exclude", (0..QUERIES).map(nothing).collect()).await?;
    let best = |rank: usize| {
        let mut query = parse(of_rank(rank));
        query.order = SearchOrder::Best;
        query
    };
    queries(&index, &store, "a rare word, best first", (0..QUERIES).map(|n| best(5_000 + n * 7)).collect()).await?;
    queries(&index, &store, "a common word, best first", (0..QUERIES).map(|n| best(1 + n)).collect()).await?;
    store.shutdown(Duration::from_secs(60)).await?;
    Ok(std::fs::remove_dir_all(&home)?)
}

async fn list(folder: &Path) -> Outcome<()> {
    let home = folder.join("list");
    let mut text = Text::new();
    for number in 0..LISTED {
        let (id, at_ms) = id(number);
        let mut bytes = 0;
        let mut events = vec![profile()];
        for seq in [3, 7] {
            events.extend(turn(&mut text, seq, &mut bytes));
        }
        write(&home, id, at_ms, events)?;
    }
    let (mut samples, mut busy) = (Vec::new(), Vec::new());
    for round in 0..7 {
        let store = FileStore::open(FileStoreOptions::new(&home))?;
        let (before, computing) = (Instant::now(), computed());
        let sessions = store.list().await?;
        samples.push(before.elapsed());
        busy.push(computed() - computing);
        assert_eq!(sessions.len(), LISTED);
        if round == 0 {
            println!("list of {LISTED}, no index      {:?}, computing {:?} (goal 150 ms), writing one", samples[0], busy[0]);
            samples.clear();
            busy.clear();
        }
    }
    println!(
        "list of {LISTED}, with an index median {:?}, computing {:?} (goal 20 ms)",
        quantile(&mut samples, 0.5),
        quantile(&mut busy, 0.5)
    );
    Ok(std::fs::remove_dir_all(&home)?)
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let temporary = tempfile::tempdir()?;
    let folder = args.first().map_or(temporary.path(), Path::new);
    let megabytes = args.get(1).map_or(Ok(1000), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        list(folder).await?;
        search(folder, megabytes).await
    })
}
