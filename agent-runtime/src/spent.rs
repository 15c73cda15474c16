//! What calls of models used and cost, summed up: [`Spent`].

use crate::models::ModelTable;
use serde::Serialize;
use session_store::{AssistantMessage, Usage};

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
        self.calls += 1;
        if let Some(usage) = &answer.usage {
            self.usage.add(usage);
        }
        match answer.usage.and_then(|usage| table.cost(&answer.origin, &usage)) {
            Some(cost) => self.cost_usd += cost,
            None => self.unpriced_calls += 1,
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
