//! The todo list, read often and changed rarely: a cache keyed by its place in the log.
//!
//! The list lives in the log, as `todos.changed`. A session that opens has it from the fold; after that, a look is a comparison of
//! one number and a copy of one pointer.

use session_store::{Seq, State, Todo};
use std::sync::{Arc, Mutex, PoisonError};

/// A todo list and the event that made it.
#[derive(Debug, Default)]
pub struct TodoCache {
    cached: Mutex<(Option<Seq>, Arc<Vec<Todo>>)>,
}

impl TodoCache {
    /// The list as of the last [`TodoCache::hydrate`].
    #[must_use]
    pub fn get(&self) -> Arc<Vec<Todo>> {
        Arc::clone(&self.cached.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// Takes the list from `state`, if an event has changed it since the last time.
    pub fn hydrate(&self, state: &State) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != state.todos_seq {
            *cached = (state.todos_seq, Arc::clone(&state.todos));
        }
    }
}
