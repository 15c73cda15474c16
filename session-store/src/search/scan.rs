//! Searching without an index.

use super::SearchHit;
use super::documents::Documents;
use super::query::{SearchOrder, SearchQuery};
use crate::error::StoreError;
use crate::id::SessionId;
use crate::store::{SessionListState, SessionStore, SessionSummary};
use std::ops::ControlFlow;

/// Reads `sessions` one after the other, in their order, and gives what is found to `found`, until it breaks: what [`super::SearchIndex::search`] finds, as slowly
/// as the logs are read. Of a session, the newest comes first, or with [`SearchOrder::Best`] the first. Dropping the future ends it.
///
/// Sessions that could not be read are given back with the reason.
pub async fn scan(
    store: &dyn SessionStore,
    sessions: &[SessionSummary],
    query: &SearchQuery,
    found: &mut (dyn FnMut(SearchHit) -> ControlFlow<()> + Send),
) -> Vec<(SessionId, StoreError)> {
    let mut unread = Vec::new();
    for session in sessions {
        match scan_one(store, session, query).await {
            Ok(hits) => {
                if hits.into_iter().try_for_each(&mut *found).is_break() {
                    break;
                }
            }
            Err(error) => unread.push((session.id, error)),
        }
    }
    unread
}

async fn scan_one(store: &dyn SessionStore, session: &SessionSummary, query: &SearchQuery) -> Result<Vec<SearchHit>, StoreError> {
    let mut entries = store.read(session.id, 0).await?;
    let mut documents = Documents::default();
    let (mut out, mut hits) = (Vec::new(), Vec::new());
    loop {
        let entry = entries.next().await?;
        match &entry {
            Some(entry) => documents.push(entry, &mut out),
            None if session.state != SessionListState::Open => documents.finish(&mut out),
            None => {}
        }
        for document in out.drain(..).filter(|document| query.passes(document.model.as_deref(), documents.cwd.as_deref())) {
            hits.extend(query.find(&document).map(|places| SearchHit::new(session.id, &document, &places)));
        }
        if entry.is_none() {
            break;
        }
    }
    if query.order == SearchOrder::Newest {
        hits.reverse();
    }
    Ok(hits)
}
