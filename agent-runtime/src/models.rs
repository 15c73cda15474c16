//! What is known of models: [`ModelTable`].
//!
//! A table in the program, which a file of the user's adds to and corrects. What is in it is a fact that somebody published, and
//! each line says where; what nobody published is not in it. Prices are looked up when a cost is asked for, never written to a log: a log says what was used.

use crate::model::ModelLimits;
use serde::{Deserialize, Serialize};
use session_store::{Origin, Usage};
use std::collections::BTreeMap;

/// The longest answer that is asked for by itself; a model that can give longer ones is asked for them where somebody says so.
const ANSWER_TOKENS: u64 = 32_000;
const MILLION: f64 = 1_000_000.0;

/// What is known of a model. What is absent is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelFacts {
    /// The tokens that it can take, the answer included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// The tokens that it can be sent, where that is less than its window leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u64>,
    /// The longest answer that it can give, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
    /// The longest answer that it is asked for where nobody says otherwise; absent: what it can give, 32,000 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_tokens: Option<u64>,
    /// What its tokenizer counts, at most, for one token of o200k.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_factor: Option<f64>,
    /// Parameters that it is known to refuse: [`Model::learned`](crate::Model::learned) from the start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<String>,
    /// What it costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

/// US dollars for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Sent, and neither read from the provider's cache nor written to it.
    pub input: f64,
    /// Read from the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<f64>,
    /// Written to the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Answered, reasoning included.
    pub output: f64,
    /// What a request costs that is longer than some length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongPrice>,
}

/// The price of a long request, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongPrice {
    /// Requests with more input tokens than this.
    pub above: u64,
    /// What all input costs, as a multiple.
    pub input_factor: f64,
    /// What the output costs, as a multiple.
    pub output_factor: f64,
}

impl Price {
    /// What a call cost that used this, in US dollars; nothing where a part of the usage or of the price is not known.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Option<f64> {
        let (input, output) = (usage.input_tokens?, usage.output_tokens?);
        let (read, written) = (usage.cache_read_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
        let part = |tokens: u64, price: Option<f64>| if tokens == 0 { Some(0.0) } else { Some(tokens as f64 * price?) };
        let fresh = input.saturating_sub(read).saturating_sub(written);
        let (input_factor, output_factor) = match self.long {
            Some(long) if input > long.above => (long.input_factor, long.output_factor),
            _ => (1.0, 1.0),
        };
        let input = part(fresh, Some(self.input))? + part(read, self.cached_input)? + part(written, self.cache_write)?;
        Some((input * input_factor + output as f64 * self.output * output_factor) / MILLION)
    }
}

/// What is known of models, by name.
#[derive(Clone, Debug)]
pub struct ModelTable {
    /// By `provider/name`; a name that ends in `*` means all that begin like it.
    built_in: BTreeMap<String, ModelFacts>,
    own: BTreeMap<String, ModelFacts>,
}

/// A file of models that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadModels(#[from] serde_json::Error);

impl Default for ModelTable {
    fn default() -> Self {
        Self::built_in()
    }
}

impl ModelTable {
    /// What the program itself knows.
    #[must_use]
    pub fn built_in() -> Self {
        Self { built_in: built_in(), own: BTreeMap::new() }
    }

    /// Adds what `json` says: an object of [`ModelFacts`] by `provider/name`, or by a start of it with `*` behind. A fact that is in it beats the program's own.
    ///
    /// # Errors
    /// What is wrong with it, by line; the table is as before then.
    pub fn extend(&mut self, json: &[u8]) -> Result<(), BadModels> {
        let own: BTreeMap<String, ModelFacts> = serde_json::from_slice(json)?;
        self.own.extend(own);
        Ok(())
    }

    /// The names in it, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own.keys().filter(|name| !self.built_in.contains_key(*name));
        self.built_in.keys().chain(own).map(String::as_str)
    }

    /// Whether the user's own file says something of exactly this name.
    #[must_use]
    pub fn is_own(&self, name: &str) -> bool {
        self.own.contains_key(name)
    }

    /// What is known of the model `provider/name`: of its name, of the name without a date at its end, and of the names that it begins like, the longest first.
    #[must_use]
    pub fn facts(&self, provider: &str, name: &str) -> ModelFacts {
        // The same models, by another protocol.
        let provider = if provider == "openai-responses" { "openai" } else { provider };
        let name = format!("{provider}/{name}");
        let mut facts = ModelFacts::default();
        for table in [&self.own, &self.built_in] {
            let mut found: Vec<(&String, &ModelFacts)> = table.iter().filter(|(known, _)| is_meant(known, &name)).collect();
            found.sort_by_key(|(known, _)| std::cmp::Reverse((!known.ends_with('*'), known.len())));
            found.into_iter().for_each(|(_, known)| facts.fill(known));
        }
        facts
    }

    /// The limits of the model `provider/name`; of one that is not known, those of an unknown one.
    #[must_use]
    pub fn limits(&self, provider: &str, name: &str) -> ModelLimits {
        let (facts, unknown) = (self.facts(provider, name), ModelLimits::default());
        let answer = facts.answer_tokens.or(facts.max_output_tokens.map(|most| most.min(ANSWER_TOKENS)));
        let max_output_tokens = answer.unwrap_or(unknown.max_output_tokens);
        let window = facts.context_window.unwrap_or(unknown.context_window);
        let most = facts.max_input_tokens.map_or(u64::MAX, |input| input.saturating_add(max_output_tokens));
        ModelLimits {
            context_window: window.min(most),
            max_output_tokens,
            token_factor: facts.token_factor.unwrap_or(unknown.token_factor),
        }
    }

    /// What a call cost, in US dollars; nothing where its price, or what it used, is not known.
    #[must_use]
    pub fn cost(&self, origin: &Origin, usage: &Usage) -> Option<f64> {
        // The offline model asks nobody.
        if origin.provider == "offline" {
            return Some(0.0);
        }
        self.facts(&origin.provider, &origin.model).price?.cost(usage)
    }
}

impl ModelFacts {
    /// Takes what is not known yet from `other`.
    fn fill(&mut self, other: &Self) {
        self.context_window = self.context_window.or(other.context_window);
        self.max_input_tokens = self.max_input_tokens.or(other.max_input_tokens);
        self.max_output_tokens = self.max_output_tokens.or(other.max_output_tokens);
        self.answer_tokens = self.answer_tokens.or(other.answer_tokens);
        self.token_factor = self.token_factor.or(other.token_factor);
        self.price = self.price.or(other.price);
        if self.refuses.is_empty() {
            self.refuses.clone_from(&other.refuses);
        }
    }
}

/// Whether `known` is the name, or the name without the date of a release at its end, or the start of it.
fn is_meant(known: &str, name: &str) -> bool {
    if let Some(start) = known.strip_suffix('*') {
        return name.starts_with(start);
    }
    let Some(rest) = name.strip_prefix(known) else { return false };
    let is_date =
        |rest: &str| rest.len() >= 8 && rest.starts_with("20") && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    rest.is_empty() || rest == "-latest" || rest.strip_prefix('-').is_some_and(is_date)
}

/// A model with a published price.
fn priced(window: Option<u64>, output: Option<u64>, price: Price) -> ModelFacts {
    ModelFacts { context_window: window, max_output_tokens: output, price: Some(price), ..ModelFacts::default() }
}

/// Anthropic's prices: input, cache write (5 minutes), cache read, output.
fn claude(input: f64, cache_write: f64, cached_input: f64, output: f64) -> Price {
    Price { input, cached_input: Some(cached_input), cache_write: Some(cache_write), output, long: None }
}

/// OpenAI's prices: input, cached input, output. Writing to the cache costs what input does.
fn gpt(input: f64, cached_input: f64, output: f64) -> Price {
    Price { input, cached_input: Some(cached_input), cache_write: Some(input), output, long: None }
}

fn built_in() -> BTreeMap<String, ModelFacts> {
    let (k200, m1) = (Some(200_000), Some(1_000_000));
    let (k64, k128) = (Some(64_000), Some(128_000));
    let family = |window: u64, output: u64, factor: f64| ModelFacts {
        context_window: Some(window),
        answer_tokens: Some(output),
        token_factor: Some(factor),
        ..ModelFacts::default()
    };
    // From 272,000 input tokens on, all input costs twice and all output one and a half times as much:
    // developers.openai.com/api/docs/models/gpt-5.4.
    let long = |price: Price| Price { long: Some(LongPrice { above: 272_000, input_factor: 2.0, output_factor: 1.5 }), ..price };
    let gpt_5 = |price: Price| ModelFacts { max_input_tokens: Some(272_000), ..priced(Some(400_000), k128, price) };
    let gpt_5_long = |price: Price| ModelFacts { max_input_tokens: Some(922_000), ..priced(Some(1_050_000), k128, long(price)) };
    let table = [
        // Careful limits for names that are not listed one by one, and what the families' tokenizers were seen to count.
        ("anthropic/claude-3*", family(200_000, 8_192, 1.3)),
        ("anthropic/claude-*", family(200_000, 32_000, 2.0)),
        ("openai/gpt-5*", family(304_000, 32_000, 1.0)),
        ("openai/gpt-4.1*", family(1_000_000, 32_000, 1.0)),
        ("openai/gpt-4o*", family(128_000, 16_384, 1.0)),
        // Prices: platform.claude.com/docs/en/about-claude/pricing (a write to the 5 minute cache costs 1.25 times the input). Windows
        // and outputs: platform.claude.com/docs/en/models/NAME/overview, as of November 2026.
        ("anthropic/claude-fable-5-1", priced(m1, k128, claude(10.0, 12.5, 0.25, 50.0))),
        ("anthropic/claude-fable-5", priced(m1, k128, claude(10.0, 12.5, 1.0, 50.0))),
        ("anthropic/claude-opus-5-5", priced(m1, k128, claude(4.0, 5.0, 0.2, 20.0))),
        ("anthropic/claude-opus-5", priced(m1, k128, claude(5.0, 6.25, 0.5, 25.0))),
        // A read of the cache costs 0.10 since 2026-10-07.
        ("anthropic/claude-sonnet-5-5", priced(m1, k128, claude(2.0, 2.5, 0.1, 10.0))),
        ("anthropic/claude-sonnet-5", priced(m1, k128, claude(2.0, 2.5, 0.2, 10.0))),
        // Above 100,000 tokens of input everything costs five times as much.
        (
            "anthropic/claude-haiku-5-5",
            priced(
                m1,
                k128,
                Price {
                    long: Some(LongPrice { above: 100_000, input_factor: 5.0, output_factor: 5.0 }),
                    ..claude(0.1, 0.125, 0.01, 0.5)
                },
            ),
        ),
        ("anthropic/claude-opus-4-8", priced(m1, k128, claude(5.0, 6.25, 0.5, 25.0))),
        ("anthropic/claude-opus-4-7", priced(None, None, claude(5.0, 6.25, 0.5, 25.0))),
        ("anthropic/claude-opus-4-6", priced(m1, k128, claude(5.0, 6.25, 0.5, 25.0))),
        ("anthropic/claude-opus-4-5", priced(k200, k64, claude(5.0, 6.25, 0.5, 25.0))),
        ("anthropic/claude-opus-4-1", priced(None, None, claude(15.0, 18.75, 1.5, 75.0))),
        ("anthropic/claude-opus-4", priced(None, None, claude(15.0, 18.75, 1.5, 75.0))),
        ("anthropic/claude-sonnet-4-6", priced(None, None, claude(3.0, 3.75, 0.3, 15.0))),
        ("anthropic/claude-sonnet-4-5", priced(None, None, claude(3.0, 3.75, 0.3, 15.0))),
        ("anthropic/claude-sonnet-4", priced(None, None, claude(3.0, 3.75, 0.3, 15.0))),
        ("anthropic/claude-haiku-4-5", priced(k200, k64, claude(1.0, 1.25, 0.1, 5.0))),
        ("anthropic/claude-3-5-haiku", priced(None, None, claude(0.8, 1.0, 0.08, 4.0))),
        // developers.openai.com/api/docs/models/gpt-5.4 (922,000 of the window may be input); the prices of 5.5, mini and nano as
        // morphllm.com/openai-api-pricing has them from OpenAI's price list of June 2026, the window of 5.5 as
        // docs.oxen.ai/inference-api/reference/models/gpt-5-5-2026-04-23 has it.
        ("openai/gpt-5.5", gpt_5_long(gpt(5.0, 0.5, 30.0))),
        ("openai/gpt-5.4", gpt_5_long(gpt(2.5, 0.25, 15.0))),
        ("openai/gpt-5.4-mini", priced(None, None, gpt(0.75, 0.075, 4.5))),
        ("openai/gpt-5.4-nano", priced(None, None, gpt(0.2, 0.02, 1.25))),
        // developers.openai.com/api/docs/models/gpt-5-codex, which names GPT-5's price as well; vercel.com/ai-gateway/models/gpt-5-fast has its window.
        ("openai/gpt-5-codex", gpt_5(gpt(1.25, 0.125, 10.0))),
        ("openai/gpt-5", gpt_5(gpt(1.25, 0.125, 10.0))),
    ];
    table.into_iter().map(|(name, facts)| (name.to_owned(), facts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, read: u64, written: u64, output: u64) -> Usage {
        Usage {
            input_tokens: Some(input),
            cache_read_tokens: Some(read),
            cache_write_tokens: Some(written),
            output_tokens: Some(output),
            reasoning_tokens: None,
        }
    }

    fn cost(table: &ModelTable, name: &str, usage: &Usage) -> Option<f64> {
        let (provider, model) = name.split_once('/').expect("a provider");
        let origin = Origin { provider: provider.to_owned(), model: model.to_owned(), ..Origin::default() };
        table.cost(&origin, usage).map(|dollars| (dollars * 1e6).round() / 1e6)
    }

    #[test]
    fn cached_tokens_are_counted_apart() {
        let table = ModelTable::built_in();
        let all = usage(1_000_000, 500_000, 100_000, 10_000);
        assert_eq!(cost(&table, "anthropic/claude-opus-4-8", &all), Some(0.4 * 5.0 + 0.5 * 0.5 + 0.1 * 6.25 + 0.01 * 25.0));
        assert_eq!(cost(&table, "anthropic/claude-opus-4-8", &Usage::default()), None, "what was used is not known");
    }

    #[test]
    fn a_long_request_costs_what_long_requests_cost() {
        let table = ModelTable::built_in();
        assert_eq!(cost(&table, "openai-responses/gpt-5.4", &usage(272_000, 0, 0, 1_000)), Some(0.695));
        assert_eq!(cost(&table, "openai/gpt-5.4", &usage(300_000, 0, 0, 1_000)), Some(1.5225));
    }

    #[test]
    fn a_name_with_a_date_is_the_same_model_and_another_version_is_none() {
        let table = ModelTable::built_in();
        let some = usage(1_000, 0, 0, 0);
        assert!(cost(&table, "anthropic/claude-opus-4-20250514", &some).is_some());
        assert!(cost(&table, "openai/gpt-5.5-2026-04-23", &some).is_some());
        for unknown in ["anthropic/claude-opus-4-9", "openai/gpt-5.9", "openai/gpt-5.4-pro", "nobody/x"] {
            assert_eq!(cost(&table, unknown, &some), None, "{unknown}");
        }
        assert_eq!(cost(&table, "offline/offline", &some), Some(0.0));
    }

    #[test]
    fn unknown_models_have_the_limits_of_unknown_models() {
        let table = ModelTable::built_in();
        assert_eq!(table.limits("openai", "somebody/else"), ModelLimits::default());
        let window = |name| table.limits("anthropic", name).context_window;
        assert_eq!((window("claude-opus-5"), window("claude-next"), window("claude-3-haiku")), (1_000_000, 200_000, 200_000));
        assert_eq!(table.limits("openai", "gpt-5").context_window, 304_000, "272,000 may be sent");
    }

    #[test]
    fn a_users_file_adds_and_corrects() {
        let mut table = ModelTable::built_in();
        let json = br#"{"ollama/*": {"context_window": 32000}, "openai/gpt-5.5": {"price": {"input": 1, "output": 2}}}"#;
        table.extend(json).expect("good JSON");
        assert_eq!(table.limits("ollama", "llama3.3").context_window, 32_000);
        assert_eq!(cost(&table, "openai/gpt-5.5", &usage(1_000_000, 0, 0, 0)), Some(1.0));
        assert_eq!(cost(&table, "openai/gpt-5.5", &usage(1_000_000, 1, 0, 0)), None, "its price of cached input is not known");
        assert_eq!(table.limits("openai", "gpt-5.5").context_window, 922_000 + 32_000, "the rest stays");
        let error = table.extend(br#"{"x/y": {"window": 5}}"#).expect_err("no such fact").to_string();
        assert!(error.contains("window") && error.contains("line 1"), "{error}");
    }
}
