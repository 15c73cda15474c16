//! `shell`: a command, and everything it starts.
//!
//! Parties: the tool's future, which somebody waits for and may drop at any time; a task of its own for each command, which
//! owns the child and its pipe; the [`Reaper`](super::Reaper), which knows of the task until it is over.
//!
//! ```text
//!   run() --spawn--> supervise: read the pipe, wait for the shell
//!     |                 |-- shell ended: what is in the pipe is taken, `ended` is sent
//!     |<---- ended -----|
//!     |---- stop ------>|   (interrupt, time limit, or the future was dropped: the sender is gone)
//!   told at once        |-- SIGTERM, 2 s, SIGKILL to all that is left; then the reaper is told
//! ```
//!
//! Promises: the command runs in a session of its own without a terminal and with an empty standard input, so that nothing can
//! ask a person behind the chat's back; its output is bounded in memory; after a command has ended, been interrupted or met
//! its limit, nothing that it started goes on: its process group, and on Linux also what left the group (each process
//! carries [`MARKER`] in its environment, and `/proc` is searched for it).
//!
//! What can go wrong: a process that the kernel cannot end (a hung mount) is given up after [`KILL_WAIT`], with a warning. Where there is no
//! `/proc`, a process that starts a session of its own is not found. A process that clears its environment and leaves
//! the group is not found either.

use super::reaper::{Busy, reaper};
use super::{number, text, visible};
use crate::output_sink::OutputSink;
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use process_wrap::tokio::{ChildWrapper, CommandWrap, ProcessSession};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};
use session_store::ToolSpec;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// The environment variable that every process of a command inherits: which call started it.
const MARKER: &str = "LONGHAND_TOOL_CALL";
/// Where the model gives no limit.
const TIME_LIMIT_DEFAULT_S: usize = 120;
/// The longest limit a model may give.
const TIME_LIMIT_MAX_S: u64 = 600;
/// How long output is waited for after the shell has ended while something else still holds the pipe.
const DRAIN_WAIT: Duration = Duration::from_millis(100);
/// Between SIGTERM and SIGKILL.
const TERM_WAIT: Duration = Duration::from_secs(2);
/// After SIGKILL, before a process is given up.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How often what lives is looked for and killed where nothing can be awaited; a look takes about a millisecond.
const DROP_LOOKS_MAX: u32 = 100;
/// Between two looks at what still lives: the first is short, as most commands leave nothing.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// Runs a command with `sh -c` in the working directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShellTool;

#[async_trait]
impl Tool for ShellTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "shell".into(),
            description: "Run a command with `sh -c` in the working directory. Gives its output (standard output and error together) and \
                          its exit status. There is no terminal and no standard input. When the command ends, everything it started is \
                          ended too: nothing can be left running in the background."
                .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "command": {"type": "string", "minLength": 1, "description": "The command, as a POSIX shell reads it."},
                    "time_limit": {"type": "integer", "minimum": 1, "maximum": 600, "description": "Seconds after which it is stopped; 120 by default."}
                },
                "required": ["command"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        true
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("shell: {}", visible(text(arguments, "command")))
    }

    /// A little over the longest limit that a model can give: the tool itself ends a command at its own.
    fn time_limit(&self) -> Duration {
        Duration::from_secs(TIME_LIMIT_MAX_S + 5)
    }

    async fn run(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let limit = number(&arguments, "time_limit", TIME_LIMIT_DEFAULT_S);
        let command = text(&arguments, "command").to_owned();
        if command.contains('\0') {
            return Err(ToolError("a command cannot hold a NUL character".into()));
        }
        let (interrupt, output) = (context.interrupt.clone(), context.output.clone());
        let mut running = Running::start(command, context).await?;
        let end = tokio::select! {
            biased;
            ended = &mut running.ended => End::Ended(ended.unwrap_or(None)),
            () = interrupt.raised() => End::Interrupted,
            () = sleep(Duration::from_secs(limit as u64)) => End::Limit(limit),
        };
        // It is being stopped while its words are put together.
        drop(running);
        end.told(output.text())
    }
}

/// How a call ends.
enum End {
    /// The shell ended; its status, where it could be told.
    Ended(Option<ExitStatus>),
    Interrupted,
    /// The limit, in seconds.
    Limit(usize),
}

impl End {
    fn told(self, mut output: String) -> Result<ToolOutput, ToolError> {
        if !output.is_empty() && !output.ends_with('\n') {
            output.push('\n');
        }
        match self {
            Self::Ended(Some(status)) if status.success() => {
                Ok(ToolOutput::text(if output.is_empty() { "[no output]\n".into() } else { output }))
            }
            Self::Ended(Some(status)) => Err(ToolError(format!("{output}[{}]\n", status_words(status)))),
            Self::Ended(None) => Err(ToolError(format!("{output}[how the command ended is not known]\n"))),
            Self::Interrupted => Err(ToolError(format!("{output}[interrupted: the command was stopped]\n"))),
            Self::Limit(seconds) => Err(ToolError(format!("{output}[time limit of {seconds} s: the command was stopped]\n"))),
        }
    }
}

fn status_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A command under way, as the tool's future sees it. To drop it stops the command.
struct Running {
    ended: oneshot::Receiver<Option<ExitStatus>>,
    /// Its end tells the supervising task to stop.
    _stop: oneshot::Sender<()>,
}

impl Running {
    async fn start(command: String, context: ToolContext) -> Result<Self, ToolError> {
        let busy = reaper().enter(context.session);
        let output = context.output.clone();
        // A fork of a large process takes milliseconds.
        let spawned = tokio::task::spawn_blocking(move || Spawned::start(&command, &context, busy));
        let spawned = spawned
            .await
            .map_err(|_| ToolError("the runtime is shutting down".into()))?
            .map_err(|error| ToolError(format!("the command could not be started: {error}")))?;
        let (ended_sender, ended) = oneshot::channel();
        let (stop_sender, stop) = oneshot::channel();
        // Owned by the reaper: `idle` returns only after the task has ended.
        tokio::spawn(spawned.supervise(output, ended_sender, stop));
        Ok(Self { ended, _stop: stop_sender })
    }
}

/// A command's processes, as the supervising task owns them. Dropped (a runtime that is torn down), it kills what is left.
struct Spawned {
    child: Box<dyn ChildWrapper>,
    pipe: pipe::Receiver,
    family: Family,
    busy: Busy,
}

impl Spawned {
    fn start(command: &str, context: &ToolContext, busy: Busy) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let errors = writer.try_clone()?;
        // Before the start: where a runtime is torn down right now, `spawn` can fail with the process already running.
        let mut family = Family { group: None, marker: marker(context), over: false };
        let mut shell = CommandWrap::with_new("/bin/sh", |shell| {
            shell
                .args(["-c", command])
                .current_dir(&context.cwd)
                .env_clear()
                .envs(context.env.iter().map(|(name, value)| (name, value)))
                .env(MARKER, &family.marker)
                .stdin(Stdio::null())
                .stdout(writer)
                .stderr(errors);
        });
        let child = shell.wrap(ProcessSession).spawn()?;
        family.group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // `shell` holds the writing ends: with it goes the last of them that is ours.
        drop(shell);
        Ok(Self { child, pipe: pipe::Receiver::from_owned_fd(reader.into())?, family, busy })
    }

    async fn supervise(
        mut self,
        output: OutputSink,
        ended: oneshot::Sender<Option<ExitStatus>>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let status = tokio::select! {
            biased;
            _ = &mut stop => None,
            status = follow(&mut *self.child, &mut self.pipe, &output) => Some(status),
        };
        if let Some(status) = status {
            // Nobody may wait any more, and that is fine.
            let _ = ended.send(status);
        }
        self.end().await;
    }

    /// Ends all that is left of the command: SIGTERM, 2 s, SIGKILL.
    async fn end(&mut self) {
        if self.is_over(Instant::now()).await {
            return;
        }
        self.family.signal(Signal::TERM).await;
        let killed = self.busy.killed();
        let is_over = tokio::select! {
            is_over = self.is_over(Instant::now() + TERM_WAIT) => is_over,
            () = killed => false,
        };
        if is_over {
            return;
        }
        // Again and again: what is being born while the list is read is found the next time.
        let give_up = Instant::now() + KILL_WAIT;
        while Instant::now() < give_up {
            self.family.signal(Signal::KILL).await;
            if self.is_over(Instant::now() + LOOK_MAX).await {
                return;
            }
        }
        tracing::warn!(group = Pid::as_raw(self.family.group), "a process of a shell command cannot be ended");
        self.family.over = true;
    }

    /// Looks until nothing of the command lives, or until `end`; at least once.
    async fn is_over(&mut self, end: Instant) -> bool {
        let mut pause = LOOK_FIRST;
        loop {
            // The shell itself is ours to reap; an error says that it is reaped.
            let reaped = !matches!(self.child.inner_mut().try_wait(), Ok(None));
            if reaped && self.family.living().await.is_empty() {
                self.family.over = true;
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }
}

/// Takes the output as it comes until the shell has ended, and then what is left in the pipe.
async fn follow(child: &mut dyn ChildWrapper, pipe: &mut pipe::Receiver, output: &OutputSink) -> Option<ExitStatus> {
    let mut buffer = vec![0; 64 * 1024];
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = child.inner_mut().wait() => break status.ok(),
            read = pipe.read(&mut buffer), if open => {
                open = take(&read, &buffer, output);
                // However much there is, whoever stops it has a turn.
                tokio::task::yield_now().await;
            }
        }
    };
    // Something that was left in the background may hold the pipe for ever.
    let _ = timeout(DRAIN_WAIT, async {
        while open {
            open = take(&pipe.read(&mut buffer).await, &buffer, output);
        }
    })
    .await;
    status
}

/// Whether there may be more.
fn take(read: &io::Result<usize>, buffer: &[u8], output: &OutputSink) -> bool {
    match read {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            output.write(&buffer[..*count]);
            true
        }
    }
}

/// A name for the call that no other process has. A longhand that runs inside a command keeps the outer names in front: the
/// outer command's end finds the inner one's processes too.
fn marker(context: &ToolContext) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let outer = context.env.iter().find(|(name, _)| name == MARKER).map_or("", |(_, value)| value);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{outer}/{}:{}:{}-{count}", context.session, context.call, std::process::id())
}

/// Everything that a command started.
struct Family {
    /// The shell's process group, which has its process id; nothing before it has started.
    group: Option<Pid>,
    /// In the environment of each process.
    marker: String,
    /// Whether nothing is left.
    over: bool,
}

impl Family {
    async fn signal(&self, signal: Signal) {
        self.signal_group(signal);
        signal_all(&self.living().await, signal);
    }

    fn signal_group(&self, signal: Signal) {
        // ESRCH: it is gone already.
        let _ = self.group.map(|group| kill_process_group(group, signal));
    }

    /// The processes that live, zombies not counted.
    async fn living(&self) -> Vec<Pid> {
        let (group, marker) = (self.group, self.marker.clone());
        // /proc of a machine with many processes takes milliseconds.
        tokio::task::spawn_blocking(move || living(group, &marker)).await.unwrap_or_default()
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.signal_group(Signal::KILL);
        // Nothing can be awaited here. A process that was being born while the list was read is found the next time.
        for _ in 0..DROP_LOOKS_MAX {
            let living = living(self.group, &self.marker);
            if living.is_empty() {
                return;
            }
            signal_all(&living, Signal::KILL);
        }
    }
}

fn signal_all(processes: &[Pid], signal: Signal) {
    for pid in processes {
        let _ = kill_process(*pid, signal);
    }
}

#[cfg(target_os = "linux")]
fn living(group: Option<Pid>, marker: &str) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return group_leader(group) };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| belongs(*pid, group, marker))
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn living(group: Option<Pid>, _marker: &str) -> Vec<Pid> {
    group_leader(group)
}

/// The leader stands for its group, as far as the kernel tells without a list of processes.
fn group_leader(group: Option<Pid>) -> Vec<Pid> {
    group.filter(|group| test_kill_process_group(*group).is_ok()).into_iter().collect()
}

#[cfg(target_os = "linux")]
fn belongs(pid: Pid, group: Option<Pid>, marker: &str) -> bool {
    let path = |file| format!("/proc/{}/{file}", pid.as_raw_nonzero());
    let Ok(stat) = std::fs::read_to_string(path("stat")) else { return false };
    // `pid (name) state parent group ...`, and a name may hold anything.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let mut fields = fields.split(' ');
    let (state, of_group) = (fields.next(), fields.nth(1).and_then(|field| field.parse().ok()).and_then(Pid::from_raw));
    if matches!(state, Some("Z" | "X")) {
        return false;
    }
    if group.is_some() && of_group == group {
        return true;
    }
    // Only processes of the same user can be read, and no other can be ended.
    std::fs::read(path("environ")).is_ok_and(|environ| contains(&environ, marker.as_bytes()))
}

#[cfg(target_os = "linux")]
fn contains(environ: &[u8], marker: &[u8]) -> bool {
    let ours = |variable: &[u8]| {
        let value = variable.strip_prefix(MARKER.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| value == marker || value.starts_with(marker) && value[marker.len()] == b'/')
    };
    environ.split(|byte| *byte == 0).any(ours)
}
