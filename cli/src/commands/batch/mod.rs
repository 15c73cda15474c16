//! `longhand batch FILE`: many prompts, several at once, each in a session of its own; the results as JSON lines.
//!
//! The sessions are the truth. Each line of the file belongs to a session whose id is made from the batch's name and the line itself
//! ([`lines::Line::key`]), and its prompt is a message with a key. So a batch that was stopped or killed at any instant is run again by the same
//! command: what has an answer is read from its session, what was cut is done to its end there, and the rest begins. The file of results
//! holds nothing that the sessions do not, and is written anew each time.

mod lines;

use crate::app::App;
use crate::args::{PermissionMode, RunArgs, SetupArgs};
use crate::error::{CliError, Exit};
use crate::output;
use crate::print::report::{self, Report};
use crate::print::writer::Writer;
use crate::progress::Progress;
use crate::setup::{Manner, Opened, Plan};
use crate::signals::Signals;
use agent_runtime::session_store::SessionId;
use clap::ValueEnum;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lines::Line;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a signal waits for a reader of the results that does not read.
const STUCK_OUTPUT_LIMIT: Duration = Duration::from_secs(1);
/// How each result begins.
const RESULT_START: &[u8] = b"{\"id\":";

const AFTER_HELP: &str = "\
Each line of FILE is one JSON object:
  prompt   what to say (the only one that is needed)
  id       what the line is called in the results and in its session's name, a text or a number [default: the line's number]
  model    who answers, instead of `--model`
  system   the system prompt, instead of `--system-prompt`
  cwd      the directory to work in, instead of `--cd`
  images   an array of files: images that go with it

Each result is the object of `-p --output-format json` with the line's `id`. A line's session is called NAME/ID.
Run the same command again after a stop, a kill or a failure: what was answered is not asked again, and what was cut is done to its end.
To ask everything again, give the batch another `--name`. A line that was changed is another line.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BatchArgs {
    /// The prompts, one JSON object a line; `-` reads standard input
    pub(crate) file: PathBuf,
    /// Where the results go, one JSON object a line [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How many are asked at once
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// The order of the results: as the prompts are in the file, or as they are done
    #[arg(long, value_name = "ORDER", default_value = "input")]
    pub(crate) order: Order,
    /// The batch's name: what was answered under this name is not asked again [default: the name of FILE]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    Input,
    Done,
}

/// Runs a batch.
///
/// # Errors
/// Wrong usage, lines that cannot be used, or a store that fails. What fails in a line is in its result.
pub(crate) async fn run(app: &App, args: BatchArgs) -> Result<Exit, CliError> {
    if args.setup.permission_mode == Some(PermissionMode::Ask) {
        return Err(CliError::usage("nobody can be asked during a batch")
            .hint("`--allowed-tools A,B` lets tools run without asking; `--permission-mode allow` lets all of them"));
    }
    let mut signals = Signals::catch()?;
    let Some(prepared) = signals.unless_caught(prepare(app, &args)).await.transpose()? else {
        return Ok(exit_of_signal(&signals));
    };
    let (plan, lines) = prepared;
    let writer = match &args.output {
        Some(path) => Writer::to_file(results_file(path, &args.file)?, path),
        None => Writer::start(),
    };
    let counting = plan.count_quota();
    // Results on a terminal are their own progress.
    let is_quiet = args.output.is_none() && io::stdout().is_terminal();
    let progress = (!is_quiet).then(|| Progress::count("answering", lines.len() as u64));
    let is_stopping = Cell::new(false);
    let mut batch = Batch {
        args: &args,
        plan: &plan,
        is_stopping: &is_stopping,
        tally: Tally::default(),
        writer,
        progress,
        held_back: BTreeMap::new(),
        written: 0,
    };
    let ended = batch.run(&lines, &mut signals).await;
    let printed = batch.finish(&mut signals).await;
    if let Some(counting) = counting
        && let Ok(Ok(Some(warning))) = tokio::time::timeout(STUCK_OUTPUT_LIMIT, counting).await
    {
        output::stderr(&format!("warning: {warning}\n"));
    }
    let shut_down = plan.shutdown().await;
    let exit = ended.or(printed).or(exit_of_signal(&signals));
    batch.tally.tell(lines.len(), exit);
    match shut_down {
        Ok(()) => Ok(exit),
        Err(error) => Ok(exit.or(error.tell())),
    }
}

/// Reads the lines and looks whether each of them can be asked, before anything is.
async fn prepare(app: &App, args: &BatchArgs) -> Result<(Plan, Vec<Line>), CliError> {
    let is_stdin = args.file.as_os_str() == "-";
    let (path, shown) = (args.file.clone(), if is_stdin { "standard input".to_owned() } else { args.file.display().to_string() });
    let read =
        tokio::task::spawn_blocking(move || if is_stdin { read_all(io::stdin().lock()) } else { read_all(File::open(path)?) });
    let bytes = match read.await {
        Ok(read) => read.map_err(CliError::io("read", &shown))?,
        Err(_) => return Err(CliError::failed("the runtime is shutting down")),
    };
    let name = match (&args.name, args.file.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) if !is_stdin => stem.to_string_lossy().into_owned(),
        _ => return Err(CliError::usage("a batch from standard input needs a name").hint("add `--name NAME`")),
    };
    let lines = lines::read(&bytes, &shown, &name, &args.setup)?;
    let Some(first) = lines.first() else {
        return Err(
            CliError::usage(format!("`{shown}` holds no prompt")).hint("each line is a JSON object: `{\"prompt\": \"...\"}`")
        );
    };
    let plan = Plan::new(app, RunArgs { print: true, setup: first.setup.clone(), ..RunArgs::default() }, Manner::Print).await?;
    lines::check(&plan, &lines, &shown).await?;
    Ok((plan, lines))
}

fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file for the results, empty. One that holds anything but results is left alone.
fn results_file(path: &Path, input: &Path) -> Result<File, CliError> {
    let is_input = matches!((path.canonicalize(), input.canonicalize()), (Ok(path), Ok(input)) if path == input);
    let mut start = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(RESULT_START.len() as u64).read_to_end(&mut start).map(drop).map_err(CliError::io("read", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(CliError::io("read", path)(error)),
    }
    // A kill may have left only a part of the first result.
    if is_input || !RESULT_START.starts_with(&start) {
        return Err(CliError::usage(format!("`{}` is there and holds no results of a batch", path.display()))
            .hint("results are written anew: choose another `-o FILE`, or remove that one"));
    }
    File::create(path).map_err(CliError::io("write", path))
}

fn exit_of_signal(signals: &Signals) -> Exit {
    signals.last().map_or(Exit::Done, |caught| Exit::Signal(caught.number))
}

/// A batch while it runs.
struct Batch<'a> {
    args: &'a BatchArgs,
    plan: &'a Plan,
    /// No more lines are begun, and those that have begun end.
    is_stopping: &'a Cell<bool>,
    tally: Tally,
    writer: Writer,
    progress: Option<Progress>,
    /// Results that wait for those of the lines before them.
    held_back: BTreeMap<usize, Vec<u8>>,
    /// Lines whose results are written, where these are written in order.
    written: usize,
}

/// What became of the lines.
#[derive(Default)]
struct Tally {
    answered: usize,
    before: usize,
    failed: usize,
}

/// What became of a line.
struct Done {
    place: usize,
    report: Report,
    exit: Exit,
    /// It was answered by an earlier run.
    was_answered: bool,
    /// It was stopped, and has no result.
    is_stopped: bool,
}

impl Batch<'_> {
    /// Answers all lines; returns when none runs any more.
    async fn run(&mut self, lines: &[Line], signals: &mut Signals) -> Exit {
        let mut waiting = lines.iter().enumerate();
        let mut running = FuturesUnordered::new();
        let (mut exit, mut is_out_of_lines) = (Exit::Done, false);
        let (plan, is_stopping) = (self.plan, self.is_stopping);
        loop {
            while !is_out_of_lines
                && !is_stopping.get()
                && running.len() < usize::from(self.args.jobs)
                && !self.writer.is_behind()
            {
                match waiting.next() {
                    Some((place, line)) => running.push(answer(plan, is_stopping, place, line)),
                    None => is_out_of_lines = true,
                }
            }
            if running.is_empty() && (is_out_of_lines || is_stopping.get()) {
                return exit;
            }
            tokio::select! {
                biased;
                caught = signals.next() => {
                    is_stopping.set(true);
                    plan.runtime().interrupt_all(caught.name);
                }
                is_written = self.writer.catch_up(), if self.writer.is_behind() => if !is_written {
                    // Nobody takes results any more; why not is told at the end.
                    is_stopping.set(true);
                    plan.runtime().interrupt_all("stdout_closed");
                },
                Some(done) = running.next(), if !running.is_empty() => {
                    if done.exit == Exit::Store {
                        is_stopping.set(true);
                        plan.runtime().interrupt_all("shutdown");
                        exit = Exit::Store;
                    }
                    exit = exit.or(self.take(&lines[done.place], &done));
                }
            }
        }
    }

    /// Takes in what became of a line; how the batch ends for it.
    fn take(&mut self, line: &Line, done: &Done) -> Exit {
        if done.is_stopped {
            return Exit::Done;
        }
        let failed = done.exit != Exit::Done;
        self.tally.answered += usize::from(!failed);
        self.tally.failed += usize::from(failed);
        self.tally.before += usize::from(done.was_answered);
        if failed {
            let told = format!("`{}`: {}\n", line.id, done.report.problem());
            match &self.progress {
                Some(progress) => progress.suspend(|| output::stderr(&told)),
                None => output::stderr(&told),
            }
        }
        if let Some(progress) = &self.progress {
            progress.add(1);
        }
        let rendered = done.report.rendered(crate::args::OutputFormat::Json);
        match self.args.order {
            Order::Done => self.writer.push(rendered),
            Order::Input => {
                self.held_back.insert(done.place, rendered);
                while let Some(next) = self.held_back.remove(&self.written) {
                    self.writer.push(next);
                    self.written += 1;
                }
            }
        }
        if failed { Exit::Failed } else { Exit::Done }
    }

    /// Writes what is left, and waits until all is written; after a signal, not for ever.
    async fn finish(&mut self, signals: &mut Signals) -> Exit {
        self.progress = None;
        for (_, result) in std::mem::take(&mut self.held_back) {
            self.writer.push(result);
        }
        if signals.last().is_none() {
            tokio::select! {
                printed = self.writer.finish() => return printed,
                _ = signals.next() => {}
            }
        }
        tokio::time::timeout(STUCK_OUTPUT_LIMIT, self.writer.finish()).await.unwrap_or(Exit::Done)
    }
}

/// Answers one line, in its session.
async fn answer(plan: &Plan, is_stopping: &Cell<bool>, place: usize, line: &Line) -> Done {
    let mut done = Done { place, report: Report::of(&line.id), exit: Exit::Done, was_answered: false, is_stopped: false };
    if let Err(error) = ask(plan, is_stopping, line, &mut done).await {
        done.report.failed(&error);
        done.exit = error.exit();
    }
    done
}

async fn ask(plan: &Plan, is_stopping: &Cell<bool>, line: &Line, done: &mut Done) -> Result<(), CliError> {
    let id = SessionId::of_key(&line.key);
    if let Some(answer) = plan.runtime().answer_to(id, &line.key).await? {
        done.report.answered(id, &answer, line.setup.output_schema.is_some());
        (done.exit, done.was_answered) = (report::exit_of(&answer.outcome, false), true);
        return Ok(());
    }
    let typed = RunArgs {
        print: true,
        name: Some(line.session_name.clone()),
        message_id: Some(line.key.clone()),
        image: line.images.clone(),
        setup: line.setup.clone(),
        ..RunArgs::default()
    };
    let own = plan.beside(typed).await?;
    if is_stopping.get() {
        done.is_stopped = true;
        return Ok(());
    }
    let Opened { session, notice, .. } = own.open(own.choice, None).await?;
    if let Some(notice) = notice {
        output::stderr(&format!("warning: `{}`: {notice}\n", line.id));
    }
    done.report.opened(&session, true);
    let sent = session.send(own.message(&line.prompt, own.images().await?)).await;
    if is_stopping.get() {
        // The signal came before the turn, so nobody stopped it.
        session.interrupt("shutdown");
    }
    let outcome = match sent {
        Ok(turn) => Ok(turn.outcome().await),
        Err(error) => Err(error),
    };
    let closed = session.close().await;
    let outcome = outcome?;
    done.report.ended(&outcome);
    done.exit = report::exit_of(&outcome, false);
    done.is_stopped = is_stopping.get() && outcome.reason == agent_runtime::EndReason::Interrupted;
    Ok(closed?)
}

impl Tally {
    /// Says on standard error how it went, and how to go on.
    fn tell(&self, lines: usize, exit: Exit) {
        let prompts = if lines == 1 { "prompt" } else { "prompts" };
        let before = if self.before == 0 { String::new() } else { format!(" ({} of them before)", self.before) };
        let mut told = format!("{lines} {prompts}: {} answered{before}", self.answered);
        if self.failed > 0 {
            told.push_str(&format!(", {} failed", self.failed));
        }
        let left = lines - self.answered - self.failed;
        if left > 0 {
            told.push_str(&format!(", {left} not done"));
        }
        told.push('\n');
        if exit != Exit::Done {
            told.push_str("\nhint: the same command goes on: what was answered is not asked again\n");
        }
        output::stderr(&told);
    }
}
