//! What calls of models used and cost, summed up: [`Spent`]; and what a session may use: [`SpendingLimit`].

use crate::models::ModelTable;
use crate::session::{Shared, lock};
use serde::Serialize;
use session_store::{AssistantMessage, Entry, Event, Origin, Seq, StoreError, Usage};
use std::sync::Arc;

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

    /// Adds the call that `event` is the end of, if it is one: an answer, or a summary.
    pub fn take_in(&mut self, event: &Event, table: &ModelTable) {
        match event {
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

/// What a session may use altogether. The log of a fork begins with that of its parent, so what was used before it counts for both.
///
/// A turn looks before each call of a model, and ends with [`EndReason::Budget`](crate::EndReason::Budget) where the limit is reached: after a whole step, with nothing lost. The call that
/// reaches it may go past it.
#[derive(Clone, Debug, Default)]
pub struct SpendingLimit {
    /// Tokens, sent and answered.
    pub tokens: Option<u64>,
    /// US dollars, by the prices of `models`. Calls whose cost is not known do not count.
    pub usd: Option<f64>,
    /// The prices.
    pub models: Arc<ModelTable>,
}

/// What a session has spent, as far as its log was looked at, and how often its limit was allowed.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    spent: Spent,
    /// The first event that was not looked at.
    next: Seq,
    /// How often the limit may be spent, besides the first time.
    raised: u32,
}

impl Spending {
    fn take_in(&mut self, entry: &Entry, models: &ModelTable) {
        if entry.seq < self.next {
            return;
        }
        self.next = entry.seq + 1;
        self.spent.take_in(&entry.event, models);
    }

    /// How often the limit has been spent.
    fn times(&self, limit: &SpendingLimit) -> f64 {
        let tokens = limit.tokens.map_or(0.0, |most| self.spent.tokens() as f64 / most.max(1) as f64);
        let usd = limit.usd.filter(|most| *most > 0.0).map_or(0.0, |most| self.spent.cost_usd / most);
        tokens.max(usd)
    }

    /// Allows the limit once more than it was spent.
    pub(crate) fn raise(&mut self, limit: &SpendingLimit) {
        self.raised = self.times(limit) as u32;
    }
}

impl Shared {
    /// Whether the session has spent what it may. The log is read once; then only what is new is looked at.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub(crate) async fn is_spent(&self) -> Result<bool, StoreError> {
        let Some(limit) = lock(&self.setup).spending.clone() else { return Ok(false) };
        let next = lock(&self.spending).next;
        if self.log.recent(next).is_none() {
            let mut entries = self.store.read(self.log.id(), next).await?;
            while let Some(entry) = entries.next().await? {
                lock(&self.spending).take_in(&entry, &limit.models);
            }
        }
        let mut spending = lock(&self.spending);
        // What left memory meanwhile is written, and read the next time.
        for entry in self.log.recent(spending.next).unwrap_or_default() {
            spending.take_in(&entry, &limit.models);
        }
        Ok(spending.times(&limit) >= f64::from(spending.raised) + 1.0)
    }
}
