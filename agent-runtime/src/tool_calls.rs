//! The tool calls of an answer: prepare (arguments, permission), execute, finalise. Each ends with exactly one result.
//!
//! Calls without side effects run side by side; a call with side effects runs alone, after `tool.started` is durable, so that a
//! crash can never hide that it may have run.

use crate::agent_loop::{Stop, TurnTask};
use crate::answer::PIECE_WINDOW;
use crate::output_sink::OutputSink;
use crate::permissions::{PermissionMode, Permissions};
use crate::projection::with_output;
use crate::secrets::without_credentials;
use crate::session::lock;
use crate::tokens::{count_tokens, floor_char_boundary};
use crate::tool::{Approval, ApprovalRequest, Tool, ToolContext, ToolError, ToolOutput};
use crate::tools::check_arguments;
use crate::turn::{Denial, EndReason, TurnError};
use futures_util::future::join_all;
use serde_json::Value;
use session_store::{
    Error, SideRef, TodosChanged, ToolApproved, ToolCall, ToolDenied, ToolFinished, ToolOutcome, ToolOutputPiece, ToolStarted,
};
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::Instant;

/// What a model sees of a result at most, in bytes; the whole is kept beside the log.
const RESULT_BYTES: usize = 32 * 1024;
/// What a model sees of a result at least, where it is that long.
const RESULT_BYTES_LEAST: usize = 256;
/// How much of a tool's output is logged while it runs, in bytes: a piece takes a part of what is left, so that much output in a short time is there,
/// and the newest of a flood that lasts.
const LOGGED_BYTES: usize = 1 << 20;
const LOGGED_PART: usize = 16;
const LOGGED_LEAST: usize = 1024;
/// How long a tool has to end by itself once the turn is interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_millis(20);
/// The same call is refused this often before the turn ends.
const DENIED_MAX: u32 = 3;

/// A call that may run.
struct Prepared {
    call: ToolCall,
    tool: Arc<dyn Tool>,
    arguments: Value,
    context: ToolContext,
}

/// How a tool's run ended.
enum Ran {
    Finished(Result<ToolOutput, ToolError>),
    Panicked(JoinError),
    /// With what the tool itself said of it, where it was quick.
    Interrupted(Option<String>),
    OutOfTime(Duration),
    /// The store is in trouble: what this tool does could not be written down.
    Unwritten(String),
}

enum Verdict {
    Approved(&'static str),
    Denied { by: String, reason: String },
}

impl TurnTask {
    /// Runs the calls of an answer, in order where they have side effects.
    pub(crate) async fn run_tools(&mut self, calls: &[ToolCall]) -> Result<(), Stop> {
        // A result must not fill the window, nor all results of an answer together: half of it is theirs.
        let bound = self.shared.budget().input / 2 / calls.len().max(1) as u64;
        let mut readers = Vec::new();
        for call in calls {
            let Some(prepared) = self.prepare(call).await? else { continue };
            if prepared.tool.side_effects() {
                self.run_side_by_side(std::mem::take(&mut readers), bound).await?;
                self.run_alone(prepared, bound).await?;
            } else {
                readers.push(prepared);
            }
        }
        self.run_side_by_side(readers, bound).await?;
        if self.denied.values().any(|times| *times >= DENIED_MAX) {
            return Err(Stop::End(EndReason::Denied));
        }
        Ok(())
    }

    /// Checks the arguments and the permission; nothing where the call got its result already.
    async fn prepare(&mut self, call: &ToolCall) -> Result<Option<Prepared>, Stop> {
        let setup = lock(&self.shared.setup).clone();
        let Some(tool) = setup.tools.iter().find(|tool| tool.spec().name == call.name).cloned() else {
            let names: Vec<String> = setup.tools.iter().map(|tool| tool.spec().name).collect();
            let why = format!("There is no tool `{}`. The tools are: {}.", call.name, names.join(", "));
            self.finish_call(call, ToolOutcome::InvalidArguments, &why)?;
            return Ok(None);
        };
        let checked = check_arguments(&tool.spec(), &call.arguments).and_then(|arguments| setup.secrets.reveal(arguments));
        let arguments = match checked {
            Ok(arguments) => arguments,
            Err(why) => {
                self.finish_call(call, ToolOutcome::InvalidArguments, &why)?;
                return Ok(None);
            }
        };
        let context = ToolContext {
            session: self.shared.log.id(),
            call: call.id.clone(),
            cwd: setup.cwd.clone(),
            add_dirs: setup.add_dirs.clone(),
            env: Arc::new(without_credentials(&setup.env)),
            interrupt: self.interrupt.clone(),
            todos: self.shared.todos.get(),
            output: OutputSink::new(&setup.secrets, self.shared.bumper()),
        };
        let prepared = Prepared { call: call.clone(), tool, arguments, context };
        match self.permit(&setup.permissions, &prepared).await? {
            Verdict::Approved(by) => {
                self.append(ToolApproved { call: call.id.clone(), by: by.to_owned() }).await?;
                Ok(Some(prepared))
            }
            Verdict::Denied { by, reason } => {
                self.deny(call, &by, reason).await?;
                Ok(None)
            }
        }
    }

    async fn permit(&self, permissions: &Permissions, prepared: &Prepared) -> Result<Verdict, Stop> {
        let name = &prepared.call.name;
        if permissions.disallowed.contains(name) {
            return Ok(denied("disallowed_tools", format!("the tool `{name}` is disallowed in this session")));
        }
        if permissions.allowed.contains(name) {
            return Ok(Verdict::Approved("allowed_tools"));
        }
        let needs_approval = match permissions.mode {
            PermissionMode::Allow => None,
            PermissionMode::Ask if permissions.approver.as_ref().is_some_and(|approver| approver.decides_all()) => Some(true),
            _ => Some(self.needs_approval(prepared).await?),
        };
        match (permissions.mode, needs_approval, &permissions.approver) {
            (PermissionMode::Allow, ..) | (_, Some(false), _) => Ok(Verdict::Approved("mode")),
            (PermissionMode::ReadOnly, ..) => Ok(denied("mode", "the permission mode is read-only".to_owned())),
            (PermissionMode::Ask, ..) if lock(&self.shared.approved).contains(name) => Ok(Verdict::Approved("session")),
            (PermissionMode::Ask, _, None) => {
                Ok(denied("nobody_to_ask", "it needs approval, and nobody can be asked".to_owned()))
            }
            (PermissionMode::Ask, _, Some(approver)) => {
                let request = ApprovalRequest {
                    call: prepared.call.id.clone(),
                    tool: name.clone(),
                    arguments: prepared.call.arguments.clone(),
                    description: prepared.tool.describe(&prepared.arguments),
                };
                Ok(match self.guard(approver.ask(request)).await? {
                    Approval::Approve => Verdict::Approved("user"),
                    Approval::ApproveAlways => {
                        lock(&self.shared.approved).insert(name.clone());
                        Verdict::Approved("user")
                    }
                    Approval::Deny(reason) if reason.trim().is_empty() => denied("user", "the user said no".to_owned()),
                    Approval::Deny(reason) => denied("user", format!("the user said no: {reason}")),
                    Approval::Forbid { by, reason } => Verdict::Denied { by, reason },
                })
            }
        }
    }

    /// Asks the tool on a thread that may block: where a path leads is a question to the disk. One that cannot say needs approval.
    async fn needs_approval(&self, prepared: &Prepared) -> Result<bool, Stop> {
        let (tool, arguments, context) = (Arc::clone(&prepared.tool), prepared.arguments.clone(), prepared.context.clone());
        let asked = tokio::task::spawn_blocking(move || tool.needs_approval(&arguments, &context));
        Ok(self.guard(asked).await?.unwrap_or(true))
    }

    async fn deny(&mut self, call: &ToolCall, by: &str, reason: String) -> Result<(), Stop> {
        let reason = self.shared.hide(reason);
        let id = call.id.clone();
        self.append(ToolDenied { call: id, by: by.to_owned(), reason: reason.clone() }).await?;
        self.finish_call(call, ToolOutcome::Denied, &format!("Denied: {reason}."))?;
        *self.denied.entry((call.name.clone(), call.arguments.clone())).or_default() += 1;
        let (tool, arguments) = (call.name.clone(), call.arguments.clone());
        self.denials.push(Denial { tool, arguments, reason, by: by.to_owned() });
        Ok(())
    }

    async fn run_side_by_side(&mut self, readers: Vec<Prepared>, bound: u64) -> Result<(), Stop> {
        for prepared in &readers {
            self.append(started(prepared)).await?;
        }
        let execute = async |prepared| (self.execute(prepared).await, prepared);
        let ended = join_all(readers.iter().map(execute)).await;
        let mut stop = None;
        for ((ran, took), prepared) in ended {
            stop = self.finalise(prepared, ran, took, bound).await?.or(stop);
        }
        stop.map_or(Ok(()), Err)
    }

    async fn run_alone(&mut self, prepared: Prepared, bound: u64) -> Result<(), Stop> {
        // Nothing with side effects starts while a killed process may still be at work.
        self.guard(crate::tools::reaper().idle(self.shared.log.id())).await?;
        let entry = self.append(started(&prepared)).await?;
        let shared = Arc::clone(&self.shared);
        self.guard(shared.log.durable(entry.seq)).await??;
        let (ran, took) = self.execute(&prepared).await;
        self.finalise(&prepared, ran, took, bound).await?.map_or(Ok(()), Err)
    }

    /// Runs a tool in a task of its own, so that its panic is its own, until it ends, is interrupted, is out of time, or can no longer be
    /// written down.
    async fn execute(&self, prepared: &Prepared) -> (Ran, Duration) {
        let start = Instant::now();
        let limit = prepared.tool.time_limit();
        let interrupt = prepared.context.interrupt.clone();
        let (tool, arguments, context) = (Arc::clone(&prepared.tool), prepared.arguments.clone(), prepared.context.clone());
        let _shown = self.shared.show_output(&prepared.call.id, &prepared.context.output);
        let mut task = AbortOnDrop(tokio::spawn(async move { tool.run(arguments, context).await }));
        let ran = tokio::select! {
            biased;
            ended = &mut task.0 => ended.map_or_else(Ran::Panicked, Ran::Finished),
            () = interrupt.raised() => {
                // A tool that listens gets to say what it did; its words are the result then, and the turn still stops.
                let words = match tokio::time::timeout(INTERRUPT_GRACE, &mut task.0).await {
                    Ok(Ok(Ok(output))) => Some(output.text),
                    Ok(Ok(Err(error))) => Some(error.0),
                    _ => None,
                };
                Ran::Interrupted(words)
            }
            why = self.trouble() => Ran::Unwritten(why),
            () = tokio::time::sleep(limit) => Ran::OutOfTime(limit),
            never = self.log_output(prepared) => match never {},
        };
        (ran, start.elapsed())
    }

    /// Logs what the tool puts out, for as long as it runs. A log that is full is not waited for: what it had no room for is in a later piece.
    async fn log_output(&self, prepared: &Prepared) -> Infallible {
        let output = &prepared.context.output;
        let (mut logged, mut left) = (0, LOGGED_BYTES);
        loop {
            output.more_than(logged).await;
            tokio::time::sleep(PIECE_WINDOW).await;
            let (offset, text) = output.since(logged, (left / LOGGED_PART).max(LOGGED_LEAST));
            let bytes = text.len();
            let piece = ToolOutputPiece { call: prepared.call.id.clone(), offset, text };
            if self.shared.append_with(|log| log.append_within(piece.into(), PIECE_WINDOW)).is_ok() {
                logged = offset + bytes as u64;
                left = left.saturating_sub(bytes);
            }
        }
    }

    /// Logs the one result. Gives a reason to stop where there is one; the results of the other calls come first.
    async fn finalise(&self, prepared: &Prepared, ran: Ran, took: Duration, bound: u64) -> Result<Option<Stop>, Stop> {
        let mut stop = None;
        let mut images = Vec::new();
        let output_so_far = || prepared.context.output.text();
        let (outcome, text) = match ran {
            Ran::Finished(Ok(output)) => {
                images = output.images;
                if let Some(mut todos) = output.todos {
                    let secrets = lock(&self.shared.setup).secrets.clone();
                    todos.iter_mut().for_each(|todo| todo.content = secrets.hide(std::mem::take(&mut todo.content)));
                    self.shared.append(TodosChanged { todos: Arc::new(todos) })?;
                }
                (ToolOutcome::Ok, output.text)
            }
            Ran::Finished(Err(error)) => (ToolOutcome::Error, error.0),
            Ran::OutOfTime(limit) => {
                let limit = limit.as_secs_f64();
                let words = format!("Stopped at its time limit of {limit} s; it may have had some effect.");
                (ToolOutcome::Timeout, with_output(&words, &output_so_far()))
            }
            Ran::Interrupted(words) => {
                stop = Some(Stop::End(EndReason::Interrupted));
                let stopped = "Stopped by the user while it ran; it may have had some effect.";
                (ToolOutcome::Interrupted, words.unwrap_or_else(|| with_output(stopped, &output_so_far())))
            }
            Ran::Unwritten(why) => {
                stop = Some(Stop::Failed(TurnError::Store(why)));
                let words = "Stopped while it ran, because the session could not be stored; it may have had some effect.";
                (ToolOutcome::Interrupted, with_output(words, &output_so_far()))
            }
            Ran::Panicked(panic) => {
                let message = format!("the tool `{}` failed by a defect of its own: {panic}", prepared.call.name);
                let message = self.shared.hide(message);
                self.shared.append(Error { scope: "tool".to_owned(), message: message.clone() })?;
                stop = Some(Stop::Failed(TurnError::Panic(message.clone())));
                (ToolOutcome::Error, message)
            }
        };
        let text = self.shared.hide(text);
        let (output, full) = self.shorten(text, bound).await?;
        let images = self.shared.keep_images(images).await?;
        let (call, name) = (prepared.call.id.clone(), prepared.call.name.clone());
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let entry = self.shared.append(ToolFinished { call, name, outcome, output, full, images, duration_ms })?;
        self.shared.log.start_commit(entry.seq);
        Ok(stop)
    }

    /// A result of more than `most` tokens, or of more than [`RESULT_BYTES`], is kept whole beside the log, and the model sees its head and its tail.
    async fn shorten(&self, text: String, most: u64) -> Result<(String, Option<SideRef>), Stop> {
        let mut bytes = RESULT_BYTES;
        let mut short = head_and_tail(&text, bytes);
        loop {
            let tokens = self.tokens_at_most(&short, most).await;
            if tokens <= most || bytes <= RESULT_BYTES_LEAST {
                break;
            }
            // A little less than its share, so that another look is rarely needed.
            let share = short.len() as u128 * u128::from(most) * 15 / (u128::from(tokens) * 16);
            bytes = usize::try_from(share).unwrap_or(bytes).clamp(RESULT_BYTES_LEAST, bytes - 1);
            short = head_and_tail(&text, bytes);
        }
        if short.len() == text.len() {
            return Ok((text, None));
        }
        let short = short.into_owned();
        let full = self.shared.log.put_side(text.into_bytes())?;
        Ok((short, Some(full)))
    }

    /// How many tokens `text` takes; as many as it has bytes, where that is little enough, or where there is no time to count.
    async fn tokens_at_most(&self, text: &str, enough: u64) -> u64 {
        let bytes = text.len() as u64;
        if bytes <= enough {
            return bytes;
        }
        let factor = self.shared.model().limits().token_factor;
        let text = text.to_owned();
        let counted = self.guard(tokio::task::spawn_blocking(move || count_tokens(&text))).await;
        counted.ok().and_then(Result::ok).map_or(bytes, |counted| (counted as f64 * factor).ceil() as u64)
    }
}

/// `text`, or where it is longer than `bytes` its start and its end, about so many together.
fn head_and_tail(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let head = floor_char_boundary(text, bytes / 4 * 3);
    let tail = floor_char_boundary(text, text.len() - bytes / 4);
    let left_out = tail - head;
    Cow::Owned(format!("{}\n[... {left_out} bytes left out ...]\n{}", &text[..head], &text[tail..]))
}

fn denied(by: &'static str, reason: String) -> Verdict {
    Verdict::Denied { by: by.to_owned(), reason }
}

fn started(prepared: &Prepared) -> ToolStarted {
    ToolStarted { call: prepared.call.id.clone(), name: prepared.call.name.clone(), side_effects: prepared.tool.side_effects() }
}

/// Whoever awaits a tool owns it: when the wait is dropped, so is the tool.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
