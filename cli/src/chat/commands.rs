//! What the commands of the chat do.

use super::attached::Attached;
use super::driver::{Chat, Done, change, unless_given_up, words};
use super::feed::{sentence, todo_lines};
use super::rewind::{self, Place, RewindList};
use super::slash::{COMMANDS, ExportFormat, Slash};
use super::styled::{BOLD, DIM, ERROR, Line, PLAIN, WARN};
use crate::commands::sessions::export;
use crate::commands::usage::cost_words;
use crate::error::CliError;
use crate::images;
use crate::resolve::short_id;
use crate::safe_text::safe_line;
use crate::setup::SessionChoice;
use agent_runtime::session_store::{Seq, StoreError, Undoable, Usage};
use agent_runtime::{PermissionMode, Permissions, Session, Spent};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// The key table of `/help`.
const KEYS: [(&str, &str); 13] = [
    ("Enter", "send; during a turn: steer, taken in after the current tools"),
    ("Ctrl-J, or \\ before Enter", "new line"),
    ("Alt-Enter", "new line; during a turn: wait for its end"),
    ("Esc", "stop, keeping what came"),
    ("Esc Esc", "go back to an earlier message"),
    ("Ctrl-C", "clear the text; stop; twice on an empty line: leave"),
    ("Ctrl-D", "leave, on an empty line"),
    ("Up, Down, Ctrl-R", "what was typed before; search it"),
    ("Tab", "complete a command or a file"),
    ("@", "a file of this directory"),
    ("!", "run a command; the model is told with the next message"),
    ("Ctrl-G", "write in your editor"),
    ("Ctrl-_, Ctrl-Y", "undo; put back what was deleted"),
];

impl Chat<'_> {
    /// Does what the command says.
    pub(super) fn command(&mut self, command: Slash) {
        match command {
            Slash::Help => self.ui.print(help()),
            Slash::Model(name) => self.model(name.as_deref()),
            Slash::Effort(effort) => self.effort(effort),
            Slash::Resume(None) => self.list(),
            Slash::Resume(Some(which)) => self.resume(which),
            Slash::New => self.new_session(),
            Slash::Fork => self.with_session(|chat, session| chat.open(SessionChoice::Fork { parent: session.id(), at: None })),
            Slash::Todos => self.with_session(|chat, session| {
                let lines = todo_lines(&session.todos(), chat.ui.look);
                chat.ui.print(lines);
            }),
            Slash::Rewind { undo: false } => self.with_session(|chat, session| match session.state(RewindList::new) {
                Some(list) => chat.ui.choose_place(list),
                None => chat.ui.hint("there is no message to go back to"),
            }),
            Slash::Rewind { undo: true } => self.with_session(|chat, session| match session.state(rewind::last_rewind) {
                Some(place) => chat.go_back(place),
                None => chat.ui.hint("there is no rewind to undo"),
            }),
            Slash::Context { undo: false } => self.with_session(Self::context),
            Slash::Context { undo: true } => self.with_session(Self::undo_trim),
            Slash::Pin => self.with_session(|chat, session| match session.state(RewindList::pins) {
                Some(list) => chat.ui.choose_place(list),
                None => chat.ui.hint("there is no message to pin"),
            }),
            Slash::Usage => self.with_session(|chat, session| {
                let lines = session.state(|state| usage(&state.usage, state.last_usage.as_ref().map(|(_, usage)| usage)));
                chat.ui.print(lines);
                if chat.is_idle() {
                    chat.cost(session);
                }
            }),
            Slash::Tools => self.tools(),
            Slash::Permissions(mode) => self.permissions(mode),
            Slash::Compact(keep) => self.with_session(|chat, session| chat.compact(session, keep)),
            Slash::Export { format, path } => self.with_session(|chat, session| chat.export(&session, format, path)),
            Slash::Rename(name) => self.rename(name),
            Slash::Retry => self.with_session(|chat, session| {
                // Who asks again after the budget was used up allows more of it.
                if session.state(|state| state.last_turn.as_ref().is_some_and(|ended| ended.reason == "budget")) {
                    session.allow_more();
                }
                match session.retry() {
                    Ok(turn) => chat.begin_turn(turn),
                    Err(error) => chat.ui.tell(&words(&error.into()), ERROR),
                }
            }),
            Slash::Image(None) => self.ui.detach(),
            Slash::Image(Some(path)) => self.image(&path),
            Slash::Quit => self.leave_now(),
        }
    }

    fn with_session(&mut self, act: impl FnOnce(&mut Self, Session)) {
        match self.session.clone() {
            Some(session) => act(self, session),
            None => self.ui.hint("there is no session yet: it starts with the first message"),
        }
    }

    /// Reads an image for the next message.
    fn image(&mut self, path: &str) {
        let path = self.plan.cwd().join(path);
        let read = async move { Ok(Attached::new(&path, images::read_one(path.clone()).await?)) };
        match self.is_idle() {
            true => self.run_job("reading the image", Box::pin(async move { Done::Image(read.await) })),
            false if self.image.is_some() => self.ui.hint("another image is being read"),
            false => self.image = Some(Box::pin(read)),
        }
    }

    fn tell_error(&mut self, error: &CliError) {
        self.ui.tell(&words(error), ERROR);
    }

    fn model(&mut self, name: Option<&str>) {
        let Some(name) = name else {
            let of_session = self
                .session
                .as_ref()
                .and_then(|session| session.state(|state| state.profile.as_ref().map(|profile| profile.model.clone())));
            let model = match &self.pending.model {
                Some(model) => Ok(format!("{}/{}", model.origin().provider, model.origin().model)),
                None => of_session.map_or_else(|| self.plan.model_name(), Ok),
            };
            return match model {
                Ok(model) => self.ui.tell(&format!("{model} answers. `/model PROVIDER/NAME` changes that."), PLAIN),
                Err(error) => self.tell_error(&error),
            };
        };
        match self.plan.model(name) {
            Ok(model) => {
                self.pending.model = Some(model);
                self.ui.tell(&format!("{name} answers from the next message on."), PLAIN);
            }
            Err(error) => self.tell_error(&error),
        }
    }

    fn effort(&mut self, effort: Option<String>) {
        let of_session = self.session.as_ref().and_then(|session| {
            session.state(|state| state.profile.as_ref().and_then(|profile| profile.parameters.effort.clone()))
        });
        match effort {
            Some(effort) => {
                self.ui.tell(&format!("Effort {effort}, from the next message on."), PLAIN);
                self.pending.effort = Some(effort);
            }
            None => {
                let now = self.pending.effort.clone().or(of_session).unwrap_or_else(|| "the model's default".to_owned());
                self.ui.tell(&format!("The effort is {now}. It may be off, low, medium or high."), PLAIN);
            }
        }
    }

    fn resume(&mut self, which: String) {
        let (plan, approver, before) = (self.plan, Arc::clone(&self.approver), self.session.clone());
        self.run_opening("opening the session", |give_up| {
            Box::pin(async move {
                let opened = async {
                    let id = unless_given_up(&give_up, plan.resolve(&which)).await?;
                    if before.as_ref().is_some_and(|before| before.id() == id) {
                        return Err(CliError::failed("this is that session"));
                    }
                    change(plan, approver, before, SessionChoice::Resume(id), &give_up).await
                };
                Done::Opened(opened.await)
            })
        });
    }

    fn new_session(&mut self) {
        self.with_session(|chat, session| {
            chat.run_job(
                "letting go of the session",
                Box::pin(async move { Done::Closed(session.close().await.map_err(|error| words(&error.into()))) }),
            );
        });
    }

    fn context(&mut self, session: Session) {
        self.run_job(
            "counting",
            Box::pin(async move {
                let (tokens, room) = session.context_size().await;
                let percent = tokens.saturating_mul(100).checked_div(room).unwrap_or(100);
                let (messages, all) = session.state(|state| (state.context.len(), state.messages));
                let mut lines = vec![
                    row("the next request", format!("about {tokens} tokens of {room} ({percent}%)")),
                    row("messages in it", format!("{messages}, of {all} in the session")),
                ];
                let away: Vec<Undoable> = session.state(|state| state.undo_list().collect());
                for (what, undo, is_meant) in [("trimmed", "/context undo", false), ("rewound", "/rewind undo", true)] {
                    let changes = || away.iter().filter(|change| change.rewound_to.is_some() == is_meant);
                    if let Some(last) = changes().next_back() {
                        let all: usize = changes().map(|change| change.messages).sum();
                        let back = format!("`{undo}` brings back the last {}", last.messages);
                        lines.push(row(what, format!("{all} messages, in {} steps; {back}", changes().count())));
                    }
                }
                if let (pins @ 1.., tokens) = session.pinned_size().await {
                    let what = if pins == 1 { "1 message".to_owned() } else { format!("{pins} messages") };
                    lines.push(row("pinned", format!("{what}, about {tokens} tokens; `/pin` lists them")));
                }
                if let Some(summary) = session.state(|state| state.summary.clone()) {
                    let words = match &summary.text {
                        Some(text) => format!("ready for the next trim, {} words", text.split_whitespace().count()),
                        None => "being made".to_owned(),
                    };
                    lines.push(row("summary of old steps", words));
                }
                lines.push(row("session", session.id().to_string()));
                Done::Told(lines)
            }),
        );
    }

    /// Takes the conversation to `place`.
    pub(super) fn go_back(&mut self, place: Place) {
        // Somebody may have asked for the session while the list was looked at.
        let Some(session) = self.session.clone().filter(|_| !self.ui.is_working()) else { return };
        match place {
            Place::Undo { rewind, messages } => self.restore(session, rewind, messages),
            Place::Pin { message, is_pinned, .. } => self.pin(session, message, !is_pinned),
            Place::Before { message, text } => {
                let left = session.state(|state| state.messages_after(message.saturating_sub(1)));
                match session.rewind(message.saturating_sub(1)) {
                    Ok(_) => {
                        let count = if left == 1 { "1 message".to_owned() } else { format!("{left} messages") };
                        self.ui.tell(
                            &format!("Back to before this message: {count} left the conversation. `/rewind undo` brings them back; files stay as they are."),
                            PLAIN,
                        );
                        self.ui.give_back(&text);
                    }
                    Err(error) => self.ui.tell(&sentence(&error.to_string()), ERROR),
                }
            }
        }
    }

    fn pin(&mut self, session: Session, message: Seq, is_to_be: bool) {
        self.run_job(
            "counting",
            Box::pin(async move {
                let pinned = if is_to_be { session.pin(message).await } else { session.unpin(message) };
                Done::Told(vec![match pinned {
                    Ok(()) if is_to_be => {
                        Line::plain("This message stays in the context, whatever is trimmed; `/pin` takes that back.")
                    }
                    Ok(()) => Line::plain("This message may be trimmed again."),
                    Err(error) => Line::new(safe_line(&sentence(&error.to_string())), ERROR),
                }])
            }),
        );
    }

    fn undo_trim(&mut self, session: Session) {
        let trim = session.state(|state| state.undo_list().rfind(|change| change.rewound_to.is_none()));
        match trim {
            Some(trim) => self.restore(session, trim.by, trim.messages),
            None => self.ui.hint("there is no trim to undo"),
        }
    }

    /// Brings back what the event `undo` took out of the context.
    fn restore(&mut self, session: Session, undo: Seq, messages: usize) {
        self.run_job(
            "reading what comes back",
            Box::pin(async move {
                Done::Told(vec![match session.restore(undo).await {
                    Ok(_) if messages == 1 => Line::plain("1 message is back in the conversation."),
                    Ok(_) => Line::plain(format!("{messages} messages are back in the conversation.")),
                    Err(error) => Line::new(safe_line(&sentence(&error.to_string())), ERROR),
                }])
            }),
        );
    }

    /// Adds up what the session cost, from its log.
    fn cost(&mut self, session: Session) {
        let plan = self.plan;
        self.run_job(
            "adding up what it cost",
            Box::pin(async move {
                let spent = async {
                    session.flush().await?;
                    let mut spent = Spent::default();
                    let mut entries = plan.runtime().store().read(session.id(), 0).await?;
                    while let Some(entry) = entries.next().await? {
                        spent.take_in(&entry.event, plan.model_table());
                    }
                    Ok::<_, StoreError>(spent)
                };
                Done::Told(vec![match spent.await {
                    Ok(spent) => row("cost", cost(&spent)),
                    Err(error) => Line::new(words(&error.into()), ERROR),
                }])
            }),
        );
    }

    fn compact(&mut self, session: Session, keep: Option<String>) {
        self.run_job(
            "summing up what leaves the context",
            Box::pin(async move {
                let mut lines = Vec::new();
                match session.compact(keep.as_deref()).await {
                    Ok(compacted) => {
                        if let Some(why) = &compacted.without_summary {
                            lines.push(Line::new(safe_line(&format!("There is no summary: {}", sentence(why))), WARN));
                        }
                        lines.push(match compacted.messages {
                            0 => Line::plain("Nothing left the context."),
                            count => Line::plain(format!(
                                "{count} messages left the context; the log has them all, and `/context undo` brings them back."
                            )),
                        });
                    }
                    Err(error) => lines.push(Line::new(safe_line(&error.to_string()), ERROR)),
                }
                Done::Told(lines)
            }),
        );
    }

    fn export(&mut self, session: &Session, format: ExportFormat, path: Option<String>) {
        if format == ExportFormat::Jsonl && !self.plan.is_kept() {
            return self.ui.tell("With --no-session there is no log to copy; markdown and html work.", ERROR);
        }
        let id = session.id();
        let path = path.unwrap_or_else(|| format!("longhand-{}.{}", short_id(id), format.extension()));
        let path = self.plan.cwd().join(path);
        let (store, session) = (self.app.file_store(), session.clone());
        let target = path.clone();
        self.run_export(Box::pin(async move {
            let written = async {
                session.flush().await?;
                let format = match format {
                    ExportFormat::Jsonl => export::Format::Jsonl,
                    ExportFormat::Markdown => export::Format::Markdown,
                    ExportFormat::Html => export::Format::Html,
                };
                // Files are read and written there, and synced: a thread of its own keeps the keys and the turn going.
                let runtime = Handle::current();
                let write = move || runtime.block_on(export::write_file(&*store?, id, format, &target));
                spawn_blocking(write).await.map_err(|error| CliError::failed(format!("the export broke off: {error}")))?
            };
            Done::Told(vec![match written.await {
                Ok(()) => Line::plain(format!("Written to {}", safe_line(&path.to_string_lossy()))),
                Err(error) => Line::new(safe_line(&words(&error)), ERROR),
            }])
        }));
    }

    fn tools(&mut self) {
        let tools = self.plan.tools().iter().map(|tool| {
            let spec = tool.spec();
            let does = spec.description.split(['.', '\n']).next().unwrap_or_default().to_owned();
            let changes = if tool.side_effects() { " (changes things)" } else { "" };
            row(&spec.name, format!("{}{changes}", safe_line(&does)))
        });
        let tools: Vec<Line> = tools.collect();
        self.ui.print(if tools.is_empty() { vec![Line::new("The model sees no tools.", DIM)] } else { tools });
    }

    fn permissions(&mut self, mode: Option<PermissionMode>) {
        if let Some(mode) = mode {
            self.mode = Some(mode);
            if let Some(session) = &self.session {
                session.set_permissions(self.current_permissions());
            }
        }
        let permissions = self.current_permissions();
        let what = match permissions.mode {
            PermissionMode::Ask => "ask: what changes things or looks outside is asked about",
            PermissionMode::ReadOnly => "read-only: tools that change things do not run",
            PermissionMode::Allow => "allow: every tool runs without asking",
        };
        let mut lines = vec![row("mode", what)];
        for (title, names) in [("run without asking", &permissions.allowed), ("never run", &permissions.disallowed)] {
            if !names.is_empty() {
                lines.push(row(title, names.iter().cloned().collect::<Vec<_>>().join(", ")));
            }
        }
        self.ui.print(lines);
    }

    /// The permissions as the program was started with them, in the mode that was chosen since.
    pub(super) fn current_permissions(&self) -> Permissions {
        let permissions = self.plan.permissions(Some(Arc::clone(&self.approver)));
        Permissions { mode: self.mode.unwrap_or(permissions.mode), ..permissions }
    }

    fn rename(&mut self, name: String) {
        match &self.session {
            Some(session) => match session.rename(&name) {
                Ok(_) => self.ui.tell(&format!("This session is called {name}: `longhand -r '{name}'` goes on with it."), PLAIN),
                Err(error) => self.tell_error(&error.into()),
            },
            None => {
                self.ui.tell(&format!("The session will be called {name}."), PLAIN);
                self.pending.name = Some(name);
            }
        }
    }
}

fn row(title: &str, text: impl std::fmt::Display) -> Line {
    Line::new(format!("{title:<20}"), BOLD).with(format!(" {text}"), PLAIN)
}

fn help() -> Vec<Line> {
    let keys = KEYS.iter().map(|(key, does)| Line::new(format!("{key:<28}"), BOLD).with(*does, PLAIN));
    let commands = COMMANDS.iter().map(|command| {
        let name = format!("{} {}", command.name, command.arguments);
        Line::new(format!("{name:<36} "), BOLD).with(command.does, PLAIN)
    });
    keys.chain([Line::default()]).chain(commands).collect()
}

fn cost(spent: &Spent) -> String {
    match (cost_words(spent).as_str(), spent.unpriced_calls) {
        ("", _) => "not known: `longhand models` lists the prices that are known".to_owned(),
        (dollars, 0) => format!("{dollars} US dollars"),
        (dollars, unpriced) => format!("{dollars} US dollars; of {unpriced} calls it is not known"),
    }
}

fn usage(all: &Usage, last: Option<&Usage>) -> Vec<Line> {
    let tokens = |usage: &Usage| {
        let number = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        let mut text = format!("{} in, {} out", number(usage.input_tokens), number(usage.output_tokens));
        for (count, what) in [
            (usage.cache_read_tokens, "read from the cache"),
            (usage.cache_write_tokens, "written to the cache"),
            (usage.reasoning_tokens, "for reasoning"),
        ] {
            if let Some(count) = count {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    };
    let mut lines = vec![row("tokens, in all", tokens(all))];
    if let Some(last) = last {
        lines.push(row("the last call", tokens(last)));
    }
    lines
}
