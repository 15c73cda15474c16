//! An interrupt ends a turn wherever it waits: what came is kept, every call has its result, and the session goes on. How long it takes is
//! measured by the bench `interrupt`, in the same places.
//!
//! The look-up of a name is not among them: it runs on a thread of the system's, which the call leaves behind, in the same wait as the connection.

mod places;

use agent_runtime::EndReason;
use places::{Place, TOO_LONG, World};
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_a_turn_wherever_it_waits() {
    let world = World::new().await.expect("a world");
    for (number, place) in Place::ALL.into_iter().cycle().take(2 * Place::ALL.len()).enumerate() {
        let (session, turn) = world.turn_in(place, number).await;
        if number < Place::ALL.len() {
            session.interrupt("user");
        } else {
            // As a signal handler does, which can wake nobody.
            session.interrupt_handle().expect("a turn runs").flag().store(true, Ordering::SeqCst);
        }
        let outcome = tokio::time::timeout(TOO_LONG, turn.outcome()).await.unwrap_or_else(|_| panic!("{place:?} hangs"));
        assert_eq!(outcome.reason, EndReason::Interrupted, "{place:?}: {:?}", outcome.error);
        assert!(session.state(|state| state.unresolved.is_empty() && state.turn.is_none()), "{place:?}");
        if place == Place::Stream {
            assert_eq!(outcome.text, "The tide turns.");
        }
        world.goes_on(place, session).await;
    }
    world.shutdown().await;
}
