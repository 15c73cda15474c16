//! From what other programs kept to events: the sequence that a session of this program would have had.
//!
//! A person's words open a turn; an answer has its `model.request` before it and a `tool.started` for each of its calls behind it (whether a
//! call without a result ran is not known); a turn ends before the next begins. Each original record follows the events that were made of it.

use super::originals::Originals;
use super::record::Said;
use crate::error::StoreError;
use crate::event::{
    AssistantMessage, Block, ContextRewound, ContextTrimmed, Event, ImageRef, ModelRequest, Note, Origin, Parameters, Profile,
    StopReason, ToolCall, ToolFinished, ToolOutcome, ToolStarted, TurnEnded, Unknown, Usage, UserKind, UserMessage,
};
use crate::id::{Seq, SeqRange};
use crate::store::ImportLog;
use crate::time::Timestamp;
use serde_json::{Map, Value};
use std::collections::HashMap;

const NO_SUMMARY: &str = "Earlier messages were summarised by the program that kept them.";

/// An answer of a model, as another program kept it.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) at: Option<Timestamp>,
    pub(super) provider: String,
    pub(super) model: String,
    pub(super) blocks: Vec<Block>,
    pub(super) stop: Option<StopReason>,
    pub(super) partial: bool,
    pub(super) usage: Option<Usage>,
}

impl Answer {
    pub(super) fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.blocks.push(Block::Text { text: text.to_owned() });
        }
    }

    pub(super) fn reasoning(&mut self, text: String, opaque: Option<Value>) {
        self.blocks.push(Block::Reasoning { text, opaque });
    }

    /// A call with the id that the provider gave it.
    pub(super) fn call(&mut self, id: &str, name: &str, arguments: String) {
        let (id, provider_id, name) = (String::new(), id.to_owned(), name.to_owned());
        self.blocks.push(Block::ToolCall(ToolCall { id, provider_id, name, arguments }));
    }
}

struct Call {
    id: String,
    name: String,
    started_at: Timestamp,
}

/// Makes events, and gives them to a log.
pub(super) struct Builder<'a> {
    log: &'a mut dyn ImportLog,
    format: &'static str,
    /// The time of the last record that had one.
    at: Timestamp,
    /// The time of the last event.
    last_at: Timestamp,
    system: String,
    model: Option<String>,
    profile: String,
    turn: Option<(Timestamp, TurnEnded)>,
    /// Calls without a result, by the provider's id.
    open: HashMap<String, Call>,
    /// Where the note is that stands for the messages before `messages`.
    summary: Option<Seq>,
    /// Where the messages of the context are, in order.
    messages: Vec<Seq>,
    /// Where the turns begin.
    prompts: Vec<Seq>,
    /// A summary is expected, which stands for all messages before it.
    is_summarised: bool,
    originals: Originals,
    pub(super) message_count: u64,
}

impl<'a> Builder<'a> {
    pub(super) fn new(log: &'a mut dyn ImportLog, format: &'static str, at: Timestamp) -> Self {
        Self {
            log,
            format,
            at,
            last_at: at,
            system: String::new(),
            model: None,
            profile: String::new(),
            turn: None,
            open: HashMap::new(),
            summary: None,
            messages: Vec::new(),
            prompts: Vec::new(),
            is_summarised: false,
            originals: Originals::default(),
            message_count: 0,
        }
    }

    /// The time of what comes next, where it is known.
    pub(super) fn at(&mut self, at: Option<Timestamp>) {
        self.at = at.unwrap_or(self.at);
    }

    /// The `seq` of the next event.
    pub(super) fn next_seq(&self) -> Seq {
        self.log.next_seq()
    }

    /// The person's own system prompt.
    pub(super) fn system(&mut self, text: &str) {
        if !self.system.is_empty() {
            self.system.push_str("\n\n");
        }
        self.system.push_str(text);
        // The next answer, or the end, writes the profile.
        self.model = None;
    }

    /// A person's words; they open a turn, unless a call waits for its result.
    pub(super) fn user(&mut self, said: impl Into<Said>) -> Result<(), StoreError> {
        let said = said.into();
        if !self.open.is_empty() || said.is_empty() {
            return self.steer(said);
        }
        self.end_of_summary()?;
        self.end_turn()?;
        self.turn = Some((self.at, ended()));
        self.prompts.push(self.log.next_seq());
        self.person(said, UserKind::Prompt)
    }

    /// A person's words while a turn runs.
    pub(super) fn steer(&mut self, said: impl Into<Said>) -> Result<(), StoreError> {
        let said = said.into();
        if said.is_empty() {
            return Ok(());
        }
        self.end_of_summary()?;
        self.person(said, UserKind::Steer)
    }

    /// Words of a program to the model.
    pub(super) fn note(&mut self, text: &str) -> Result<(), StoreError> {
        if text.trim().is_empty() {
            return Ok(());
        }
        self.end_of_summary()?;
        self.message(Note { text: text.to_owned() }.into()).map(drop)
    }

    /// An answer; one without anything in it is none.
    pub(super) fn answer(&mut self, answer: Answer) -> Result<(), StoreError> {
        if answer.blocks.is_empty() {
            return Ok(());
        }
        self.at(answer.at);
        self.end_of_summary()?;
        self.write_profile(&answer.provider, &answer.model)?;
        let Answer { provider, model, mut blocks, stop, partial, usage, .. } = answer;
        // Where it was asked is not told: a file from elsewhere does not choose whom this program talks to.
        let origin = Origin { provider, endpoint: String::new(), model, credential: Origin::IMPORTED.to_owned() };
        let request = ModelRequest {
            origin: origin.clone(),
            profile: self.profile.clone(),
            context: Vec::new(),
            body_sha256: String::new(),
            body_bytes: 0,
            limits: None,
            learned: Vec::new(),
        };
        let message = self.append(request.into())?;
        let mut calls = Vec::new();
        for block in &mut blocks {
            let Block::ToolCall(call) = block else { continue };
            call.id = format!("call_{message}_{}", calls.len());
            calls.push(call.clone());
        }
        let stop = stop.unwrap_or(if calls.is_empty() { StopReason::EndTurn } else { StopReason::ToolUse });
        let (_, turn) = self.turn.get_or_insert_with(|| (self.at, ended()));
        turn.model_calls += 1;
        turn.usage.add(&usage.unwrap_or_default());
        turn.reason = if partial { "interrupted".to_owned() } else { "done".to_owned() };
        self.message(AssistantMessage { message, origin, blocks, stop, partial, usage, opaque: None }.into())?;
        for call in calls {
            let (id, name) = (call.id, call.name);
            self.append(ToolStarted { call: id.clone(), name: name.clone(), side_effects: true }.into())?;
            self.open.insert(call.provider_id, Call { id, name, started_at: self.at });
        }
        Ok(())
    }

    /// The result of a call; one of no open call is none.
    pub(super) fn result(&mut self, call: &str, output: Said, outcome: ToolOutcome) -> Result<(), StoreError> {
        let Some(Call { id, name, started_at }) = self.open.remove(call) else { return Ok(()) };
        let duration_ms = u64::try_from(self.at.as_ms().saturating_sub(started_at.as_ms())).unwrap_or(0);
        let (output, images) = self.keep_images(output)?;
        self.message(ToolFinished { call: id, name, outcome, output, full: None, images, duration_ms }.into()).map(drop)
    }

    /// All messages before here are replaced by a summary, which is the next thing.
    pub(super) fn summary_follows(&mut self) {
        self.is_summarised = true;
    }

    /// The messages before `kept` (absent: all) are replaced by `summary`.
    pub(super) fn summary(&mut self, summary: &str, kept: Option<Seq>) -> Result<(), StoreError> {
        self.is_summarised = false;
        let leaves = self.messages.partition_point(|seq| kept.is_none_or(|kept| *seq < kept));
        let removed: Vec<SeqRange> =
            range(&self.messages[..leaves]).into_iter().chain(self.summary.map(|seq| SeqRange(seq, seq))).collect();
        if removed.is_empty() {
            return self.note(summary);
        }
        let (reason, note) = ("imported".to_owned(), summary.to_owned());
        self.summary =
            Some(self.append(ContextTrimmed { removed, note, reason, tokens_before: 0, tokens_after: 0, summary: None }.into())?);
        self.messages.drain(..leaves);
        Ok(())
    }

    /// The last `turns` turns were taken back.
    pub(super) fn rewind(&mut self, turns: u64) -> Result<(), StoreError> {
        let turns = usize::try_from(turns).unwrap_or(usize::MAX).min(self.prompts.len());
        let Some(first) = self.prompts.len().checked_sub(turns).and_then(|at| self.prompts.get(at)).copied() else {
            return Ok(());
        };
        self.prompts.truncate(self.prompts.len() - turns);
        self.end_turn()?;
        self.append(ContextRewound { to: first.saturating_sub(1) }.into())?;
        self.messages.retain(|seq| *seq < first);
        Ok(())
    }

    /// The record that the events since the last one were made of.
    pub(super) fn original(&mut self, kind: &str, record: Value) -> Result<(), StoreError> {
        let mut fields = Map::new();
        let (record, is_plain) = self.originals.fold(record);
        fields.insert("record".to_owned(), record);
        if is_plain {
            fields.insert("plain".to_owned(), true.into());
        }
        self.opaque(kind, fields)
    }

    /// A line that is no record.
    pub(super) fn unreadable(&mut self, line: u64, text: String) -> Result<(), StoreError> {
        let fields = [("line".to_owned(), line.into()), ("text".to_owned(), text.into())];
        self.opaque("unreadable", fields.into_iter().collect())
    }

    /// Ends the session.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        self.end_of_summary()?;
        if self.model.is_none() && !self.system.is_empty() {
            self.write_profile("", "")?;
        }
        self.end_turn()?;
        Ok(self.message_count)
    }

    fn opaque(&mut self, kind: &str, fields: Map<String, Value>) -> Result<(), StoreError> {
        let legal = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '_' };
        let kind: String = kind.chars().take(40).map(legal).collect();
        let kind = if kind.is_empty() { "record" } else { &kind };
        let type_name = format!("imported.{}.{kind}", self.format);
        self.append(Event::Unknown(Unknown { type_name, fields })).map(drop)
    }

    fn end_of_summary(&mut self) -> Result<(), StoreError> {
        if self.is_summarised { self.summary(NO_SUMMARY, None) } else { Ok(()) }
    }

    fn write_profile(&mut self, provider: &str, model: &str) -> Result<(), StoreError> {
        let name = match (provider, model) {
            (_, "") => String::new(),
            ("", model) => model.to_owned(),
            (provider, model) => format!("{provider}/{model}"),
        };
        if self.model.as_ref() == Some(&name) || (name.is_empty() && self.system.is_empty()) {
            return Ok(());
        }
        let profile = Profile {
            hash: String::new(),
            model: name.clone(),
            system: self.system.clone(),
            tools: Vec::new(),
            parameters: Parameters::default(),
            projection: 0,
        }
        .sealed();
        self.profile.clone_from(&profile.hash);
        self.model = Some(name);
        self.append(profile.into()).map(drop)
    }

    fn person(&mut self, said: Said, kind: UserKind) -> Result<(), StoreError> {
        let (text, images) = self.keep_images(said)?;
        self.message(UserMessage { text, kind, key: None, images }.into()).map(drop)
    }

    /// Keeps the images beside the log.
    fn keep_images(&mut self, said: Said) -> Result<(String, Vec<ImageRef>), StoreError> {
        let mut images = Vec::with_capacity(said.images.len());
        for (image, bytes) in said.images {
            self.log.put_side(&bytes)?;
            images.push(image);
        }
        Ok((said.text, images))
    }

    fn end_turn(&mut self) -> Result<(), StoreError> {
        self.open.clear();
        let Some((began, mut turn)) = self.turn.take() else { return Ok(()) };
        // It ended with what came last, not with what comes next.
        let at = std::mem::replace(&mut self.at, self.last_at);
        turn.duration_ms = u64::try_from(self.at.as_ms().saturating_sub(began.as_ms())).unwrap_or(0);
        self.append(turn.into())?;
        self.at = at;
        Ok(())
    }

    fn message(&mut self, event: Event) -> Result<Seq, StoreError> {
        let seq = self.append(event)?;
        self.message_count += 1;
        self.messages.push(seq);
        Ok(seq)
    }

    fn append(&mut self, event: Event) -> Result<Seq, StoreError> {
        self.originals.learn(self.log.next_seq(), &event);
        self.last_at = self.at;
        self.log.append(self.at, event)
    }
}

fn ended() -> TurnEnded {
    TurnEnded { reason: "done".to_owned(), error: None, model_calls: 0, usage: Usage::default(), duration_ms: 0 }
}

/// From the first to the last of `seqs`. What lies between them is no message of the context, but perhaps the note of an earlier summary, which
/// leaves with them.
fn range(seqs: &[Seq]) -> Option<SeqRange> {
    Some(SeqRange(*seqs.first()?, *seqs.last()?))
}
