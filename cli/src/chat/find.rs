//! What the chat does with the full text search: it brings the index up to date while nothing else happens, and finds sessions by what was said in them.
//!
//! Both are futures that the chat polls and drops: dropping one ends it, and what it had written of the index stays. Neither ever fails for the person: without an
//! index, the list finds by names and titles as before.

use agent_runtime::session_store::{SearchHit, SearchIndex, SearchQuery, SessionId, SessionStore, Snippet};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How long nothing has to happen before the index is brought up to date.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// How long the keys have to rest before what was typed is looked for.
const TYPING_RESTS: Duration = Duration::from_millis(120);

/// The longest that is looked for: the list is for choosing, `longhand sessions search` for finding all.
const SEARCH_WITHIN: Duration = Duration::from_secs(3);

/// How many sessions, and how many places in them, are looked at.
const SESSIONS_MAX: usize = 30;
const HITS_MAX: usize = 300;

/// Something that goes on behind the chat.
pub(super) type Behind<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The sessions in which what was typed was said, each with the newest place.
pub(super) struct Said {
    pub(super) query: String,
    pub(super) sessions: HashMap<SessionId, Snippet>,
}

/// Brings the index up to date, `after` a while.
pub(super) fn index(index: SearchIndex, store: Arc<dyn SessionStore>, after: Duration) -> Behind<()> {
    Box::pin(async move {
        tokio::time::sleep(after).await;
        if let Ok(sessions) = store.list().await
            && let Err(error) = index.refresh(store.as_ref(), &sessions, &mut |_| {}).await
        {
            tracing::debug!(%error, "the search index was not brought up to date");
        }
    })
}

/// Finds the sessions in which `query` was said. Its last word may be the start of one.
pub(super) fn said(index: SearchIndex, store: Arc<dyn SessionStore>, query: String) -> Behind<Said> {
    Box::pin(async move {
        tokio::time::sleep(TYPING_RESTS).await;
        let mut sessions = HashMap::new();
        let mut hits = 0;
        let mut found = |hit: SearchHit| {
            hits += 1;
            sessions.entry(hit.session).or_insert(hit.snippet);
            if sessions.len() >= SESSIONS_MAX || hits >= HITS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let parsed = SearchQuery::parse(&query).as_typed();
        if parsed.has_words() {
            // What came by the end of the time is shown; a damaged index is mended by the next refresh.
            let _ = tokio::time::timeout(SEARCH_WITHIN, index.search(store.as_ref(), &parsed, &mut found)).await;
        }
        Said { query, sessions }
    })
}
