//! What calls of models used and cost, summed up: [`Spent`]; and what a session and its children may use: [`SpendingLimit`].

use crate::models::ModelTable;
use crate::session::{Shared, lock};
use serde::Serialize;
use session_store::{AssistantMessage, Entry, Event, Origin, Seq, SessionId, SessionStore, StoreError, Usage};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What some calls used and cost. A log says what was used; the cost is worked out when it is asked for, by the prices of a [`ModelTable`] as it is then.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Answers, whole or cut.
    pub calls: u64,
    /// Tokens, as far as the providers told.
    #[serde(flatten)]
    pub usage: Usage,
    /// US dollars, without the calls below.
    pub cost_usd: f64,
    /// Calls whose cost is not known: no price is known, or the provider did not say what was used.
    pub unpriced_calls: u64,
}

impl Spent {
    /// Adds an answer.
    pub fn add(&mut self, answer: &AssistantMessage, table: &ModelTable) {
        self.add_call(&answer.origin, answer.usage.as_ref(), table);
    }

    fn add_call(&mut self, origin: &Origin, usage: Option<&Usage>, table: &ModelTable) {
        self.calls += 1;
        if let Some(usage) = usage {
            self.usage.add(usage);
        }
        match usage.and_then(|usage| table.cost(origin, usage)) {
            Some(cost) => self.cost_usd += cost,
            None => self.unpriced_calls += 1,
        }
    }

    /// Adds the call that `event` is the end of, if it is one: an answer, or a summary. At the end of what a fork copied it begins anew: the calls before it are
    /// those of another session.
    pub fn take_in(&mut self, event: &Event, table: &ModelTable) {
        match event {
            Event::SessionForked(_) => *self = Self::default(),
            Event::AssistantMessage(answer) => self.add(answer, table),
            Event::ContextSummarized(summary) => self.add_call(&summary.origin, summary.usage.as_ref(), table),
            _ => {}
        }
    }

    /// Adds other calls.
    pub fn add_all(&mut self, other: &Self) {
        self.calls += other.calls;
        self.usage.add(&other.usage);
        self.cost_usd += other.cost_usd;
        self.unpriced_calls += other.unpriced_calls;
    }

    /// All tokens, sent and answered.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        tokens(&self.usage)
    }
}

/// All tokens of `usage`, sent and answered.
pub(crate) fn tokens(usage: &Usage) -> u64 {
    usage.input_tokens.unwrap_or(0).saturating_add(usage.output_tokens.unwrap_or(0))
}

/// What a session and its children ([`Setup::parent`](crate::Setup::parent)) may use altogether. What was copied into a fork does not count in it: the session that it
/// was copied from has spent it.
///
/// A turn looks before each call of a model, and ends with [`EndReason::Budget`](crate::EndReason::Budget) where the limit is reached: after a whole step, with nothing lost. Calls
/// that are made by then, one in each session, may go past it.
#[derive(Clone, Debug, Default)]
pub struct SpendingLimit {
    /// Tokens, sent and answered.
    pub tokens: Option<u64>,
    /// US dollars, by the prices of `models`. Calls whose cost is not known do not count.
    pub usd: Option<f64>,
    /// The prices.
    pub models: Arc<ModelTable>,
}

impl SpendingLimit {
    /// How often `spent` has reached it.
    fn times(&self, spent: &Spent) -> f64 {
        let tokens = self.tokens.map_or(0.0, |most| spent.tokens() as f64 / most.max(1) as f64);
        let usd = self.usd.filter(|most| *most > 0.0).map_or(0.0, |most| spent.cost_usd / most);
        tokens.max(usd)
    }
}

/// What a session with a limit has spent, and its children, and theirs. Each call counts when it is logged, in the purse of its session and in those that this
/// one hangs on. What was spent before the purse was made is read from the logs, before the first call that counts: a session's log names its children.
#[derive(Debug)]
pub(crate) struct Purse {
    owner: SessionId,
    limit: SpendingLimit,
    /// The purse of the session that its owner works for.
    parent: Option<Arc<Purse>>,
    counted: Mutex<Counted>,
    /// Held while logs are read.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Counted {
    spent: Spent,
    /// How often the limit may be spent, besides the first time.
    raised: u32,
    /// For each session that counts, the first event that was not looked at.
    next: HashMap<SessionId, Seq>,
}

impl Purse {
    /// The purse of the session `owner`, if anything limits it: its own, where it has a limit, or that of the session it works for.
    pub(crate) fn of(owner: SessionId, limit: Option<SpendingLimit>, parent: Option<Arc<Self>>) -> Option<Arc<Self>> {
        let Some(limit) = limit else { return parent };
        Some(Arc::new(Self { owner, limit, parent, counted: Mutex::default(), reading: tokio::sync::Mutex::default() }))
    }

    /// This one and those that it hangs on.
    fn path(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |purse| purse.parent.as_deref())
    }

    /// Counts what a session has just logged.
    pub(crate) fn take_in(&self, session: SessionId, entry: &Entry) {
        for purse in self.path() {
            let mut counted = lock(&purse.counted);
            let counted = &mut *counted;
            if let Some(next) = counted.next.get_mut(&session).filter(|next| **next <= entry.seq) {
                *next = entry.seq + 1;
                counted.spent.take_in(&entry.event, &purse.limit.models);
            }
        }
    }

    /// Whether `session` may not spend any more.
    ///
    /// # Errors
    /// Where a log cannot be read.
    async fn is_spent(&self, session: SessionId, store: &dyn SessionStore) -> Result<bool, StoreError> {
        for purse in self.path() {
            purse.read(purse.owner, store).await?;
            purse.read(session, store).await?;
            let counted = lock(&purse.counted);
            if purse.limit.times(&counted.spent) >= f64::from(counted.raised) + 1.0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Counts what the log of `session` says and those of its children, once. A child whose log is gone counts no more.
    async fn read(&self, session: SessionId, store: &dyn SessionStore) -> Result<(), StoreError> {
        let is_known = |session: &SessionId| lock(&self.counted).next.contains_key(session);
        if is_known(&session) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        let (mut found, mut open) = (Counted::default(), vec![session]);
        while let Some(id) = open.pop() {
            if found.next.contains_key(&id) || is_known(&id) {
                continue;
            }
            let mut log = match store.read(id, 0).await {
                Err(StoreError::NotFound(_)) if id != session => continue,
                log => log?,
            };
            let (mut spent, mut next, mut children) = (Spent::default(), 0, Vec::new());
            while let Some(entry) = log.next().await? {
                match &entry.event {
                    Event::ChildOpened(child) => children.push(child.session),
                    Event::SessionForked(_) => children.clear(),
                    _ => {}
                }
                spent.take_in(&entry.event, &self.limit.models);
                next = entry.next_seq();
            }
            found.spent.add_all(&spent);
            found.next.insert(id, next);
            open.append(&mut children);
        }
        let mut counted = lock(&self.counted);
        counted.spent.add_all(&found.spent);
        counted.next.extend(found.next);
        Ok(())
    }

    /// Allows each limit on the path once more than it was spent.
    pub(crate) fn raise(&self) {
        for purse in self.path() {
            let mut counted = lock(&purse.counted);
            counted.raised = purse.limit.times(&counted.spent) as u32;
        }
    }
}

impl Shared {
    /// Whether the session has spent what it may, or one that it works for.
    ///
    /// # Errors
    /// Where a log cannot be read.
    pub(crate) async fn is_spent(&self) -> Result<bool, StoreError> {
        match &self.purse {
            Some(purse) => purse.is_spent(self.log.id(), &*self.store).await,
            None => Ok(false),
        }
    }
}
