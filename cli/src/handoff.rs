//! Asking another process to let go of a session.

use crate::error::{CliError, Exit};
use agent_runtime::session_store::{Holder, Owner, SessionId, SessionStore, StoreError};
use std::time::Duration;

/// How long a holder is waited for: long enough for most turns.
pub(crate) const TAKE_OVER_LIMIT: Duration = Duration::from_secs(30);

/// Returns once nobody holds `id`; whoever does is asked to let go.
///
/// # Errors
/// Where it is still held after `within` (exit 6): by whom, and why as far as that can be seen.
pub(crate) async fn release(store: &dyn SessionStore, id: SessionId, within: Duration) -> Result<(), CliError> {
    if let Holder::Alive(owner) = store.load(id).await?.holder
        && is_stopped(&owner)
    {
        let message = format!("session `{id}` is held by {}, which is stopped and cannot let go of it", words(&owner));
        let pid = owner.pid;
        return Err(CliError::new(Exit::Held, message)
            .hint(format!("`kill -CONT {pid}` lets it go on; or go on in a copy with `longhand -r {id} --fork-session`")));
    }
    let (owner, alive) = match store.release(id, within).await {
        Err(StoreError::Held { owner, alive, .. }) => (owner, alive),
        released => return Ok(released?),
    };
    let is_in_turn = store.load(id).await.is_ok_and(|loaded| loaded.state.turn.is_some());
    let why = match (is_in_turn, alive) {
        (_, false) => "whether it still lives cannot be told from here",
        (true, true) => "a turn runs in it, and goes first",
        (false, true) => "it may be stopped, or take no requests",
    };
    let message = format!("session `{id}` was not let go of within {} s by {}: {why}", within.as_secs_f64(), words(&owner));
    Err(CliError::new(Exit::Held, message)
        .hint(format!("follow it with `longhand sessions tail {id}`, or go on in a copy with `longhand -r {id} --fork-session`")))
}

/// Whether a process of this machine is stopped, as by Ctrl-Z; false where that cannot be seen.
fn is_stopped(owner: &Owner) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let is_here = read("/proc/sys/kernel/random/boot_id").trim() == owner.boot;
    // The state stands behind the name, which may hold anything.
    let state = read(&format!("/proc/{}/stat", owner.pid)).rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    is_here && matches!(state, Some('T' | 't'))
}

/// A process, for people.
pub(crate) fn words(owner: &Owner) -> String {
    format!("pid {} on {} ({})", owner.pid, owner.host, owner.program)
}
