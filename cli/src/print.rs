//! `longhand -p`: one turn, its answer on standard output, exit.
//!
//! The parties: the turn, which runs in a task of its own and waits for nobody here; the [`Writer`], a thread that alone
//! touches standard output and may block for as long as its reader likes; and [`Watch`], which reads the turn, hands lines to the
//! writer, and stops the turn at a signal or when standard output is closed. What ends the program early still prints
//! the result object, after all is flushed; only wrong usage and a session that is held elsewhere (exits 2 and 6) print none.

mod ask;
mod report;
mod writer;

use crate::app::App;
use crate::args::{OutputFormat, PermissionMode, RunArgs};
use crate::error::{CliError, Exit};
use crate::output;
use crate::setup::{Manner, Opened, Plan};
use crate::signals::{Caught, Signals};
use crate::stdin;
use agent_runtime::session_store::{AssistantMessage, Entry, Event, ModelError, Progress, Seq};
use agent_runtime::{Approver, DeltaKind, Session, Turn, TurnEvent, TurnOutcome};
use futures_util::StreamExt;
use report::Report;
use serde::Serialize;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use writer::Writer;

/// How long a signal waits for a standard output that nobody reads.
const STUCK_OUTPUT_LIMIT: Duration = Duration::from_secs(1);

/// Whether one turn is printed: where it was asked for, or where there is no terminal to chat in.
pub(crate) fn is_asked_for(typed: &RunArgs) -> bool {
    typed.print || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal()
}

/// Runs one turn and prints it.
///
/// # Errors
/// What is told before a turn could start, and is no more than wrong usage or a held session. All else is in the printed result.
pub(crate) async fn run(app: &App, typed: RunArgs) -> Result<Exit, CliError> {
    let format = if typed.json { OutputFormat::StreamJson } else { typed.output_format.unwrap_or_default() };
    let approver = approver(&typed)?;
    let mut signals = Signals::catch()?;
    let mut report = Report::new();
    let mut writer = Writer::start();
    let run = one_turn(app, typed, format, approver, &mut signals, &mut report, &mut writer);
    let exit = match run.await {
        Ok(exit) => exit,
        Err(error @ CliError::Told { exit: Exit::Usage | Exit::Held, .. }) => return Err(error),
        Err(error) => {
            report.failed(&error);
            error.tell()
        }
    };
    writer.push(report.rendered(format));
    Ok(finish(writer, &mut signals, exit).await)
}

/// Whoever is asked in the mode `ask`.
fn approver(typed: &RunArgs) -> Result<Option<Arc<dyn Approver>>, CliError> {
    if typed.permission_mode != Some(PermissionMode::Ask) {
        return Ok(None);
    }
    match ask::OnTerminal::open() {
        Some(terminal) => Ok(Some(Arc::new(terminal))),
        None => Err(CliError::usage("`--permission-mode ask` needs a terminal to ask on")
            .hint("`--allowed-tools A,B` lets tools run without asking; `--permission-mode allow` lets all of them")),
    }
}

#[expect(clippy::too_many_arguments, reason = "the one place where all parties meet")]
async fn one_turn(
    app: &App,
    typed: RunArgs,
    format: OutputFormat,
    approver: Option<Arc<dyn Approver>>,
    signals: &mut Signals,
    report: &mut Report,
    writer: &mut Writer,
) -> Result<Exit, CliError> {
    let prepared = async {
        let plan = Plan::new(app, typed, Manner::Print).await?;
        let message = stdin::message(plan.prompt.as_deref(), stdin::Kind::of_process()).await?;
        Ok::<_, CliError>((plan, message))
    };
    let Some((plan, message)) = unless_caught(signals, prepared).await.transpose()? else {
        return Ok(report.stopped_early(signals));
    };
    let opened = unless_caught(signals, plan.open(plan.choice, approver)).await.transpose();
    let ended = match opened {
        Ok(Some(Opened { session, first, notice })) => {
            if let Some(notice) = notice {
                output::stderr(&format!("warning: {notice}\n"));
            }
            report.opened(&session, plan.is_kept());
            let watch = Watch::new(app.is_verbose(), format, writer, signals, report);
            watch.turn(&plan, &session, first, &message).await
        }
        Ok(None) => Ok(report.stopped_early(signals)),
        Err(error) => Err(error),
    };
    match (ended, plan.shutdown().await) {
        (ended, Ok(())) => ended,
        (Ok(exit), Err(error)) => {
            report.failed(&error);
            Ok(exit.or(error.tell()))
        }
        (Err(first), Err(error)) => {
            error.tell();
            Err(first)
        }
    }
}

/// The output of `work`, or nothing where a signal came first.
async fn unless_caught<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        output = work => Some(output),
        _ = signals.next() => None,
    }
}

/// Waits until all is printed; after a signal, not for ever.
async fn finish(mut writer: Writer, signals: &mut Signals, exit: Exit) -> Exit {
    let mut exit = exit;
    if !matches!(exit, Exit::Signal(_)) {
        tokio::select! {
            printed = writer.finish() => return exit.or(printed),
            caught = signals.next() => exit = exit.or(Exit::Signal(caught.number)),
        }
    }
    // Where nobody reads, the result stays unprinted: the session has it.
    let _ = tokio::time::timeout(STUCK_OUTPUT_LIMIT, writer.finish()).await;
    exit
}

/// Reads a turn, prints it, and stops it where it must.
struct Watch<'a> {
    is_verbose: bool,
    format: OutputFormat,
    writer: &'a mut Writer,
    signals: &'a mut Signals,
    report: &'a mut Report,
    caught: Option<Caught>,
    is_closed: bool,
    trouble: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(
        is_verbose: bool,
        format: OutputFormat,
        writer: &'a mut Writer,
        signals: &'a mut Signals,
        report: &'a mut Report,
    ) -> Self {
        Self { is_verbose, format, writer, signals, report, caught: None, is_closed: false, trouble: None }
    }

    /// One turn, from the message to its end.
    async fn turn(mut self, plan: &Plan, session: &Session, first: Seq, message: &str) -> Result<Exit, CliError> {
        let mut turn = session.send(message).await?;
        let mut progress = session.progress();
        let mut is_first = true;
        loop {
            tokio::select! {
                biased;
                caught = self.signals.next() => {
                    self.caught.get_or_insert(caught);
                    session.interrupt(caught.name);
                }
                Ok(()) = progress.changed() => self.tell_trouble(&progress.borrow_and_update()),
                is_written = self.writer.catch_up(), if self.writer.is_behind() => {
                    if !is_written {
                        self.stop_without_reader(session);
                    }
                }
                event = turn.next(), if !self.writer.is_behind() => match event {
                    Some(event) => {
                        if std::mem::take(&mut is_first) {
                            self.print_before(plan, session, first, &event).await;
                        }
                        self.event(session, &event);
                    }
                    None => break,
                },
            }
        }
        Ok(self.ended(&turn).await)
    }

    async fn ended(mut self, turn: &Turn) -> Exit {
        let outcome: Arc<TurnOutcome> = tokio::select! {
            outcome = turn.outcome() => outcome,
            caught = self.signals.next() => {
                self.caught.get_or_insert(caught);
                turn.outcome().await
            }
        };
        self.report.ended(&outcome);
        report::tell(&outcome);
        let exit = report::exit_of(&outcome, self.is_closed);
        exit.or(self.caught.map_or(Exit::Done, |caught| Exit::Signal(caught.number)))
    }

    /// In stream-json: what was written since the session was opened and before the turn.
    async fn print_before(&mut self, plan: &Plan, session: &Session, first: Seq, event: &TurnEvent) {
        let (OutputFormat::StreamJson, TurnEvent::Entry(opening)) = (self.format, event) else { return };
        let Ok(mut reader) = plan.runtime().store().read(session.id(), first).await else { return };
        while let Ok(Some(entry)) = reader.next().await {
            if entry.seq >= opening.seq {
                break;
            }
            self.writer.push(line_of(&entry));
        }
    }

    fn event(&mut self, session: &Session, event: &TurnEvent) {
        if let TurnEvent::Entry(entry) = event {
            self.talk(entry);
            if !self.is_closed && writer::is_reader_gone() {
                self.stop_without_reader(session);
            }
        }
        if self.format == OutputFormat::StreamJson && !self.is_closed {
            match event {
                TurnEvent::Entry(entry) => self.writer.push(line_of(entry)),
                TurnEvent::Delta(delta) => self.writer.push(delta_line(delta)),
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
            Event::ToolStarted(started) if self.is_verbose => output::stderr(&format!("running `{}`\n", started.name)),
            Event::ToolDenied(denied) => output::stderr(&format!("a tool call was refused: {}\n", denied.reason)),
            Event::ContextTrimmed(trim) if self.is_verbose => output::stderr(&format!(
                "the context was trimmed from about {} to {} tokens\n",
                trim.tokens_before, trim.tokens_after
            )),
            Event::Error(error) => output::stderr(&format!("{}\n", error.message)),
            _ => {}
        }
    }

    /// Says at once that the disk makes trouble, and when it is over.
    fn tell_trouble(&mut self, progress: &Progress) {
        let now = progress.trouble.as_ref().map(ToString::to_string);
        match (&self.trouble, &now) {
            (before, Some(trouble)) if before.as_ref() != Some(trouble) => {
                output::stderr(&format!("warning: {trouble}; what is not written is kept in memory and tried again\n"));
            }
            (Some(_), None) => output::stderr("the session is being written again\n"),
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
