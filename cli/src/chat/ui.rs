//! The chat as a state machine: keys and events go in; lines for the scrollback, the live area and [`Effect`]s come out. It knows no terminal, no session and no
//! clock; `mod.rs` connects it to them.

use super::approval::{Ask, Prompt, Taken};
use super::attached::{Attached, dropped, references};
use super::complete::{self, Completion, Lookup};
use super::editor::{Edit, Editor};
use super::feed::{self, Above, Feed, Part};
use super::history::History;
use super::keys::Key;
use super::live_area::{Frame, Size};
use super::markdown::Look;
use super::picker::{Choice, Picker};
use super::rewind::{self, Place, RewindList};
use super::slash::{self, Slash};
use super::styled::{BOLD, DIM, GOOD, Line, OWN, WARN};
use crate::output::DISK_ANSWERS_WITHIN;
use crate::safe_text::safe_line;
use agent_runtime::session_store::{Event, ImageRef, QueuedMessage, Seq, SessionId, Snippet, with_images};
use agent_runtime::{QUEUED_MAX, Tool, TurnEvent};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROMPT: &str = "> ";
/// Ctrl-C twice within this on an empty line leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Esc twice within this rewinds; and none of them so soon after one that stopped something.
const REWIND_WITHIN: Duration = Duration::from_secs(1);
const CANDIDATES_SHOWN: usize = 12;
const SPINNER: [&str; 8] = ["|", "/", "-", "\\", "|", "/", "-", "\\"];
/// How long a step of the spinner lasts: how often the live area changes by itself during a turn.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// What somebody outside has to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Start a turn with this message.
    Send(String),
    /// Give this message to the turn that runs.
    Steer(String),
    /// Do what this line says.
    Command(String, Slash),
    /// Run this command of the person's.
    Shell(String),
    /// Stop what runs; again: at once, whatever it does.
    Stop,
    /// Go on with this session.
    Picked(SessionId),
    /// The list of sessions was left without a choice.
    NotPicked,
    /// Send this message, which waited.
    SendWaiting(Waiting),
    /// This message waits no more: the person has it again.
    Withdraw(Seq),
    /// Show the places that the conversation can go back to.
    Rewind,
    /// Go there.
    GoBack(Place),
    /// Find sessions in which this was said, and give them to [`Ui::was_said`].
    FindSaid(String),
    /// Find these, and give them to [`Ui::completed`].
    LookUp(Lookup),
    OpenEditor,
    Suspend,
    Redraw,
    Leave,
}

/// A message that waits for what runs to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Waiting {
    pub(super) text: String,
    /// The images that go with it.
    pub(super) images: Vec<ImageRef>,
    /// The same with their bytes, so that they can be taken back; empty where it waited in another life of the program.
    pub(super) attached: Vec<Attached>,
    /// Its event, once it is in the log.
    pub(super) queued: Option<Seq>,
    /// It is not sent by itself: what it waited for did not end well, or in another life of the program.
    pub(super) is_held: bool,
}

impl Waiting {
    /// One that is in the log.
    pub(super) fn logged(queued: QueuedMessage) -> Self {
        let QueuedMessage { seq, text, images, .. } = queued;
        Self { text, images, attached: Vec::new(), queued: Some(seq), is_held: true }
    }

    /// What the person sees of it.
    pub(super) fn words(&self) -> Cow<'_, str> {
        with_images(&self.text, &self.images)
    }
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Work {
    /// Nothing: the person's turn.
    #[default]
    Idle,
    /// A turn.
    Turn { since: Instant },
    /// Something else that takes a while: its name.
    Other { what: String, since: Instant },
}

/// A search through the history.
struct Search {
    query: Editor,
    skip: usize,
    before: String,
}

/// What there is to know at the start.
pub(super) struct Start {
    pub(super) look: Look,
    pub(super) size: Size,
    pub(super) cwd: PathBuf,
    pub(super) history: History,
    pub(super) tools: Vec<Arc<dyn Tool>>,
}

/// The chat.
pub(super) struct Ui {
    pub(super) look: Look,
    pub(super) size: Size,
    cwd: PathBuf,
    editor: Editor,
    history: History,
    search: Option<Search>,
    picker: Option<Picker>,
    rewind: Option<RewindList>,
    prompts: VecDeque<Prompt>,
    feed: Feed,
    pub(super) above: Above,
    work: Work,
    is_stopping: bool,
    /// What runs waits for the disk of this folder.
    disk: Option<String>,
    /// The session's disk does not answer.
    pub(super) is_stalled: bool,
    /// Messages for after the turn.
    queue: VecDeque<Waiting>,
    /// Messages that the turn took, with their events, to be shown when the model is sent them.
    steered: Vec<(Seq, String)>,
    /// Images for the next message.
    images: Vec<Attached>,
    /// A word about the last key, until the next one.
    hint: Option<String>,
    candidates: Vec<String>,
    last_ctrl_c: Option<Instant>,
    /// The last Esc that stopped nothing, and the last key that did.
    last_escape: Option<Instant>,
    last_stop: Option<Instant>,
}

impl Ui {
    pub(super) fn new(start: Start) -> Self {
        Self {
            look: start.look,
            size: start.size,
            cwd: start.cwd,
            editor: Editor::default(),
            history: start.history,
            search: None,
            picker: None,
            rewind: None,
            prompts: VecDeque::new(),
            feed: Feed::new(start.look, &start.tools),
            above: Above::default(),
            work: Work::Idle,
            is_stopping: false,
            disk: None,
            is_stalled: false,
            queue: VecDeque::new(),
            steered: Vec::new(),
            images: Vec::new(),
            hint: None,
            candidates: Vec::new(),
            last_ctrl_c: None,
            last_escape: None,
            last_stop: None,
        }
    }

    /// Whether something runs, so that the live area changes by itself.
    pub(super) fn is_working(&self) -> bool {
        self.work != Work::Idle
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key, now: Instant) -> Option<Effect> {
        self.hint = None;
        if matches!(key, Key::Redraw) {
            return Some(Effect::Redraw);
        }
        if matches!(key, Key::Suspend) {
            return Some(Effect::Suspend);
        }
        if self.picker.is_some() {
            return self.picker_key(key);
        }
        if self.rewind.is_some() {
            return self.rewind_key(key);
        }
        if self.prompts.front().is_some() {
            return self.prompt_key(key, now);
        }
        if self.search.is_some() {
            return self.search_key(key, now);
        }
        self.input_key(key, now)
    }

    /// Takes a paste. It never sends anything.
    pub(super) fn paste(&mut self, text: &str, now: Instant) -> Option<Effect> {
        self.hint = None;
        if let Some(picker) = &mut self.picker {
            let choice = picker.paste(text);
            return self.chosen(choice);
        }
        if self.rewind.is_some() {
            return None;
        }
        if let Some(prompt) = self.prompts.front_mut()
            && prompt.paste(text, now) == Taken::Yes
        {
            return None;
        }
        self.search = None;
        if let Some(path) = dropped(text).filter(|_| self.editor.is_empty()) {
            self.editor.paste(&format!("/image {path}"));
            self.hint("Enter adds the image to the next message");
            return None;
        }
        self.editor.paste(text);
        self.suggest()
    }

    /// This image goes with the next message.
    pub(super) fn attach(&mut self, image: Attached) {
        self.images.push(image);
    }

    /// The images for the next message.
    pub(super) fn attached(&self) -> &[Attached] {
        &self.images
    }

    /// Takes them, for a message that is sent.
    pub(super) fn take_images(&mut self) -> Vec<Attached> {
        std::mem::take(&mut self.images)
    }

    /// Takes the last image off.
    pub(super) fn detach(&mut self) {
        match self.images.pop() {
            Some(image) => self.hint(format!("{} is not sent", image.words())),
            None => self.hint("`/image FILE` sends an image with the next message"),
        }
    }

    /// Shows a question of the runtime.
    pub(super) fn ask(&mut self, ask: Ask, now: Instant) {
        let prompt = Prompt::new(ask, now);
        prompt.print(self.look, self.size.limit(), &mut self.above);
        self.prompts.push_back(prompt);
    }

    /// Takes an event of the turn that runs.
    pub(super) fn turn_event(&mut self, event: &TurnEvent) {
        self.feed.event(event, self.size.limit(), &mut self.above);
        if let TurnEvent::Entry(entry) = event
            && matches!(entry.event, Event::ModelRequest(_))
        {
            self.show_steered(entry.seq);
        }
    }

    /// Something began to run.
    pub(super) fn begin(&mut self, work: Work) {
        self.work = work;
        self.is_stopping = false;
        self.disk = None;
    }

    /// What began to run waits for the disk of `home` first.
    pub(super) fn waits_for_disk(&mut self, home: &Path) {
        self.disk = Some(home.display().to_string());
    }

    /// A command of the person's began to run.
    pub(super) fn begin_shell(&mut self, command: &str) {
        self.feed.shell_started(command);
    }

    /// What ran is over. Where it ended well, gives the next message that waits, to be sent; else they wait for the person.
    pub(super) fn end(&mut self, ended_well: bool) -> Option<Waiting> {
        self.work = Work::Idle;
        self.is_stopping = false;
        self.feed.shell_ended();
        self.prompts.clear();
        self.show_steered(Seq::MAX);
        if !ended_well {
            self.queue.iter_mut().for_each(|waiting| waiting.is_held = true);
        }
        let next = self.queue.iter().position(|waiting| !waiting.is_held)?;
        self.queue.remove(next)
    }

    /// The person said this.
    pub(super) fn said(&mut self, text: &str) {
        feed::own_words(text, self.size.limit(), &mut self.above);
    }

    /// The turn that runs took this message.
    pub(super) fn steered(&mut self, seq: Seq, text: String) {
        self.steered.push((seq, text));
    }

    /// Of the messages that wait in the session, those that are not known here steered the turn that is over, and came too late for it.
    pub(super) fn missed(&mut self, queued: Vec<QueuedMessage>) {
        for message in queued {
            if !self.queue.iter().any(|waiting| waiting.queued == Some(message.seq)) {
                self.steered.retain(|(steered, _)| Some(*steered) != message.missed);
                self.queue.push_back(Waiting::logged(message));
            }
        }
    }

    /// Puts `text` back into the input line, before what is there.
    pub(super) fn give_back(&mut self, text: &str) {
        let rest = self.editor.take();
        let text = if rest.is_empty() { text.to_owned() } else { format!("{text}\n{rest}") };
        self.editor.set(&text);
    }

    /// Replaces what is in the input line.
    pub(super) fn set_input(&mut self, text: &str) {
        self.editor.set(text);
    }

    /// This message goes when what runs is over.
    pub(super) fn queue(&mut self, text: String, attached: Vec<Attached>) {
        let images = references(&attached);
        self.queue.push_back(Waiting { text, images, attached, queued: None, is_held: false });
    }

    /// This message goes on waiting.
    pub(super) fn wait_on(&mut self, waiting: Waiting) {
        self.queue.push_front(Waiting { is_held: true, ..waiting });
    }

    /// The messages that wait.
    pub(super) fn waiting(&mut self) -> &mut VecDeque<Waiting> {
        &mut self.queue
    }

    /// What is in the input line.
    pub(super) fn input(&self) -> String {
        self.editor.content()
    }

    /// Says something, above.
    pub(super) fn tell(&mut self, text: &str, style: anstyle::Style) {
        feed::notice(text, style, self.size.limit(), &mut self.above);
    }

    /// Prints lines that are cut to the width.
    pub(super) fn print(&mut self, lines: Vec<Line>) {
        let limit = self.size.limit();
        let rows = self.above.begin(Part::Notice);
        rows.extend(lines.into_iter().map(|line| line.truncated(limit)));
    }

    /// Prints lines that are wrapped already.
    pub(super) fn print_wrapped(&mut self, lines: Vec<Line>) {
        self.above.begin(Part::Notice).extend(lines);
        self.above.end_part();
    }

    /// Says something below the input line, until the next key.
    pub(super) fn hint(&mut self, text: impl Into<String>) {
        self.hint = Some(text.into());
    }

    /// Shows a list to pick from.
    pub(super) fn pick(&mut self, picker: Picker) {
        self.picker = Some(picker);
    }

    /// Shows the places that the conversation can go back to.
    pub(super) fn choose_place(&mut self, list: RewindList) {
        self.rewind = Some(list);
    }

    /// Shows those that are in a request, if it is at `request`.
    fn show_steered(&mut self, request: Seq) {
        for (_, text) in self.steered.extract_if(.., |(seq, _)| *seq < request) {
            feed::own_words(&text, self.size.limit(), &mut self.above);
        }
    }

    /// Sessions in which `query` was said.
    pub(super) fn was_said(&mut self, query: &str, said: HashMap<SessionId, Snippet>) {
        if let Some(picker) = &mut self.picker {
            picker.was_said(query, said);
        }
    }

    /// What is looked for in the list that is shown.
    pub(super) fn picker_query(&self) -> Option<String> {
        self.picker.as_ref().map(Picker::query)
    }

    fn picker_key(&mut self, key: Key) -> Option<Effect> {
        let choice = self.picker.as_mut()?.key(key);
        self.chosen(choice)
    }

    fn chosen(&mut self, choice: Choice) -> Option<Effect> {
        let effect = match choice {
            Choice::Open => return None,
            Choice::Changed => return self.picker_query().map(Effect::FindSaid),
            Choice::Picked(id) => Effect::Picked(id),
            Choice::Cancelled => Effect::NotPicked,
        };
        self.picker = None;
        Some(effect)
    }

    fn prompt_key(&mut self, key: Key, now: Instant) -> Option<Effect> {
        let (taken, approval) = self.prompts.front_mut()?.key(key, now);
        match taken {
            Taken::Answered => {
                if let (Some(prompt), Some(approval)) = (self.prompts.pop_front(), approval) {
                    prompt.answer(approval);
                }
            }
            Taken::Stop => return self.stop(now),
            // Nothing that was typed before the question was seen may send, answer or stop anything.
            Taken::NotYet => {
                if let Key::Edit(edit) = key {
                    self.editor.edit(edit);
                }
            }
            Taken::Yes => {}
        }
        None
    }

    fn search_key(&mut self, key: Key, now: Instant) -> Option<Effect> {
        let search = self.search.as_mut()?;
        match key {
            Key::Edit(edit @ (Edit::Insert(_) | Edit::Backspace | Edit::DeleteWordBefore | Edit::DeleteToLineStart)) => {
                search.query.edit(edit);
                search.skip = 0;
            }
            Key::Search | Key::Up => search.skip += 1,
            Key::Down => search.skip = search.skip.saturating_sub(1),
            Key::Escape | Key::CtrlC => {
                let before = std::mem::take(&mut search.before);
                self.search = None;
                self.editor.set(&before);
                return None;
            }
            // What was found is a text to edit; only a second Enter sends it.
            Key::Enter | Key::Tab => {
                self.search = None;
                return None;
            }
            other => {
                self.search = None;
                return self.input_key(other, now);
            }
        }
        self.show_hit();
        None
    }

    fn show_hit(&mut self) {
        let Some(search) = &mut self.search else { return };
        let query = search.query.content();
        if query.is_empty() {
            self.editor.set(&search.before);
            return;
        }
        match self.history.search(&query, search.skip) {
            Some(hit) => self.editor.set(hit),
            None if search.skip > 0 => search.skip -= 1,
            None => self.hint = Some("not in the history".to_owned()),
        }
    }

    fn input_key(&mut self, key: Key, now: Instant) -> Option<Effect> {
        if !matches!(key, Key::Up | Key::Down) {
            self.history.leave();
        }
        if !matches!(key, Key::Tab) {
            self.candidates.clear();
        }
        match key {
            Key::Edit(Edit::Backspace) if self.editor.is_empty() && !self.images.is_empty() => self.detach(),
            Key::Edit(edit) => {
                self.editor.edit(edit);
                return self.suggest();
            }
            Key::NewLine => self.editor.insert("\n"),
            Key::AltEnter if !self.is_working() => self.editor.insert("\n"),
            Key::AltEnter => self.enqueue(),
            Key::Enter if self.editor.is_empty() && self.images.is_empty() && !self.is_working() => {
                return self.queue.pop_front().map(Effect::SendWaiting);
            }
            Key::Enter => return self.enter(),
            Key::Escape | Key::CtrlC if self.is_working() => return self.stop(now),
            Key::Escape => return self.escape(now),
            Key::CtrlC => return self.ctrl_c(now),
            Key::CtrlD if !self.editor.is_empty() => self.editor.edit(Edit::Delete),
            Key::CtrlD if self.is_working() => self.hint("Esc stops what runs; then Ctrl-D leaves"),
            Key::CtrlD => return Some(Effect::Leave),
            Key::Up => return self.up(),
            Key::Down => {
                if !self.editor.down()
                    && let Some(text) = self.history.next()
                {
                    self.editor.set(&text);
                }
            }
            Key::Search => {
                self.search = Some(Search { query: Editor::default(), skip: 0, before: self.editor.content() });
            }
            Key::Tab => return self.look_up(true),
            Key::OpenEditor => return Some(Effect::OpenEditor),
            Key::Suspend | Key::Redraw => {}
        }
        None
    }

    fn up(&mut self) -> Option<Effect> {
        if self.editor.up() {
            return None;
        }
        // A message that waits is taken back before older ones are recalled.
        if self.editor.is_empty()
            && let Some(waiting) = self.queue.pop_back()
        {
            self.editor.set(&waiting.text);
            if waiting.attached.len() < waiting.images.len() {
                self.hint("its images are not taken back: `/image FILE` adds them again");
            }
            self.images.extend(waiting.attached);
            return waiting.queued.map(Effect::Withdraw);
        }
        let draft = self.editor.content();
        if let Some(text) = self.history.previous(&draft).map(str::to_owned) {
            self.editor.set(&text);
        }
        None
    }

    fn ctrl_c(&mut self, now: Instant) -> Option<Effect> {
        if !self.editor.is_empty() {
            self.editor.set("");
            return None;
        }
        if self.last_ctrl_c.is_some_and(|last| now.duration_since(last) <= LEAVE_WITHIN) {
            return Some(Effect::Leave);
        }
        self.last_ctrl_c = Some(now);
        self.hint("Ctrl-C again leaves");
        None
    }

    /// Esc with nothing to stop. Whoever pressed it once more than it took to stop something meant no rewind.
    fn escape(&mut self, now: Instant) -> Option<Effect> {
        let is_soon = |last: Option<Instant>| last.is_some_and(|last| now.duration_since(last) <= REWIND_WITHIN);
        if is_soon(self.last_stop) {
            return None;
        }
        if is_soon(self.last_escape.take()) {
            return Some(Effect::Rewind);
        }
        self.last_escape = Some(now);
        self.hint("Esc again goes back to an earlier message");
        None
    }

    fn rewind_key(&mut self, key: Key) -> Option<Effect> {
        let effect = match self.rewind.as_mut()?.key(key) {
            rewind::Choice::Open => return None,
            rewind::Choice::Picked(place) => Some(Effect::GoBack(place)),
            rewind::Choice::Cancelled => None,
        };
        self.rewind = None;
        effect
    }

    fn stop(&mut self, now: Instant) -> Option<Effect> {
        self.last_stop = Some(now);
        if self.is_stopping {
            self.hint("stopping; what does not end by itself is killed");
        }
        self.is_stopping = true;
        Some(Effect::Stop)
    }

    fn enqueue(&mut self) {
        if self.editor.content().trim().is_empty() && self.images.is_empty() {
            return;
        }
        if self.queue.len() >= QUEUED_MAX {
            self.hint("no more messages can wait");
            return;
        }
        let text = self.editor.take();
        self.remember(&text);
        let images = self.take_images();
        self.queue(text.trim().to_owned(), images);
    }

    fn enter(&mut self) -> Option<Effect> {
        if self.editor.take_continuation() {
            self.editor.insert("\n");
            return None;
        }
        let content = self.editor.content();
        let text = content.trim();
        if text.is_empty() && self.images.is_empty() {
            return None;
        }
        // A command begins where the line begins; a space before it makes it a message.
        let command = if content.starts_with('/') { slash::parse(text) } else { None };
        let effect = match (command, &self.work) {
            (Some(Err(why)), _) => {
                // Up brings it back to be corrected; left in the line, it would become a part of what is typed next.
                let text = self.editor.take();
                self.remember(text.trim_end());
                self.hint(why);
                return None;
            }
            (Some(Ok(command)), Work::Idle) => Effect::Command(text.to_owned(), command),
            (Some(Ok(command)), _) if is_harmless(&command) => Effect::Command(text.to_owned(), command),
            (None, Work::Idle) if content.starts_with('!') => Effect::Shell(text[1..].trim().to_owned()),
            (Some(Ok(_)), _) => {
                self.hint("not while something runs; Esc stops it");
                return None;
            }
            (None, _) if content.starts_with('!') && self.is_working() => {
                self.hint("not while something runs; Esc stops it");
                return None;
            }
            (None, Work::Idle) => Effect::Send(text.to_owned()),
            (None, Work::Turn { .. }) => Effect::Steer(text.to_owned()),
            (None, Work::Other { .. }) => {
                self.enqueue();
                return None;
            }
        };
        let text = self.editor.take();
        self.remember(text.trim_end());
        Some(effect)
    }

    fn remember(&mut self, text: &str) {
        if let Err(error) = self.history.add(text) {
            self.hint(format!("the history could not be written: {error}"));
        }
    }

    fn suggest(&mut self) -> Option<Effect> {
        if complete::suggests(self.editor.before_cursor()) { self.look_up(false) } else { None }
    }

    fn look_up(&mut self, is_tab: bool) -> Option<Effect> {
        let lookup = Lookup { before_cursor: self.editor.before_cursor().to_owned(), cwd: self.cwd.clone(), is_tab };
        if lookup.reads_folder() {
            return Some(Effect::LookUp(lookup));
        }
        self.completed(&lookup, lookup.find());
        None
    }

    /// Takes what was found. Where somebody has typed on since, it is for a word that is there no more.
    pub(super) fn completed(&mut self, lookup: &Lookup, found: Completion) {
        if self.editor.before_cursor() != lookup.before_cursor {
            return;
        }
        self.candidates.clear();
        match found.common() {
            _ if !lookup.is_tab => self.candidates = found.candidates,
            Some(text) => {
                self.editor.replace_before(found.replaces, &text);
                if found.candidates.len() > 1 {
                    self.candidates = found.candidates;
                }
            }
            None if found.candidates.is_empty() => self.hint("nothing to complete"),
            None => self.candidates = found.candidates,
        }
    }

    /// The live area as it is now.
    pub(super) fn frame(&mut self, now: Instant) -> Frame {
        self.prompts.retain(|prompt| !prompt.is_moot());
        let limit = self.size.limit();
        let height = self.size.rows.saturating_sub(1).max(3);
        if let Some(picker) = &self.picker {
            let (rows, cursor) = picker.view(limit, height);
            return Frame { rows, cursor: Some(cursor) };
        }
        if let Some(rewind) = &self.rewind {
            let (rows, cursor) = rewind.view(limit, height);
            return Frame { rows, cursor: Some(cursor) };
        }
        let (input, cursor) = self.input_rows(limit, height, now);
        let mut status = self.status_rows(limit, now);
        status.extend(self.image_rows(limit));
        let below = self.below_rows(limit);
        let mut rows = self.feed.unfinished(limit);
        // The newest rows of what is coming in are the ones to see.
        let room = height.saturating_sub(status.len() + input.len() + below.len() + 1);
        rows.drain(..rows.len().saturating_sub(room));
        rows.push(Line::default());
        rows.extend(status);
        let cursor = (rows.len() + cursor.0, cursor.1);
        rows.extend(input);
        rows.extend(below);
        let hidden = rows.len().saturating_sub(height).min(cursor.0);
        rows.drain(..hidden);
        rows.truncate(height);
        Frame { rows, cursor: Some((cursor.0 - hidden, cursor.1)) }
    }

    fn status_rows(&self, limit: usize, now: Instant) -> Vec<Line> {
        let mut rows = Vec::new();
        if self.is_stalled {
            let words = "the disk does not answer: what comes is in memory only, until it does";
            rows.push(Line::new(words, WARN).truncated(limit));
        }
        let (what, since) = match &self.work {
            Work::Idle => {
                rows.extend(self.waiting_rows(limit));
                return rows;
            }
            Work::Turn { since } if !self.prompts.is_empty() => ("waiting for your answer".to_owned(), *since),
            Work::Turn { since } => (self.feed.waits_for(), *since),
            Work::Other { what, since } => (what.clone(), *since),
        };
        let elapsed = now.duration_since(since);
        if let Some(disk) = self.disk.as_ref().filter(|_| elapsed >= DISK_ANSWERS_WITHIN) {
            let words = format!("the disk of `{}` does not answer; Esc stops the wait", safe_line(disk));
            rows.push(Line::new(words, WARN).truncated(limit));
        }
        let step = (elapsed.as_millis() / TICK.as_millis()) as usize % SPINNER.len();
        let how = if self.is_stopping { "stopping" } else { "Esc stops" };
        let line = Line::new(SPINNER[step], GOOD)
            .with(format!(" {} ", feed::seconds(elapsed)), BOLD)
            .with(safe_line(&what), DIM)
            .truncated(limit.saturating_sub(how.len() + 3))
            .with(format!(" ({how})"), DIM);
        rows.push(line.truncated(limit));
        for (_, text) in &self.steered {
            rows.push(Line::new("next: ", OWN).with(safe_line(&text.replace('\n', " ")), DIM).truncated(limit));
        }
        rows.extend(self.waiting_rows(limit));
        rows
    }

    fn waiting_rows(&self, limit: usize) -> Vec<Line> {
        let row = |waiting: &Waiting| {
            let mark = if waiting.is_held { "waiting: " } else { "queued: " };
            Line::new(mark, OWN).with(safe_line(&waiting.words().replace('\n', " ")), DIM).truncated(limit)
        };
        let mut rows: Vec<Line> = self.queue.iter().map(row).collect();
        if !self.is_working() && !rows.is_empty() {
            rows.push(Line::new("Enter sends the first that waits, Up takes the last back", DIM).truncated(limit));
        }
        rows
    }

    fn image_rows(&self, limit: usize) -> Vec<Line> {
        let row = |image: &Attached| Line::new("image: ", OWN).with(image.words(), DIM).truncated(limit);
        let mut rows: Vec<Line> = self.images.iter().map(row).collect();
        if !rows.is_empty() {
            rows.push(
                Line::new("sent with the next message; Backspace on an empty line takes the last one off", DIM).truncated(limit),
            );
        }
        rows
    }

    fn input_rows(&self, limit: usize, height: usize, now: Instant) -> (Vec<Line>, (usize, usize)) {
        let mut rows = Vec::new();
        if let Some(prompt) = self.prompts.front() {
            if !self.editor.is_empty() {
                rows = window(self.editor.view(PROMPT, limit).rows, 0, height / 4).0;
            }
            let (prompt, cursor) = prompt.view(limit, now);
            let cursor = (rows.len() + cursor.0, cursor.1);
            rows.extend(prompt);
            return (rows, cursor);
        }
        let view = self.editor.view(PROMPT, limit);
        if let Some(search) = &self.search {
            let query = search.query.view("search the history: ", limit);
            rows = window(view.rows, view.cursor.0, height / 2).0;
            let cursor = (rows.len() + query.cursor.0, query.cursor.1);
            rows.extend(query.rows);
            return (rows, cursor);
        }
        let (rows, row) = window(view.rows, view.cursor.0, (height / 2).max(2));
        (rows, (row, view.cursor.1))
    }

    fn below_rows(&self, limit: usize) -> Vec<Line> {
        let mut rows = Vec::new();
        if !self.candidates.is_empty() {
            let mut shown = self.candidates.iter().take(CANDIDATES_SHOWN).map(String::as_str).collect::<Vec<_>>().join("  ");
            if self.candidates.len() > CANDIDATES_SHOWN {
                shown.push_str(&format!("  ... {} more", self.candidates.len() - CANDIDATES_SHOWN));
            }
            rows.push(Line::new(shown, DIM).truncated(limit));
        }
        if let Some(hint) = &self.hint {
            rows.push(Line::new(safe_line(hint), DIM).truncated(limit));
        }
        rows
    }
}

/// Commands that may be used while something runs.
fn is_harmless(command: &Slash) -> bool {
    matches!(
        command,
        Slash::Help
            | Slash::Todos
            | Slash::Usage
            | Slash::Tools
            | Slash::Permissions(_)
            | Slash::Rename(_)
            | Slash::Image(_)
            | Slash::Quit
    )
}

/// At most `height` of `rows`, around the row `at`; and where that row is then.
fn window(mut rows: Vec<Line>, at: usize, height: usize) -> (Vec<Line>, usize) {
    let height = height.max(1);
    let first = (at + 1).saturating_sub(height).min(rows.len().saturating_sub(height));
    rows.truncate(first + height);
    rows.drain(..first);
    (rows, at.saturating_sub(first))
}

#[cfg(test)]
#[path = "ui_tests.rs"]
mod tests;
