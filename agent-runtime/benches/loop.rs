//! What the loop itself costs, with a model that answers at once: a look at the todo list, fitting the context window, and a whole turn.
//!
//! `cargo bench -p longhand-agent-runtime --bench loop`; an argument names the folder to work in (default: a temporary one), because a
//! turn waits for the disk. Each figure stands beside its reference from the same run, and ours and theirs take turns where both
//! are short, so that a busy machine slows both. What was measured is checked where it is measured.

#![expect(clippy::disallowed_methods, reason = "a test hands over its own environment")]
#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

#[path = "common/at_once.rs"]
mod at_once;
#[path = "common/figures.rs"]
mod figures;

use agent_runtime::session_store::{
    Entry, Event, FileStore, FileStoreOptions, NewSession, Note, Profile, SessionId, State, Timestamp, Todo, TodoStatus,
    TodosChanged, sha256_hex,
};
use agent_runtime::{Conversation, EndReason, Images, Model, ModelLimits, Runtime, TokenCounter, count_tokens, project};
use at_once::{ANSWER, AtOnce, MESSAGE_BYTES, earlier_turns, origin, session, setup, words};
use figures::{head, row, short};
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Messages of a long history and of a short one, half of them a person's and half of them a model's.
const LONG: usize = 10_000;
const SHORT: usize = 100;
/// Looks at the todo list: rounds, and looks in each.
const LOOKS: (usize, u32) = (101, 20_000);
/// Messages that are added and counted one after the other.
const FITS: usize = 301;
/// Turns of each history.
const TURNS: usize = 101;
/// Longer than anything here takes.
const TOO_LONG: Duration = Duration::from_secs(60);

fn main() -> Outcome<()> {
    let temporary = tempfile::tempdir()?;
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let bench = Bench { folder: named.map_or_else(|| temporary.path().to_path_buf(), Into::into) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        println!("{}", head());
        bench.look_at_todos().await?;
        fit_a_state();
        bench.fit_a_session().await?;
        bench.whole_turns().await
    })
}

struct Bench {
    folder: PathBuf,
}

impl Bench {
    fn runtime(&self) -> Outcome<Runtime> {
        Ok(Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(&self.folder))?)))
    }

    /// A cached look, beside taking a lock that nobody wants and cloning a shared pointer.
    async fn look_at_todos(&self) -> Outcome<()> {
        let runtime = self.runtime()?;
        let id = todo_session(&runtime).await?;
        let session =
            runtime.resume(id, setup(Arc::new(AtOnce::new(ModelLimits::default().context_window)), &self.folder)).await?;
        assert_eq!(session.todos().len(), 3, "the list is there");
        let bare = Mutex::new(Arc::new(Vec::<Todo>::new()));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..LOOKS.0 {
            ours.push(each(LOOKS.1, || drop(black_box(session.todos()))));
            theirs.push(each(LOOKS.1, || drop(black_box(Arc::clone(&bare.lock().unwrap_or_else(PoisonError::into_inner))))));
        }
        println!("{}", row("todo list, cached look (bound 1 us)", &mut ours, "lock and clone", &mut theirs));
        runtime.shutdown(TOO_LONG).await?;
        Ok(())
    }

    /// One more message in a session with a long history, beside counting that message's tokens on a thread that may block, as it has
    /// to be done: the first count of a process loads a table.
    async fn fit_a_session(&self) -> Outcome<()> {
        let runtime = self.runtime()?;
        let session =
            session(&runtime, setup(Arc::new(AtOnce::new(ModelLimits::default().context_window)), &self.folder), LONG).await?;
        let (mut before, _) = session.context_size().await;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..FITS {
            let text = words(number);
            session.note(&text)?;
            let start = Instant::now();
            let (size, _) = session.context_size().await;
            ours.push(start.elapsed());
            let start = Instant::now();
            let counted = text.clone();
            let tokens = tokio::task::spawn_blocking(move || count_tokens(&counted)).await?;
            theirs.push(start.elapsed());
            assert!((tokens..tokens + 20).contains(&(size - before)), "{size} tokens after {before} and {tokens}");
            before = size;
        }
        println!(
            "{}",
            row(&format!("fit one more message in {LONG}, session"), &mut ours, "its tokens, off-thread", &mut theirs)
        );
        difference("without the tokens (bound 50 us)", &ours, &theirs);
        runtime.shutdown(TOO_LONG).await?;
        Ok(())
    }

    /// A whole turn of one answer, from `send` to the outcome, durable at its start and at its end, beside two bare writes and syncs; and
    /// beside what no loop can save: the body of the request and its hash.
    async fn whole_turns(&self) -> Outcome<()> {
        for (messages, window, how) in [
            (SHORT, u64::MAX / 4, "bytes fit"),
            (LONG, u64::MAX / 4, "bytes fit"),
            (LONG, (LONG * MESSAGE_BYTES) as u64, "tokens counted"),
        ] {
            let runtime = self.runtime()?;
            let model = Arc::new(AtOnce::new(window));
            let session = session(&runtime, setup(Arc::clone(&model) as Arc<dyn Model>, &self.folder), messages).await?;
            let mut bare = std::fs::File::create(self.folder.join("bare"))?;
            let (mut ours, mut syncs, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
            let bytes_before = runtime.store().stats().bytes;
            for number in 0..TURNS {
                let text = words(number);
                let start = Instant::now();
                let outcome = session.send(&text).await?.outcome().await;
                ours.push(start.elapsed());
                assert_eq!((outcome.reason, outcome.text.as_str()), (EndReason::Done, ANSWER), "{:?}", outcome.error);
                let start = Instant::now();
                for _ in 0..2 {
                    bare.write_all(text.as_bytes())?;
                    bare.sync_data()?;
                }
                syncs.push(start.elapsed());
                let start = Instant::now();
                session.state(|state| black_box(sha256_hex(&model.body(&conversation(state)))));
                bodies.push(start.elapsed());
            }
            let trims = session.state(|state| state.undoable().count());
            assert_eq!(trims, 0, "nothing was trimmed, so the history stayed as long as it is said to be");
            println!("{}", row(&format!("turn after {messages} messages, {how}"), &mut ours, "two syncs", &mut syncs));
            println!("{}", row("", &mut ours, "its body and hash", &mut bodies));
            session.flush().await?;
            println!(
                "  bytes that it adds to the log            {:>10}",
                (runtime.store().stats().bytes - bytes_before) / TURNS as u64
            );
            runtime.shutdown(TOO_LONG).await?;
        }
        Ok(())
    }
}

async fn todo_session(runtime: &Runtime) -> Outcome<SessionId> {
    let opened = runtime.store().create(NewSession::default()).await?;
    let todo = |content: &str| Todo { content: content.to_owned(), status: TodoStatus::Pending };
    let todos = ["look", "think", "do"].map(todo).to_vec();
    opened.log.append(TodosChanged { todos: Arc::new(todos) }.into())?;
    opened.log.close().await?;
    Ok(opened.log.id())
}

fn conversation(state: &State) -> Conversation {
    let profile = state.profile.as_ref().expect("a session has a profile");
    project(state, profile, &Images::default(), &origin(), 8_192)
}

/// One more message in a long history, counted by the counter alone, beside counting that message's tokens.
fn fit_a_state() {
    let mut state = State::default();
    let mut next = 0;
    let mut add = |state: &mut State, event: Event| {
        state.apply(&Entry::new(next, Timestamp::from_ms(0), event));
        next += 1;
    };
    earlier_turns(LONG, 0).into_iter().for_each(|event| add(&mut state, event));
    let profile = Profile {
        hash: String::new(),
        model: String::new(),
        system: ANSWER.to_owned(),
        tools: Vec::new(),
        parameters: agent_runtime::session_store::Parameters::default(),
        projection: 1,
    };
    let mut counter = TokenCounter::new();
    let mut before = counter.estimate(&state, &profile, 1.0);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..FITS {
        let text = words(number);
        add(&mut state, Note { text: text.clone() }.into());
        let start = Instant::now();
        let size = counter.estimate(&state, &profile, 1.0);
        ours.push(start.elapsed());
        let start = Instant::now();
        let tokens = count_tokens(&text);
        theirs.push(start.elapsed());
        assert!((tokens..tokens + 20).contains(&(size - before)), "{size} tokens after {before} and {tokens}");
        before = size;
    }
    println!("{}", row(&format!("fit one more message in {LONG}, counter"), &mut ours, "its tokens", &mut theirs));
    difference("without the tokens (bound 50 us)", &ours, &theirs);
}

/// How long each of `calls` calls takes.
fn each(calls: u32, mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed() / calls
}

/// The difference of the medians; both are sorted.
fn difference(name: &str, ours: &[Duration], theirs: &[Duration]) {
    let difference = ours[ours.len() / 2].saturating_sub(theirs[theirs.len() / 2]);
    println!("{:<44} {:>9}", format!("  {name}"), short(difference));
}
