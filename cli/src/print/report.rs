//! What a printed turn came to: the result object, the message on standard error, the exit code.

use crate::args::OutputFormat;
use crate::error::{CliError, Exit};
use crate::local_time::local_time;
use crate::output;
use crate::resolve::short_id;
use crate::safe_text::safe;
use crate::transcript::model_name;
use agent_runtime::session_store::{Origin, SessionId, Timestamp, Usage};
use agent_runtime::{Answer, Denial, EndReason, Session, TurnError, TurnOutcome};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The result, as it comes to be known.
pub(crate) struct Report {
    /// What the caller calls it, where it is one of many.
    id: Option<String>,
    started: Instant,
    /// How long it took, where it was answered before.
    took: Option<Duration>,
    /// Whether the answer has to be JSON of a schema.
    is_structured: bool,
    session_id: Option<SessionId>,
    model: Option<String>,
    result: String,
    stop_reason: &'static str,
    error: Option<String>,
    retry_at: Option<Timestamp>,
    is_error: bool,
    model_calls: u64,
    usage: Usage,
    denials: Vec<Denial>,
    /// How many messages wait in the session.
    waiting: usize,
}

/// The object of `--output-format json`. Programs rely on its fields and their meaning.
#[derive(Serialize)]
struct ResultObject<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    type_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    session_id: Option<SessionId>,
    result: &'a str,
    /// The answer as JSON, where a schema was asked for; absent also where the answer does not fit it.
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_output: Option<serde_json::Value>,
    stop_reason: &'a str,
    is_error: bool,
    error: Option<&'a str>,
    /// When the server wants to be asked again, where that is why the turn failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<Timestamp>,
    num_turns: u64,
    model_calls: u64,
    usage: Usage,
    permission_denials: Vec<DenialObject<'a>>,
    /// How many messages wait in the session, and were not sent; absent where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_messages: Option<usize>,
    duration_ms: u64,
    model: Option<&'a str>,
}

#[derive(Serialize)]
struct DenialObject<'a> {
    tool: &'a str,
    arguments: &'a str,
    reason: &'a str,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            id: None,
            started: Instant::now(),
            took: None,
            is_structured: false,
            session_id: None,
            model: None,
            result: String::new(),
            stop_reason: EndReason::Error.as_str(),
            error: None,
            retry_at: None,
            is_error: false,
            model_calls: 0,
            usage: Usage::default(),
            denials: Vec::new(),
            waiting: 0,
        }
    }

    /// The result of one of many, which the caller calls `id`.
    pub(crate) fn of(id: &str) -> Self {
        Self { id: Some(id.to_owned()), ..Self::new() }
    }

    /// It was answered before, in the session `session`.
    pub(crate) fn answered(&mut self, session: SessionId, answer: &Answer, is_structured: bool) {
        self.is_structured = is_structured;
        self.session_id = Some(session);
        self.model.clone_from(&answer.model);
        self.took = Some(answer.outcome.duration);
        self.ended(&answer.outcome);
    }

    /// Whether there is a session to go on with.
    pub(crate) fn is_kept(&self) -> bool {
        self.session_id.is_some()
    }

    /// The session is there. One that is not kept has no id that anybody could use.
    pub(crate) fn opened(&mut self, session: &Session, is_kept: bool) {
        self.session_id = is_kept.then(|| session.id());
        self.is_structured =
            session.state(|state| state.profile.as_ref().is_some_and(|profile| profile.parameters.output_schema.is_some()));
        self.model = session.state(|state| state.profile.as_ref().map(|profile| profile.model.clone()));
        self.waiting = session.queued().len();
    }

    /// Another model is asked from here on.
    pub(crate) fn answered_by(&mut self, origin: &Origin) {
        self.model = Some(model_name(origin));
    }

    /// It was stopped before the turn began.
    pub(crate) fn stopped_early(&mut self) {
        self.stop_reason = EndReason::Interrupted.as_str();
    }

    /// The turn is over.
    pub(crate) fn ended(&mut self, outcome: &TurnOutcome) {
        self.result.clone_from(&outcome.text);
        self.stop_reason = outcome.reason.as_str();
        self.error = outcome.error.as_ref().map(ToString::to_string);
        self.retry_at = outcome.retry_at;
        self.is_error = self.error.is_some() || matches!(outcome.reason, EndReason::Error | EndReason::Timeout);
        self.model_calls = outcome.model_calls;
        self.usage = outcome.usage;
        self.denials.clone_from(&outcome.denials);
    }

    /// Something failed outside of the turn. What came of the turn stays; the first error is the one that is told.
    pub(crate) fn failed(&mut self, error: &CliError) {
        if self.error.is_none() {
            self.stop_reason = EndReason::Error.as_str();
            self.error = Some(error.to_string());
        }
        self.is_error = true;
    }

    /// Why it counts as failed, in words.
    pub(crate) fn problem(&self) -> String {
        match (&self.error, self.denials.last()) {
            (Some(error), _) => error.clone(),
            (None, Some(denial)) if self.stop_reason == EndReason::Done.as_str() => {
                format!("a call of `{}` was refused: {}", denial.tool, denial.reason)
            }
            _ => format!("it ended by `{}`", self.stop_reason),
        }
    }

    /// What is printed last.
    pub(crate) fn rendered(&self, format: OutputFormat) -> Vec<u8> {
        match format {
            OutputFormat::Text => self.text(),
            OutputFormat::Json => json_line(&self.object(None)),
            OutputFormat::StreamJson => json_line(&self.object(Some("result"))),
        }
    }

    /// The answer with exactly one newline at its end; nothing where there is none.
    fn text(&self) -> Vec<u8> {
        let answer = self.result.trim_end_matches(['\n', '\r']);
        if answer.trim().is_empty() {
            return Vec::new();
        }
        let answer = if std::io::stdout().is_terminal() { safe(answer) } else { answer.into() };
        format!("{answer}\n").into_bytes()
    }

    fn structured_output(&self) -> Option<serde_json::Value> {
        let is_checked = self.is_structured && self.stop_reason == EndReason::Done.as_str();
        serde_json::from_str(self.result.trim()).ok().filter(|_| is_checked)
    }

    fn object<'a>(&'a self, type_name: Option<&'a str>) -> ResultObject<'a> {
        let denials = self.denials.iter();
        ResultObject {
            type_name,
            id: self.id.as_deref(),
            session_id: self.session_id,
            result: &self.result,
            structured_output: self.structured_output(),
            stop_reason: self.stop_reason,
            is_error: self.is_error,
            error: self.error.as_deref(),
            retry_at: self.retry_at,
            num_turns: self.model_calls,
            model_calls: self.model_calls,
            usage: self.usage,
            permission_denials: denials
                .map(|denial| DenialObject { tool: &denial.tool, arguments: &denial.arguments, reason: &denial.reason })
                .collect(),
            waiting_messages: Some(self.waiting).filter(|waiting| *waiting > 0),
            duration_ms: u64::try_from(self.took.unwrap_or_else(|| self.started.elapsed()).as_millis()).unwrap_or(u64::MAX),
            model: self.model.as_deref(),
        }
    }
}

/// One object on one line.
pub(crate) fn json_line(object: &impl Serialize) -> Vec<u8> {
    // Strings and numbers always have a JSON form.
    let mut line = serde_json::to_vec(object).unwrap_or_default();
    line.push(b'\n');
    line
}

/// How the program ends after a turn. A refusal because nobody could be asked counts where nothing worse happened.
pub(crate) fn exit_of(outcome: &TurnOutcome, is_stdout_closed: bool) -> Exit {
    let unasked = outcome.denials.iter().any(|denial| denial.by == "nobody_to_ask");
    let refused = if unasked { Exit::Refused } else { Exit::Done };
    let turn = match (outcome.reason, &outcome.error) {
        (_, Some(TurnError::Store(_))) => Exit::Store,
        (EndReason::Timeout, _) => Exit::Timeout,
        (EndReason::MaxTurns | EndReason::MaxTokens | EndReason::Budget, _) => Exit::Limit,
        (EndReason::Denied, _) => Exit::Refused,
        (_, Some(TurnError::Model(_))) => Exit::Model,
        (EndReason::Done | EndReason::Refusal, None) => Exit::Done,
        (EndReason::Interrupted, _) if is_stdout_closed => return Exit::Done,
        // A signal stopped it, which is known elsewhere and comes first.
        (EndReason::Interrupted, None) => Exit::Failed,
        _ => Exit::Failed,
    };
    turn.or(refused)
}

/// Says on standard error that messages wait in the session: only a person sends them.
pub(crate) fn tell_waiting(session: &Session) {
    let words = match session.queued().len() {
        0 => return,
        1 => "a message waits in this session and is not sent".to_owned(),
        count => format!("{count} messages wait in this session and are not sent"),
    };
    let id = short_id(session.id());
    output::stderr(&format!("warning: {words}: `longhand -r {id}` lists what waits, to be sent or taken back\n"));
}

/// Says on standard error what a program reads from the result.
pub(crate) fn tell(outcome: &TurnOutcome, is_kept: bool) {
    let told = match (&outcome.error, outcome.reason) {
        (Some(error), _) => {
            let until = outcome.retry_at.map(|at| format!("; it wants to be asked again at {}", local_time(at)));
            Some((format!("{error}{}", until.unwrap_or_default()), hint(outcome)))
        }
        (None, EndReason::MaxTurns) => Some((
            format!("the turn ended after {} model calls", outcome.model_calls),
            Some("go on with `longhand -c`, or allow more with `--max-turns`"),
        )),
        (None, EndReason::Budget) => Some((
            "the session has used up its budget".to_owned(),
            Some("go on with `longhand -c`, and allow more with `--budget` or `--max-tokens-total`"),
        )),
        (None, EndReason::MaxTokens) => Some((
            "the answer was cut at its longest length".to_owned(),
            Some("go on with `longhand -c`, or allow more with `--max-output-tokens`"),
        )),
        (None, EndReason::Denied) => Some(("the same tool call was refused three times".to_owned(), hint(outcome))),
        (None, _) => hint(outcome).map(|hint| ("a tool call was refused because nobody could be asked".to_owned(), Some(hint))),
    };
    if let Some((message, hint)) = told {
        // Of a session that is not kept there is nothing to go on with.
        let hint = hint.filter(|hint| is_kept || !hint.contains(" -c"));
        let hint = hint.map(|hint| format!("\nhint: {hint}\n")).unwrap_or_default();
        output::stderr(&format!("error: {message}\n{hint}"));
    }
}

fn hint(outcome: &TurnOutcome) -> Option<&'static str> {
    use agent_runtime::FailureKind as Kind;
    match &outcome.error {
        // What is lost and what is kept is known, and told, after one more try.
        Some(TurnError::Store(_)) => None,
        Some(TurnError::Model(failure)) => match failure.kind {
            _ if outcome.retry_at.is_some() => Some("`longhand -p -c --wait` waits until then, and asks again"),
            Kind::Auth => Some("check the key: `longhand doctor` says which one is set"),
            Kind::Quota => Some("the provider wants to be paid first; another model can go on: `longhand -c -m PROVIDER/NAME`"),
            Kind::ContextTooLong => {
                Some("choose a model with a larger context window, or say how large it is: `--context-window TOKENS`")
            }
            Kind::NotFound => Some("check the name of the model and the endpoint"),
            Kind::Connect => Some("check the network and the endpoint; the session is kept: `longhand -c` goes on"),
            _ => Some("the session is kept: `longhand -c` goes on"),
        },
        Some(TurnError::TooLong(_)) => Some("send less, or choose a model with a larger context window"),
        Some(_) => None,
        None if outcome.denials.iter().any(|denial| denial.by == "nobody_to_ask") => {
            Some("`--allowed-tools A,B` lets tools run without asking; `--permission-mode read-only` makes the refusal a choice")
        }
        None => None,
    }
}
