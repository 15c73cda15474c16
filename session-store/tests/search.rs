//! The full text search from outside: real logs, a real index, and what becomes of it when it is damaged, killed or old.

#![expect(clippy::disallowed_methods, reason = "what is checked is the real disk")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps, in its helpers too")]

use proptest::prelude::*;
use session_store::{
    AssistantMessage, AssistantText, Block, Clock, Event, FileStore, FileStoreOptions, ModelRequest, NewSession, Origin, Profile,
    Refreshed, SearchError, SearchHit, SearchIndex, SearchOrder, SearchQuery, SearchRole, SessionId, SessionStore, StopReason,
    Timestamp, ToolCall, ToolFinished, ToolOutcome, UserMessage, scan,
};
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

fn store(home: &Path) -> FileStore {
    FileStore::open(FileStoreOptions::new(home)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn user(text: &str) -> Event {
    UserMessage { text: text.to_owned(), ..UserMessage::default() }.into()
}

fn profile(model: &str) -> Event {
    Profile {
        hash: String::new(),
        model: model.to_owned(),
        system: "unseen".to_owned(),
        tools: Vec::new(),
        parameters: session_store::Parameters::default(),
        projection: 1,
    }
    .sealed()
    .into()
}

fn request() -> Event {
    ModelRequest { ..ModelRequest::default() }.into()
}

fn piece(message: u64, text: &str) -> Event {
    AssistantText { message, offset: 0, text: text.to_owned() }.into()
}

fn answer(message: u64, blocks: Vec<Block>) -> Event {
    AssistantMessage {
        message,
        origin: Origin::default(),
        blocks,
        stop: StopReason::EndTurn,
        partial: false,
        usage: None,
        opaque: None,
    }
    .into()
}

fn result(name: &str, output: &str) -> Event {
    ToolFinished {
        call: "call".to_owned(),
        name: name.to_owned(),
        outcome: ToolOutcome::Ok,
        output: output.to_owned(),
        full: None,
        images: Vec::new(),
        duration_ms: 1,
    }
    .into()
}

/// Writes a session.
async fn write(store: &FileStore, cwd: &str, events: Vec<Event>) -> SessionId {
    let session = store.create(NewSession { id: None, cwd: Some(cwd.to_owned()) }).await.unwrap();
    for event in events {
        session.log.append(event).unwrap();
    }
    session.log.close().await.unwrap();
    session.log.id()
}

async fn go_on(store: &FileStore, id: SessionId, events: Vec<Event>) {
    let session = store.open(id).await.unwrap();
    for event in events {
        session.log.append(event).unwrap();
    }
    session.log.close().await.unwrap();
}

async fn refresh(store: &FileStore, index: &SearchIndex) -> Refreshed {
    index.refresh(store, &store.list().await.unwrap(), &mut |_| {}).await.unwrap()
}

async fn search(store: &FileStore, index: &SearchIndex, query: &SearchQuery) -> Vec<SearchHit> {
    let mut hits = Vec::new();
    let mut found = |hit| {
        hits.push(hit);
        ControlFlow::Continue(())
    };
    index.search(store, query, &mut found).await.unwrap();
    hits
}

async fn scanned(store: &FileStore, query: &SearchQuery) -> Vec<SearchHit> {
    let mut hits = Vec::new();
    let mut found = |hit| {
        hits.push(hit);
        ControlFlow::Continue(())
    };
    let unread = scan(store, &store.list().await.unwrap(), query, &mut found).await;
    assert!(unread.is_empty(), "{unread:?}");
    hits
}

async fn count(store: &FileStore, index: &SearchIndex, query: &str) -> usize {
    search(store, index, &SearchQuery::parse(query)).await.len()
}

fn as_set(hits: &[SearchHit]) -> BTreeSet<String> {
    let set: BTreeSet<String> = hits.iter().map(|hit| serde_json::to_string(hit).unwrap()).collect();
    assert_eq!(set.len(), hits.len(), "nothing is found twice");
    set
}

const WORDS: [&str; 12] =
    ["alpha", "Beta", "gamma", "gam", "日本語", "本", "béta", "main.rs", "\"quoted\"", "it's", "\n", "🌊 wave"];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&WORDS[..]), 0..6).prop_map(|words| words.join(" "))
}

/// What happens in a session; the `seq` of the request that an answer names is filled in when it is written.
#[derive(Clone, Debug)]
enum Step {
    User(String),
    Answer { pieces: String, whole: Option<(String, String)> },
    Call(&'static str, String),
    Result(&'static str, String),
    Model(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let tool = || prop::sample::select(vec!["shell", "read"]);
    prop_oneof![
        text().prop_map(Step::User),
        (text(), prop::option::of((text(), text()))).prop_map(|(pieces, whole)| Step::Answer { pieces, whole }),
        (tool(), text()).prop_map(|(tool, text)| Step::Call(tool, text)),
        (tool(), text()).prop_map(|(tool, text)| Step::Result(tool, text)),
        prop::sample::select(vec!["offline", "anthropic/claude"]).prop_map(Step::Model),
    ]
}

async fn take_steps(store: &FileStore, id: SessionId, steps: &[Step]) {
    let session = store.open(id).await.unwrap();
    let append = |event: Event| session.log.append(event).unwrap().seq;
    for step in steps {
        match step {
            Step::User(text) => drop(append(user(text))),
            Step::Answer { pieces, whole } => {
                let message = append(request());
                append(piece(message, pieces));
                if let Some((text, reasoning)) = whole {
                    let reasoning = Block::Reasoning { text: reasoning.clone(), opaque: None };
                    append(answer(message, vec![reasoning, Block::Text { text: text.clone() }]));
                }
            }
            Step::Call(tool, text) => {
                let arguments = serde_json::json!({"command": text, "count": 3}).to_string();
                let call = ToolCall { id: "call".into(), provider_id: String::new(), name: (*tool).to_owned(), arguments };
                let message = append(request());
                append(answer(message, vec![Block::ToolCall(call)]));
            }
            Step::Result(tool, text) => drop(append(result(tool, text))),
            Step::Model(model) => drop(append(profile(model))),
        }
    }
    session.log.close().await.unwrap();
}

fn query() -> impl Strategy<Value = SearchQuery> {
    let term = prop::sample::select(vec![
        "alpha",
        "beta",
        "gam",
        "gam*",
        "\"alpha beta\"",
        "-gamma",
        "本",
        "日本",
        "main.rs",
        "-\"beta alpha\"",
        "wave",
        "\"main r\"*",
        "command",
    ]);
    let roles = prop::sample::subsequence(SearchRole::ALL.to_vec(), 0..2);
    let tool = prop::option::weighted(0.2, prop::sample::select(vec!["shell", "READ", "none"]));
    let model = prop::option::weighted(0.2, prop::sample::select(vec!["claude", "anthropic", "offline", "anthropic/claude"]));
    let folder = prop::option::weighted(0.2, prop::sample::select(vec!["/src", "/src/a/", "/", "/other"]));
    (prop::collection::vec(term, 0..4), roles, tool, model, folder).prop_map(|(terms, roles, tool, model, folder)| {
        let mut query = SearchQuery::parse(&terms.join(" "));
        query.roles = roles;
        query.tool = tool.map(str::to_owned);
        query.model = model.map(str::to_owned);
        query.folders = folder.map(str::to_owned).into_iter().collect();
        query
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Whatever was said, and in however many refreshes it came into the index.
    #[test]
    fn the_index_finds_what_a_plain_scan_finds(
        sessions in prop::collection::vec(prop::collection::vec(prop::collection::vec(step(), 0..6), 1..4), 1..4),
        queries in prop::collection::vec(query(), 12),
    ) {
        let home = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let store = store(home.path());
            let index = SearchIndex::new(home.path());
            let mut ids = Vec::new();
            for folder in ["/src/a", "/src/ab", "/other"].iter().take(sessions.len()) {
                ids.push(write(&store, folder, Vec::new()).await);
            }
            for round in 0..3 {
                for (id, rounds) in ids.iter().zip(&sessions) {
                    if let Some(steps) = rounds.get(round) {
                        take_steps(&store, *id, steps).await;
                    }
                }
                refresh(&store, &index).await;
            }
            for query in queries {
                let (found, scanned) = (search(&store, &index, &query).await, scanned(&store, &query).await);
                assert_eq!(as_set(&found), as_set(&scanned), "{query:?}");
                let mut by_rank = query.clone();
                by_rank.order = SearchOrder::Best;
                let best = search(&store, &index, &by_rank).await;
                assert_eq!(as_set(&best), as_set(&scanned), "{query:?}");
            }
        });
    }
}

/// A clock that a test moves.
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.0.load(Ordering::Relaxed))
    }
}

fn store_at(home: &Path, clock: &Arc<Hands>) -> FileStore {
    let mut options = FileStoreOptions::new(home);
    options.clock = Arc::clone(clock) as Arc<dyn Clock>;
    FileStore::open(options).unwrap()
}

#[test]
fn the_newest_come_first_and_a_date_is_a_filter() {
    const DAY_MS: i64 = 86_400_000;
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Arc::new(Hands(AtomicI64::new(DAY_MS)));
        let (store, index) = (store_at(home.path(), &clock), SearchIndex::new(home.path()));
        let old = write(&store, "/a", vec![user("fox one")]).await;
        clock.0.store(2 * DAY_MS, Ordering::Relaxed);
        let new = write(&store, "/a", vec![user("fox two")]).await;
        refresh(&store, &index).await;
        clock.0.store(3 * DAY_MS, Ordering::Relaxed);
        go_on(&store, old, vec![user("fox three")]).await;
        refresh(&store, &index).await;
        let found = |query: SearchQuery| {
            let (store, index) = (&store, &index);
            async move {
                search(store, index, &query).await.into_iter().map(|hit| (hit.session, hit.snippet.text)).collect::<Vec<_>>()
            }
        };
        let all = [(old, "fox three".to_owned()), (new, "fox two".to_owned()), (old, "fox one".to_owned())];
        assert_eq!(found(SearchQuery::parse("fox")).await, all);
        let mut since = SearchQuery::parse("fox");
        since.since = Some(Timestamp::from_ms(2 * DAY_MS));
        assert_eq!(found(since.clone()).await, all[..2]);
        since.until = since.since;
        assert_eq!(found(since).await, all[1..2]);
    });
}

#[test]
fn messages_of_one_moment_are_all_found() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = store_at(home.path(), &Arc::new(Hands(AtomicI64::new(1_000_000))));
        let index = SearchIndex::new(home.path());
        for _ in 0..3 {
            write(&store, "/a", (0..200).map(|number| user(&format!("fox {number}"))).collect()).await;
            refresh(&store, &index).await;
        }
        assert_eq!(count(&store, &index, "fox").await, 600);
        let mut day = SearchQuery::parse("fox 7");
        day.until = Some(Timestamp::from_ms(1_000_000));
        assert_eq!(search(&store, &index, &day).await.len(), 3);
    });
}

#[test]
fn the_start_of_a_word_is_found_whether_it_is_in_most_messages_or_in_one() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = store(home.path());
        let mut said = vec![user("a zebra at dawn")];
        said.extend((0..400).map(|number| user(&format!("the tide of day {number}"))));
        write(&store, "/a", said).await;
        let index = SearchIndex::new(home.path());
        refresh(&store, &index).await;
        let finds = async |text: &str| search(&store, &index, &SearchQuery::parse(text)).await;
        assert_eq!(finds("ti*").await.len(), 400);
        assert_eq!(finds("ze*").await.len(), 1);
        assert_eq!(finds("t* \"day 39\"*").await.len(), 11);
        assert_eq!(finds("\"zebra at d\"*").await.len(), 1);
        assert_eq!(finds("a* -ti*").await.len(), 1);
        for text in ["t*", "z*", "d* t*", "tide -z*"] {
            let query = SearchQuery::parse(text);
            assert_eq!(as_set(&finds(text).await), as_set(&scanned(&store, &query).await), "{text}");
        }
    });
}

#[test]
fn the_best_are_looked_for_among_the_newest_and_then_among_the_others() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = store(home.path());
        let mut said = vec![user("tide tide tide")];
        said.extend((0..5200).map(|number| user(if number == 5000 { "tide tide" } else { "the tide at noon" })));
        write(&store, "/a", said).await;
        let index = SearchIndex::new(home.path());
        refresh(&store, &index).await;
        let mut query = SearchQuery::parse("tide");
        query.order = SearchOrder::Best;
        let found: Vec<u64> = search(&store, &index, &query).await.iter().map(|hit| hit.seq).collect();
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 5201, "each of them");
        assert_eq!(found.len(), 5201, "once");
        assert_eq!(found[0], 5003, "the best of the newest");
        assert_eq!(found[5000], 2, "and then the best of the others");
    });
}

#[test]
fn a_refresh_reads_only_what_is_new() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        let id = write(&store, "/a", vec![user("one fox"), user("two foxes")]).await;
        assert_eq!(refresh(&store, &index).await.added, 2);
        assert_eq!(refresh(&store, &index).await.added, 0);
        go_on(&store, id, vec![user("three fox")]).await;
        assert_eq!(refresh(&store, &index).await.added, 1);
        assert_eq!(count(&store, &index, "fox*").await, 3);
    });
}

#[test]
fn an_answer_that_is_coming_in_is_found_once_it_is_whole() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        let session = store.create(NewSession::default()).await.unwrap();
        session.log.append(user("fox")).unwrap();
        let message = session.log.append(request()).unwrap().seq;
        session.log.append(piece(message, "the fox is")).unwrap();
        session.log.flush().await.unwrap();
        refresh(&store, &index).await;
        assert_eq!(count(&store, &index, "fox").await, 1);
        session.log.append(answer(message, vec![Block::Text { text: "the fox is red".to_owned() }])).unwrap();
        session.log.flush().await.unwrap();
        refresh(&store, &index).await;
        assert_eq!(count(&store, &index, "fox").await, 2);
        session.log.close().await.unwrap();
    });
}

#[test]
fn a_session_that_is_gone_or_another_is_no_longer_found_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        let replaced = write(&store, "/a", vec![user("red fox")]).await;
        let removed = write(&store, "/a", vec![user("red hen")]).await;
        let other = write(&store, "/a", vec![user("blue fox"), user("and more of it, so that it is longer")]).await;
        refresh(&store, &index).await;
        store.remove(removed).await.unwrap();
        fs::copy(log(home.path(), other), log(home.path(), replaced)).unwrap();
        assert_eq!(count(&store, &index, "red").await, 0, "what is not in the log is not shown, before any refresh");
        assert_eq!(refresh(&store, &index).await.removed, 1);
        assert_eq!(count(&store, &index, "blue").await, 2);
        assert_eq!(count(&store, &index, "red").await, 0);
        // Shorter than it was.
        fs::write(log(home.path(), other), fs::read(log(home.path(), replaced)).unwrap().split_at(400).0).unwrap();
        refresh(&store, &index).await;
        assert_eq!(count(&store, &index, "blue").await, 1);
    });
}

fn log(home: &Path, id: SessionId) -> PathBuf {
    home.join("sessions").join(id.relative_path()).with_extension("jsonl")
}

#[test]
fn the_index_is_its_owners_alone() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        write(&store, "/a", vec![user("fox")]).await;
        refresh(&store, &index).await;
        // SQLite's side files are there while somebody has the index open.
        let open = rusqlite::Connection::open(index.path()).unwrap();
        open.execute_batch("BEGIN IMMEDIATE; UPDATE session SET bytes = 1; COMMIT").unwrap();
        let folder = home.path().join("index");
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let modes: Vec<u32> =
            fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().permissions().mode() & 0o777).collect();
        assert!(modes.len() >= 3 && modes.iter().all(|mode| *mode == 0o600), "{modes:?}");
    });
}

/// A home with some sessions and their index.
async fn indexed(home: &Path) -> (FileStore, SearchIndex) {
    let (store, index) = (store(home), SearchIndex::new(home));
    for session in 0..20 {
        let say = |message: i32| user(&format!("fox number {message} of session {session}: {}", "lorem ipsum ".repeat(40)));
        write(&store, "/a", (0..30).map(say).collect()).await;
    }
    refresh(&store, &index).await;
    (store, index)
}

async fn is_whole(store: &FileStore, index: &SearchIndex) {
    for text in ["\"number 7\"", "\"number 7\" -\"session 3\"", "\"number 7\" lor*"] {
        let query = SearchQuery::parse(text);
        assert_eq!(as_set(&search(store, index, &query).await), as_set(&scanned(store, &query).await), "{text}");
    }
}

#[test]
fn an_index_that_is_cut_foreign_or_of_another_version_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = indexed(home.path()).await;
        let sound = fs::read(index.path()).unwrap();
        let other_version = |path: &Path| {
            let database = rusqlite::Connection::open(path).unwrap();
            database.pragma_update(None, "user_version", 99).unwrap();
        };
        let another_schema = |path: &Path| {
            let database = rusqlite::Connection::open(path).unwrap();
            database.execute_batch("DROP TABLE message; CREATE TABLE message(id INTEGER PRIMARY KEY)").unwrap();
        };
        let damages: [&dyn Fn(&Path); 6] = [
            &|path| fs::write(path, "no database at all, but long enough to look like one ".repeat(100)).unwrap(),
            &|path| fs::write(path, &sound[..sound.len() / 2]).unwrap(),
            &|path| fs::write(path, &sound[..100]).unwrap(),
            &other_version,
            &another_schema,
            &|path| fs::write(path, "").unwrap(),
        ];
        for (number, damage) in damages.iter().enumerate() {
            damage(&index.path());
            let rebuilt = refresh(&store, &index).await;
            if rebuilt.rebuilt.is_none() {
                // Seen by who searches, then.
                let found = index.search(&store, &SearchQuery::parse("fox"), &mut |_| ControlFlow::Continue(())).await;
                if found.is_err() {
                    index.remove().await.unwrap();
                    refresh(&store, &index).await;
                }
            }
            is_whole(&store, &index).await;
            assert!(fs::metadata(index.path()).unwrap().len() > 10_000, "{number}");
        }
    });
}

#[test]
fn an_index_that_was_deleted_and_is_being_made_anew_is_not_taken_for_all_there_is() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = indexed(home.path()).await;
        let query = SearchQuery::parse("fox");
        let mut found = 0;
        let mut count = |_| {
            found += 1;
            ControlFlow::Continue(())
        };
        let refreshed = refresh(&store, &index).await;
        index.of(&refreshed).search(&store, &query, &mut count).await.unwrap();
        index.remove().await.unwrap();
        // Another process has just begun.
        SearchIndex::new(home.path()).refresh(&store, &[], &mut |_| {}).await.unwrap();
        let too_little = index.of(&refreshed).search(&store, &query, &mut count).await;
        assert!(matches!(too_little, Err(SearchError::Unavailable { .. })), "{too_little:?}");
        let refreshed = refresh(&store, &index).await;
        index.of(&refreshed).search(&store, &query, &mut count).await.unwrap();
        assert_eq!(found, 2 * 20 * 30);
    });
}

#[test]
fn bytes_that_flip_in_the_index_never_show_what_is_not_there() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = indexed(home.path()).await;
        let sound = fs::read(index.path()).unwrap();
        let query = SearchQuery::parse("fox 7");
        let truth = as_set(&scanned(&store, &query).await);
        let mut random = 42_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap()
        };
        for _ in 0..60 {
            let mut damaged = sound.clone();
            for _ in 0..1 + next() % 20 {
                let at = next() % damaged.len();
                damaged[at] ^= 1 << (next() % 8);
            }
            fs::write(index.path(), &damaged).unwrap();
            // A refresh works, or makes it anew; then a search works, or says that the index is damaged.
            refresh(&store, &index).await;
            let mut hits = Vec::new();
            let mut found = |hit| {
                hits.push(hit);
                ControlFlow::Continue(())
            };
            if let Err(error) = index.search(&store, &query, &mut found).await {
                assert!(matches!(error, session_store::SearchError::Damaged(_)), "{error:?}");
            }
            assert!(hits.iter().all(|hit| truth.contains(&serde_json::to_string(hit).unwrap())));
        }
    });
}

#[test]
fn an_index_that_cannot_be_made_is_told_and_a_scan_finds_the_same() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        write(&store, "/a", vec![user("fox")]).await;
        fs::write(home.path().join("index"), "in the way").unwrap();
        let refreshed = index.refresh(&store, &store.list().await.unwrap(), &mut |_| {}).await;
        assert!(matches!(refreshed, Err(session_store::SearchError::Unavailable { .. })), "{refreshed:?}");
        assert_eq!(scanned(&store, &SearchQuery::parse("fox")).await.len(), 1);
    });
}

#[test]
fn a_search_ends_when_it_is_told_to() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = indexed(home.path()).await;
        let mut hits = 0;
        let mut found = |_| {
            hits += 1;
            if hits == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        index.search(&store, &SearchQuery::parse("fox"), &mut found).await.unwrap();
        assert_eq!(hits, 100);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn every_text_is_a_query(texts in prop::collection::vec("\\PC*|[-\"*()^:+{}\\\\ a-zORNDT]*", 40)) {
        let home = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
            write(&store, "/a", vec![user("OR NOT AND near fox \u{0} rank words line")]).await;
            refresh(&store, &index).await;
            for text in texts.into_iter().chain(["a ".repeat(5000), "\"".to_owned() + &"b ".repeat(5000), "-c ".repeat(5000)]) {
                for query in [SearchQuery::parse(&text), SearchQuery::parse(&text).as_typed(), SearchQuery::default().and_phrase(&text)] {
                    assert_eq!(as_set(&search(&store, &index, &query).await), as_set(&scanned(&store, &query).await), "{text}");
                }
            }
        });
    }
}

/// The other process of the tests below: refreshes the index of the home in its environment, and does nothing as a test.
#[test]
fn child_that_refreshes() {
    let Some(home) = std::env::var_os("SEARCH_TEST_HOME").map(PathBuf::from) else { return };
    runtime().block_on(async {
        let (store, index) = (store(&home), SearchIndex::new(&home));
        refresh(&store, &index).await;
    });
}

fn child(home: &Path) -> std::process::Child {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_refreshes", "--quiet"]).env("SEARCH_TEST_HOME", home);
    command.stdout(std::process::Stdio::null()).spawn().unwrap()
}

/// Sessions enough for a refresh of some batches.
async fn write_many(store: &FileStore) {
    for session in 0..30 {
        let say = |message: i32| user(&format!("fox number {message} of session {session}: {}", "lorem ipsum ".repeat(1000)));
        write(store, "/a", (0..30).map(say).collect()).await;
    }
}

#[test]
fn a_refresh_that_was_killed_is_gone_on_with() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        write_many(&store).await;
        for round in 0..6_u64 {
            let mut child = child(home.path());
            // Wherever it is by then; any place is right.
            tokio::time::sleep(Duration::from_millis(40 + 60 * round)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(refresh(&store, &index).await.rebuilt, None);
        is_whole(&store, &index).await;
    });
}

#[test]
fn a_refresh_that_is_dropped_is_gone_on_with() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        write_many(&store).await;
        let sessions = store.list().await.unwrap();
        for round in 0..4_u64 {
            let some = Duration::from_millis(20 + 40 * round);
            let _ = tokio::time::timeout(some, index.refresh(&store, &sessions, &mut |_| {})).await;
        }
        // What was dropped may still write its last batch.
        while refresh(&store, &index).await.is_busy {}
        is_whole(&store, &index).await;
    });
}

#[test]
fn processes_that_refresh_at_once_do_not_meet() {
    let home = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (store, index) = (store(home.path()), SearchIndex::new(home.path()));
        write_many(&store).await;
        let children: Vec<_> = (0..3).map(|_| child(home.path())).collect();
        while refresh(&store, &index).await.is_busy {}
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        is_whole(&store, &index).await;
        assert_eq!(refresh(&store, &index).await.added, 0);
    });
}
