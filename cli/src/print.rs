//! `longhand -p`: one turn, its answer on standard output, exit.
//!
//! The parties: the turn, which runs in a task of its own and waits for nobody here; the [`Writer`], a thread that alone
//! touches standard output and may block for as long as its reader likes; and [`Print`], which reads the turn, hands lines to the
//! writer, and stops the turn at a signal or when standard output is closed. What ends the program early still prints
//! the result object, after all is flushed; only wrong usage and a session that is held elsewhere (exits 2 and 6) print none.

mod ask;
pub(crate) mod report;
pub(crate) mod writer;

use crate::app::App;
use crate::args::{OutputFormat, PermissionMode, RunArgs};
use crate::error::{CliError, Exit};
use crate::local_time::local_time;
use crate::output;
use crate::setup::{Manner, Opened, Plan};
use crate::signals::Signals;
use crate::stdin;
use crate::transcript::{images_words, model_name};
use agent_runtime::session_store::{AssistantMessage, Entry, Event, ModelError, ModelFallback, Progress, Seq, StoreError};
use agent_runtime::{Approver, DeltaKind, Session, ToolDelta, Turn, TurnEvent, UserInput};
use futures_util::StreamExt;
use report::Report;
use serde::Serialize;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use writer::Writer;

/// How long a signal waits for a standard output that nobody reads.
const STUCK_OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// How long the end waits for what the store takes to be counted; it began with the turn.
const COUNTING_LIMIT: Duration = Duration::from_secs(1);

/// Whether one turn is printed: where it was asked for, or where there is no terminal to chat in.
pub(crate) fn is_asked_for(typed: &RunArgs) -> bool {
    typed.print || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal()
}

/// Runs one turn and prints it.
///
/// # Errors
/// What is told before a turn could start, and is no more than wrong usage or a held session. All else is in the printed result.
pub(crate) async fn run(app: &App, typed: RunArgs) -> Result<Exit, CliError> {
    let approver = approver(&typed)?;
    output::detach_stderr();
    let mut print = Print {
        is_verbose: app.is_verbose(),
        is_in_line: false,
        format: if typed.json { OutputFormat::StreamJson } else { typed.output_format.unwrap_or_default() },
        writer: Writer::start(),
        signals: Signals::catch()?,
        report: Report::new(),
        is_closed: false,
        trouble: None,
        was_stalled: false,
        was_rescued: false,
    };
    let ended = print.run(app, typed, approver).await;
    print.finish(ended).await
}

/// Whoever is asked in the mode `ask`.
fn approver(typed: &RunArgs) -> Result<Option<Arc<dyn Approver>>, CliError> {
    if typed.setup.permission_mode != Some(PermissionMode::Ask) {
        return Ok(None);
    }
    match ask::OnTerminal::open() {
        Some(terminal) => Ok(Some(Arc::new(terminal))),
        None => Err(CliError::usage("`--permission-mode ask` needs a terminal to ask on")
            .hint("`--allowed-tools A,B` lets tools run without asking; `--permission-mode allow` lets all of them")),
    }
}

/// A turn that is printed.
struct Print {
    is_verbose: bool,
    /// A tool's output is on standard error, and its last line has no end yet.
    is_in_line: bool,
    format: OutputFormat,
    writer: Writer,
    signals: Signals,
    report: Report,
    /// Nobody reads standard output any more.
    is_closed: bool,
    /// What is wrong with the disk, as it was told last.
    trouble: Option<String>,
    was_stalled: bool,
    was_rescued: bool,
}

impl Print {
    /// From what was typed to the store's shutdown.
    async fn run(&mut self, app: &App, typed: RunArgs, approver: Option<Arc<dyn Approver>>) -> Result<Exit, CliError> {
        let prepared = async {
            let plan = Plan::new(app, typed, Manner::Print).await?;
            let message = if plan.goes_on_waiting(plan.choice) {
                None
            } else {
                // What is wrong with an image is told before anything is written down.
                let images = plan.images().await?;
                Some(plan.message(&stdin::message(plan.prompt.as_deref(), stdin::Kind::of_process()).await?, images))
            };
            Ok::<_, CliError>((plan, message))
        };
        let Some((plan, message)) = self.signals.unless_caught(prepared).await.transpose()? else {
            return Ok(self.stopped_early());
        };
        let counting = plan.count_quota();
        let ended = self.one_turn(&plan, approver, message).await;
        if let Some(counting) = counting
            && let Ok(Ok(Some(warning))) = timeout(COUNTING_LIMIT, counting).await
        {
            output::stderr(&format!("warning: {warning}\n"));
        }
        match (ended, plan.shutdown().await) {
            (ended, Ok(())) => ended,
            (Ok(exit), Err(error)) => {
                self.report.failed(&error);
                Ok(exit.or(error.tell()))
            }
            (Err(first), Err(error)) => {
                let worse = error.tell();
                if first.exit().or(worse) == first.exit() {
                    return Err(first);
                }
                self.report.failed(&first);
                first.tell();
                Ok(worse)
            }
        }
    }

    /// Sends the message, or goes on waiting where there is none.
    async fn one_turn(
        &mut self,
        plan: &Plan,
        approver: Option<Arc<dyn Approver>>,
        message: Option<UserInput>,
    ) -> Result<Exit, CliError> {
        let opened = self.signals.unless_caught(plan.open(plan.choice, approver)).await.transpose()?;
        let Some(Opened { session, first, notice, waiting }) = opened else { return Ok(self.stopped_early()) };
        if let Some(notice) = notice {
            output::stderr(&format!("warning: {notice}\n"));
        }
        self.report.opened(&session, plan.is_kept());
        report::tell_waiting(&session);
        // A long message is counted first, which takes its time; until then nothing of it is in the log.
        let started = async {
            match (message, waiting) {
                (Some(message), _) => Ok(session.send(message).await?),
                (None, Some(waiting)) => Ok(session.go_on_waiting(waiting)?),
                (None, None) => Err(CliError::usage("there is no prompt, and no wait that this session was left in")
                    .hint("give a prompt as an argument, or on standard input without `--wait`")),
            }
        };
        let sent = self.signals.unless_caught(started).await.transpose()?;
        let Some(turn) = sent else { return Ok(self.stopped_early()) };
        self.watch(&session, turn.starting_at(first)).await
    }

    /// A signal came before the turn began.
    fn stopped_early(&mut self) -> Exit {
        self.report.stopped_early();
        self.exit_of_signal()
    }

    fn exit_of_signal(&self) -> Exit {
        self.signals.last().map_or(Exit::Done, |caught| Exit::Signal(caught.number))
    }

    /// Reads the turn to its end, prints it, and stops it where it must. The turn waits for none of this.
    async fn watch(&mut self, session: &Session, mut turn: Turn) -> Result<Exit, CliError> {
        let mut progress = session.progress();
        let mut give_up: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                caught = self.signals.next() => {
                    session.interrupt(caught.name);
                    give_up.get_or_insert_with(|| Instant::now() + STUCK_OUTPUT_LIMIT);
                }
                // What is left to print is not waited for: its reader may hang.
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => break,
                Ok(()) = progress.changed() => self.tell_trouble(&progress.borrow_and_update()),
                is_written = self.writer.catch_up(), if self.writer.is_behind() => {
                    if !is_written {
                        self.stop_without_reader(session);
                    }
                }
                event = turn.next(), if !self.writer.is_behind() => match event {
                    Some(event) => self.event(session, &event),
                    None => break,
                },
            }
        }
        let outcome = turn.outcome().await;
        self.report.ended(&outcome);
        report::tell(&outcome, self.report.is_kept());
        Ok(report::exit_of(&outcome, self.is_closed).or(self.exit_of_signal()))
    }

    /// Prints the result and waits until all is printed; after a signal, not for ever.
    async fn finish(mut self, ended: Result<Exit, CliError>) -> Result<Exit, CliError> {
        let mut exit = match ended {
            Ok(exit) => exit,
            Err(error @ CliError::Told { exit: Exit::Usage | Exit::Held, .. }) => return Err(error),
            Err(error) => {
                self.report.failed(&error);
                error.tell()
            }
        };
        self.writer.push(self.report.rendered(self.format));
        if self.signals.last().is_none() {
            tokio::select! {
                printed = self.writer.finish() => return Ok(exit.or(printed)),
                caught = self.signals.next() => exit = exit.or(Exit::Signal(caught.number)),
            }
        }
        // Where nobody reads, the result stays unprinted: the session has it.
        let _ = tokio::time::timeout(STUCK_OUTPUT_LIMIT, self.writer.finish()).await;
        Ok(exit)
    }

    fn event(&mut self, session: &Session, event: &TurnEvent) {
        if let TurnEvent::Entry(entry) = event {
            self.talk(entry);
            if let Event::ModelFallback(fallback) = &entry.event {
                self.report.answered_by(&fallback.to);
            }
            if !self.is_closed && writer::is_reader_gone() {
                self.stop_without_reader(session);
            }
        }
        if self.is_verbose {
            self.talk_of_output(event);
        }
        if self.format == OutputFormat::StreamJson && !self.is_closed {
            match event {
                // A copy of what was said before is of no use to a reader of events.
                TurnEvent::Entry(entry) if matches!(entry.event, Event::Checkpoint(_)) => {}
                TurnEvent::Entry(entry) => self.writer.push(line_of(entry)),
                TurnEvent::Delta(delta) => self.writer.push(delta_line(delta)),
                TurnEvent::ToolDelta(delta) => self.writer.push(tool_delta_line(delta)),
                _ => {}
            }
        }
    }

    /// Nobody reads any more: the turn stops at its next step, and the session is kept.
    fn stop_without_reader(&mut self, session: &Session) {
        self.is_closed = true;
        session.interrupt("stdout_closed");
    }

    /// What a person is told on standard error.
    fn talk(&self, entry: &Entry) {
        match &entry.event {
            Event::AssistantMessage(message) if self.format == OutputFormat::Text && message.tool_calls().next().is_some() => {
                tell_step(message);
            }
            Event::ModelError(ModelError { detail, retry_in_ms: Some(pause), .. }) => {
                output::stderr(&format!("{detail}; trying again in {:.1} s\n", *pause as f64 / 1000.0));
            }
            Event::ModelWaiting(waiting) => {
                output::stderr(&format!("{} is asked at {} ({})\n", waiting.model, local_time(waiting.until), waiting.reason));
            }
            Event::ModelFallback(ModelFallback { to, detail, .. }) => {
                output::stderr(&format!("{detail}; {} is asked instead\n", model_name(to)));
            }
            Event::ImagesRefused(refused) => {
                output::stderr(&format!("{} left out from here on\n", images_words(&refused.images)));
            }
            Event::ToolStarted(started) if self.is_verbose => output::stderr(&format!("running `{}`\n", started.name)),
            Event::ToolDenied(denied) => output::stderr(&format!("a tool call was refused: {}\n", denied.reason)),
            Event::ContextTrimmed(trim) if self.is_verbose => output::stderr(&format!(
                "the context was trimmed from about {} to {} tokens\n",
                trim.tokens_before, trim.tokens_after
            )),
            Event::ContextSummarized(summarized) if self.is_verbose => output::stderr(&match &summarized.error {
                Some(why) => format!("there is no summary of old messages: {why}\n"),
                None => "a summary of old messages was made\n".to_owned(),
            }),
            Event::Error(error) => output::stderr(&format!("{}\n", error.message)),
            _ => {}
        }
    }

    /// A running tool's output as it comes, on lines of its own.
    fn talk_of_output(&mut self, event: &TurnEvent) {
        match event {
            TurnEvent::ToolDelta(delta) => {
                output::stderr(&delta.text);
                self.is_in_line = !delta.text.ends_with('\n');
            }
            TurnEvent::Entry(entry) if matches!(entry.event, Event::ToolFinished(_)) && std::mem::take(&mut self.is_in_line) => {
                output::stderr("\n");
            }
            _ => {}
        }
    }

    /// Says at once that the disk makes trouble, and when it is over.
    fn tell_trouble(&mut self, progress: &Progress) {
        let now = progress.trouble.as_ref().map(ToString::to_string);
        // A disk that is slow at times is told once.
        if progress.stalled && !std::mem::replace(&mut self.was_stalled, true) {
            output::stderr("warning: the disk does not answer; what is not written is kept in memory\n");
        }
        match (&self.trouble, &now) {
            (before, Some(trouble)) if before.as_ref() != Some(trouble) => {
                let is_lost = matches!(progress.trouble.as_deref(), Some(StoreError::Lost { .. }));
                let kept = if is_lost { "" } else { "; what is not written is kept in memory and tried again" };
                output::stderr(&format!("warning: {trouble}{kept}\n"));
            }
            (Some(_), None) => output::stderr("the session is being written again\n"),
            _ => {}
        }
        let was_rescued = std::mem::replace(&mut self.was_rescued, progress.rescued.is_some());
        match &progress.rescued {
            Some(rescued) if !was_rescued && now.is_none() => {
                let (why, path) = (&rescued.why, rescued.path.display());
                output::stderr(&format!(
                    "warning: the disk of the session does not take it ({why}); it goes to `{path}` meanwhile\n"
                ));
            }
            None if was_rescued && now.is_none() => output::stderr("the session's own disk works again and has all of it\n"),
            _ => {}
        }
        self.trouble = now;
    }
}

/// Words before a tool call are no part of the answer.
fn tell_step(message: &AssistantMessage) {
    let text = message.text();
    if !text.trim().is_empty() {
        output::stderr(&format!("{}\n", text.trim_end()));
    }
}

fn line_of(entry: &Entry) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    entry.write_json(&mut line);
    line.push(b'\n');
    line
}

/// A piece of an answer as it comes. It has no `seq`: the pieces in the log are cut otherwise.
#[derive(Serialize)]
struct DeltaLine<'a> {
    #[serde(rename = "type")]
    type_name: &'a str,
    text: &'a str,
    message: Seq,
    offset: u64,
}

fn delta_line(delta: &agent_runtime::Delta) -> Vec<u8> {
    let type_name = match delta.kind {
        DeltaKind::Text => "assistant.delta",
        DeltaKind::Reasoning => "assistant.reasoning_delta",
    };
    report::json_line(&DeltaLine { type_name, text: &delta.text, message: delta.message, offset: delta.offset })
}

/// A piece of a running tool's output. A reader who does not follow a flood misses some of it: the next `offset` is larger then.
#[derive(Serialize)]
struct ToolDeltaLine<'a> {
    #[serde(rename = "type")]
    type_name: &'a str,
    call: &'a str,
    text: &'a str,
    offset: u64,
}

fn tool_delta_line(delta: &ToolDelta) -> Vec<u8> {
    let ToolDelta { call, offset, text } = delta;
    report::json_line(&ToolDeltaLine { type_name: "tool.delta", call, text, offset: *offset })
}
