//! From what a person types for a session to its id: the whole id, the exact name, or the start of the id.

use crate::error::CliError;
use crate::output::tell_if_slow;
use session_store::{FileStore, SessionId, SessionStore, SessionSummary, StoreError};
use std::fmt::Write;

/// How many sessions are named where what was typed fits none or many.
const CANDIDATES_MAX: usize = 8;

/// As much of an id as is its time of creation, which is one session a millisecond: its start for people.
pub(crate) fn short_id(id: SessionId) -> String {
    id.to_string().chars().take(13).collect()
}

/// The session that `text` means. A whole id is looked up without looking at any other session; a name goes before the start
/// of an id.
///
/// # Errors
/// Where none or more than one is meant: exit 2, the candidates named. In the archive nothing is meant but by its whole id.
pub(crate) async fn resolve(store: &FileStore, text: &str) -> Result<SessionId, CliError> {
    tell_if_slow(store.home(), resolve_in(store, text, false)).await
}

/// The same for who goes on with the session, which brings it back from the archive: there, too, one is meant by its name or the start of its id,
/// unless one outside is.
///
/// # Errors
/// As of [`resolve`].
pub(crate) async fn resolve_to_resume(store: &FileStore, text: &str) -> Result<SessionId, CliError> {
    resolve_in(store, text, true).await
}

async fn resolve_in(store: &FileStore, text: &str, takes_archived: bool) -> Result<SessionId, CliError> {
    let text = text.trim();
    if let Ok(id) = text.parse::<SessionId>() {
        match store.read(id, 0).await {
            Err(error @ StoreError::NotFound(_)) => return Err(error.into()),
            // A session that cannot be read is still the one that is meant; whoever reads it says what is wrong.
            _ => return Ok(id),
        }
    }
    let sessions = store.list().await?;
    match choose(&sessions, text) {
        Err(error) if !text.is_empty() && matching(&sessions, text).is_empty() => {
            let archived = store.list_archived().await?;
            Err(match matching(&archived, text).as_slice() {
                [] => error,
                [one] if takes_archived => return Ok(one.id),
                [one] => CliError::usage(format!("session `{text}` is in the archive"))
                    .hint(format!("`longhand sessions archive --undo {}` brings it back; its whole id reads it there", one.id)),
                many => ambiguous(text, many),
            })
        }
        chosen => chosen,
    }
}

/// The one of the sessions in the archive that `text` means.
///
/// # Errors
/// As of [`resolve`].
pub(crate) fn choose_archived(archived: &[SessionSummary], text: &str) -> Result<SessionId, CliError> {
    if text.is_empty() || !matching(archived, text).is_empty() {
        return choose(archived, text);
    }
    let hint = if archived.is_empty() { "the archive is empty" } else { "`longhand sessions list --archived` lists it" };
    Err(CliError::usage(format!("there is no session `{text}` in the archive")).hint(hint))
}

/// The one of `sessions` that `text`, its name or the start of its id, means.
///
/// # Errors
/// As of [`resolve`].
fn choose(sessions: &[SessionSummary], text: &str) -> Result<SessionId, CliError> {
    if text.is_empty() {
        return Err(CliError::usage("no session is named").hint("give its id, its name or the start of its id"));
    }
    match matching(sessions, text).as_slice() {
        [one] => Ok(one.id),
        [] => Err(CliError::usage(format!("there is no session `{text}`")).hint(near(sessions, text))),
        many => Err(ambiguous(text, many)),
    }
}

fn matching<'a>(sessions: &'a [SessionSummary], text: &str) -> Vec<&'a SessionSummary> {
    let named: Vec<&SessionSummary> = sessions.iter().filter(|session| session.name.as_deref() == Some(text)).collect();
    let start = text.to_ascii_lowercase();
    match named.as_slice() {
        [] => sessions.iter().filter(|session| session.id.to_string().starts_with(&start)).collect(),
        _ => named,
    }
}

fn ambiguous(text: &str, sessions: &[&SessionSummary]) -> CliError {
    CliError::usage(format!("`{text}` means {} sessions", sessions.len())).hint(candidates("choose one of", sessions))
}

/// What could have been meant: sessions with these letters in their name or title, else the newest.
fn near(sessions: &[SessionSummary], text: &str) -> String {
    let text = text.to_lowercase();
    let has = |words: &Option<String>| words.as_ref().is_some_and(|words| words.to_lowercase().contains(&text));
    let alike: Vec<&SessionSummary> = sessions.iter().filter(|session| has(&session.name) || has(&session.title)).collect();
    match (alike.is_empty(), sessions) {
        (false, _) => candidates("perhaps one of", &alike),
        (true, []) => "no session is stored yet".to_owned(),
        (true, _) => candidates("the newest are", &sessions.iter().take(3).collect::<Vec<_>>()),
    }
}

fn candidates(words: &str, sessions: &[&SessionSummary]) -> String {
    let mut hint = words.to_owned();
    for session in sessions.iter().take(CANDIDATES_MAX) {
        let title = session.name.as_deref().or(session.title.as_deref()).unwrap_or("(untitled)");
        let _ = write!(hint, "\n  {}  {title}", session.id);
    }
    if sessions.len() > CANDIDATES_MAX {
        let _ = write!(hint, "\n  and {} more", sessions.len() - CANDIDATES_MAX);
    }
    hint
}

#[cfg(test)]
mod tests {
    use super::*;
    use session_store::{SessionListState, Timestamp};

    fn session(id: &str, name: Option<&str>, title: &str) -> SessionSummary {
        SessionSummary {
            id: id.parse().expect("an id"),
            name: name.map(str::to_owned),
            title: Some(title.to_owned()),
            cwd: None,
            model: None,
            created_at: Timestamp::from_ms(0),
            updated_at: Timestamp::from_ms(0),
            messages: 1,
            bytes: 1,
            state: SessionListState::Idle,
        }
    }

    fn three() -> Vec<SessionSummary> {
        vec![
            session("019a0000-0000-7000-8000-000000000001", Some("release"), "Make a release"),
            session("019a0000-0000-7000-8000-000000000002", Some("019b"), "Fix the parser"),
            session("019b0000-0000-7000-8000-000000000003", None, "Fix the tests"),
        ]
    }

    fn refusal(text: &str) -> (String, String) {
        match choose(&three(), text) {
            Err(CliError::Told { message, hint, exit }) => {
                assert_eq!(exit, crate::error::Exit::Usage);
                (message, hint.unwrap_or_default())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_start_of_an_id_in_any_case_names_a_session() {
        assert_eq!(choose(&three(), "019B0").expect("one").to_string(), "019b0000-0000-7000-8000-000000000003");
    }

    #[test]
    fn an_exact_name_goes_before_the_start_of_an_id() {
        assert_eq!(choose(&three(), "019b").expect("one").to_string(), "019a0000-0000-7000-8000-000000000002");
        assert_eq!(choose(&three(), "release").expect("one").to_string(), "019a0000-0000-7000-8000-000000000001");
    }

    #[test]
    fn an_ambiguous_start_is_refused_with_the_candidates() {
        let (message, hint) = refusal("019a");
        assert_eq!(message, "`019a` means 2 sessions");
        assert!(hint.contains("000000000001  release") && hint.contains("000000000002  019b"), "{hint}");
    }

    #[test]
    fn an_unknown_name_is_refused_with_what_is_alike_or_the_newest() {
        let (message, hint) = refusal("fix");
        assert_eq!(message, "there is no session `fix`");
        assert!(hint.starts_with("perhaps one of") && hint.contains("000000000002") && hint.contains("000000000003"), "{hint}");
        assert!(refusal("zzz").1.starts_with("the newest are"));
    }

    #[test]
    fn nothing_names_nothing() {
        assert_eq!(refusal("").0, "no session is named");
    }
}
