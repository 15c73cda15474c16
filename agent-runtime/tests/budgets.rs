//! A budget over a session and its children: what any of them spends counts at once, all of them stop where it is used up, and the logs alone say what was spent.

mod common;
#[path = "common/look.rs"]
mod look;

use agent_runtime::session_store::{ChildOpened, Event, SessionId, Usage};
use agent_runtime::{
    EndReason, ModelTable, PermissionMode, Runtime, ScriptedAnswer, ScriptedModel, Session, Setup, SpendingLimit, Spent,
    TurnOutcome,
};
use look::Look;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
/// What each call takes here, in tokens.
const CALL: u64 = 1_000;

struct World {
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { runtime: common::runtime(folder.path()), folder }
    }

    /// A setup with a model that looks and looks, and a limit of so many calls.
    fn setup(&self, calls: Option<u64>, parent: Option<&Session>) -> Setup {
        let usage = Usage { input_tokens: Some(CALL - 100), output_tokens: Some(100), ..Usage::default() };
        let looks = (0..99).map(|_| ScriptedAnswer::new().text("I look.").tool_call("look", "{}").usage(usage));
        let mut setup = Setup::new(Arc::new(ScriptedModel::new(looks)), self.folder.path());
        setup.tools = vec![Arc::new(Look)];
        setup.permissions.mode = PermissionMode::Allow;
        setup.spending = calls.map(|calls| SpendingLimit { tokens: Some(calls * CALL), ..SpendingLimit::default() });
        setup.parent = parent.cloned();
        setup
    }

    async fn create(&self, calls: Option<u64>, parent: Option<&Session>) -> Session {
        self.runtime.create(self.setup(calls, parent)).await.expect("created")
    }

    /// Another process, in which nothing is open.
    async fn restart(self) -> Self {
        self.runtime.shutdown(LONG).await.expect("everything durable");
        Self { runtime: common::runtime(self.folder.path()), folder: self.folder }
    }

    /// The calls in the log of a session, as `usage` adds them up.
    async fn calls(&self, id: SessionId) -> u64 {
        let mut spent = Spent::default();
        for entry in common::entries(&self.runtime, id).await {
            spent.take_in(&entry.event, &ModelTable::built_in());
        }
        assert_eq!(spent.tokens(), spent.calls * CALL);
        spent.calls
    }
}

/// A turn that the budget ends; how many calls it made.
async fn until_spent(session: &Session) -> u64 {
    let outcome = session.send("look").await.expect("a turn").outcome().await;
    is_spent(session, &outcome)
}

fn is_spent(session: &Session, outcome: &Arc<TurnOutcome>) -> u64 {
    assert_eq!(outcome.reason, EndReason::Budget, "{outcome:?}");
    assert!(session.state(|state| state.unresolved.is_empty() && state.turn.is_none()), "it ends after a whole step");
    outcome.model_calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_that_run_at_once_all_stop_where_the_budget_of_their_parent_is_used_up() {
    let world = World::new();
    let parent = world.create(Some(10), None).await;
    let mut children = Vec::new();
    for _ in 0..3 {
        children.push(world.create(None, Some(&parent)).await);
    }
    let (one, two, three) = tokio::join!(until_spent(&children[0]), until_spent(&children[1]), until_spent(&children[2]));
    let calls = one + two + three;
    assert!((10..=12).contains(&calls), "the call that reaches it, and two that were made by then: {one} {two} {three}");
    assert_eq!(until_spent(&parent).await, 0, "the parent has nothing left either");
    assert_eq!(until_spent(&world.create(None, Some(&parent)).await).await, 0, "nor has another child");

    // Who is asked at one of them allows all of them more.
    children[1].allow_more();
    let mut turns = Vec::new();
    for child in &children {
        turns.push(child.retry().expect("a turn"));
    }
    let mut again = 0;
    for (child, turn) in children.iter().zip(&turns) {
        again += is_spent(child, &turn.outcome().await);
    }
    assert!((20..=22).contains(&(calls + again)), "as much again: {calls}, {again}");
    let mut logged = 0;
    for child in &children {
        logged += world.calls(child.id()).await;
    }
    assert_eq!(logged, calls + again, "each call is in one log");
    assert_eq!(world.calls(parent.id()).await, 0, "and the parent's has none of them");
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn a_limit_of_a_childs_own_holds_within_that_of_its_parent() {
    let world = World::new();
    let parent = world.create(Some(5), None).await;
    let (child, other) = (world.create(Some(2), Some(&parent)).await, world.create(Some(9), Some(&parent)).await);
    assert_eq!(until_spent(&child).await, 2, "its own limit");
    assert_eq!(until_spent(&other).await, 3, "what is left of the parent's");
    child.allow_more();
    assert_eq!(until_spent(&child).await, 2, "both are used up, and both are allowed more of");
    assert_eq!(until_spent(&parent).await, 3);
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn after_a_restart_the_logs_say_what_a_session_its_children_and_theirs_have_spent() {
    let world = World::new();
    let parent = world.create(Some(2), None).await;
    assert_eq!(until_spent(&parent).await, 2);
    parent.allow_more();
    let child = world.create(Some(1), Some(&parent)).await;
    let grandchild = world.create(None, Some(&child)).await;
    assert_eq!(until_spent(&grandchild).await, 1);
    parent.allow_more();
    let other = world.create(None, Some(&parent)).await;
    assert_eq!(until_spent(&other).await, 1);
    let (parent, child, other) = (parent.id(), child.id(), other.id());

    let world = world.restart().await;
    let again = world.runtime.resume(parent, world.setup(Some(7), None)).await.expect("resumed");
    let child = world.runtime.resume(child, world.setup(Some(2), Some(&again))).await.expect("resumed");
    assert_eq!(until_spent(&child).await, 1, "of its 2 the grandchild spent one");
    assert_eq!(until_spent(&again).await, 2, "5 of 7 are spent");
    // One that was opened without its parent counts when the logs are read again.
    let stray = world.runtime.resume(other, world.setup(Some(3), None)).await.expect("resumed");
    assert_eq!(until_spent(&stray).await, 2);

    let world = world.restart().await;
    let again = world.runtime.resume(parent, world.setup(Some(10), None)).await.expect("resumed");
    assert_eq!(until_spent(&again).await, 1);

    // A child whose log is gone counts no more.
    let world = world.restart().await;
    world.runtime.store().remove(other).await.expect("removed");
    let again = world.runtime.resume(parent, world.setup(Some(10), None)).await.expect("resumed");
    assert_eq!(until_spent(&again).await, 3);
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn a_session_that_went_on_alone_counts_as_a_whole_once_it_is_a_child() {
    let world = World::new();
    let alone = world.create(Some(3), None).await;
    assert_eq!(until_spent(&alone).await, 3);
    alone.close().await.expect("closed");
    let parent = world.create(Some(6), None).await;
    assert_eq!(until_spent(&world.create(Some(1), Some(&parent)).await).await, 1);
    let child = world.runtime.resume(alone.id(), world.setup(None, Some(&parent))).await.expect("resumed");
    assert_eq!(until_spent(&child).await, 2);
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn what_was_spent_before_a_fork_was_spent_by_the_session_that_it_was_copied_from() {
    let world = World::new();
    let parent = world.create(Some(3), None).await;
    assert_eq!(until_spent(&world.create(Some(1), Some(&parent)).await).await, 1);
    assert_eq!(until_spent(&parent).await, 2);
    parent.flush().await.expect("durable");
    let fork = world.runtime.fork(parent.id(), None, world.setup(Some(3), None)).await.expect("forked");
    assert_eq!(fork.state(|state| state.usage), Usage::default());
    assert_eq!(until_spent(&fork).await, 3, "neither its parent's calls nor those of its parent's child");
    assert_eq!((world.calls(parent.id()).await, world.calls(fork.id()).await), (2, 3), "each call counts once");
    assert_eq!(fork.state(|state| state.usage.input_tokens), Some(3 * (CALL - 100)));

    // A fork may work for the session that it was copied from.
    let helper = world.runtime.fork(parent.id(), None, world.setup(None, Some(&parent))).await.expect("forked");
    parent.allow_more();
    assert_eq!(until_spent(&helper).await, 3);
    assert_eq!(until_spent(&parent).await, 0);
    world.runtime.shutdown(LONG).await.expect("everything durable");
}

#[tokio::test]
async fn a_child_is_in_the_log_of_its_parent_before_it_can_ask_a_model() {
    let world = World::new();
    let parent = world.create(None, None).await;
    let child = world.create(None, Some(&parent)).await;
    let seq = parent.state(|state| state.next_seq) - 1;
    assert!(parent.progress().borrow().durable > seq, "a crash takes it no more");
    let named = common::entries(&world.runtime, parent.id()).await;
    assert_eq!(named[seq as usize].event, Event::ChildOpened(ChildOpened { session: child.id() }));
    world.runtime.shutdown(LONG).await.expect("everything durable");
}
