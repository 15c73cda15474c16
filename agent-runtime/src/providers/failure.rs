//! What a server's refusal means: one table from statuses and words to [`FailureKind`], and one for parameters that a server
//! does not take.
//!
//! A server's words are foreign text: at most 4 kB of them are kept, control characters are made visible, and the key is taken out
//! (some servers repeat it).

use super::endpoint::Secret;
use super::images::BAD_IMAGE;
use crate::model::{Body, FailureKind, ModelFailure};
use crate::tokens::floor_char_boundary;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// The most that is kept of a server's words, in bytes.
const WORDS_MAX: usize = 4096;

/// Who is asked: what an error says of it, and what it must never say.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As `anthropic at api.anthropic.com`.
    pub(crate) name: String,
    pub(crate) secret: Option<Secret>,
}

impl Peer {
    /// A failure in our words, with foreign ones after them.
    pub(crate) fn failure(&self, kind: FailureKind, ours: &str, theirs: &str) -> ModelFailure {
        let theirs = self.safe(theirs);
        let colon = if theirs.is_empty() { "" } else { ": " };
        ModelFailure::new(kind, format!("{} {ours}{colon}{theirs}", self.name))
    }

    /// What the server's refusal means.
    pub(crate) fn refusal(&self, status: Option<u16>, error: &ServerError, retry_after: Option<Duration>) -> ModelFailure {
        let answered = match status {
            Some(status @ 300..=399) => format!("answered {status}, and redirects are not followed"),
            Some(status) => format!("answered {status}"),
            None => "broke off".to_owned(),
        };
        let label = if error.label.is_empty() { String::new() } else { format!("{}: ", error.label) };
        let failure = self.failure(kind_of(status, error), &answered, &format!("{label}{}", error.message));
        ModelFailure { status, retry_after, ..failure }
    }

    fn safe(&self, words: &str) -> String {
        let words = match &self.secret {
            Some(secret) if !secret.expose().is_empty() => words.replace(secret.expose(), "[key]"),
            _ => words.to_owned(),
        };
        let words = words.trim();
        let shown = start_of(words, WORDS_MAX);
        let cut = if shown.len() < words.len() { " [...]" } else { "" };
        let visible = |c: char| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => '\u{FFFD}',
            c => c,
        };
        shown.chars().map(visible).chain(cut.chars()).collect()
    }
}

/// A server's refusal, from one of the many shapes that it comes in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerError {
    pub(crate) message: String,
    /// Its type and its code, joined.
    pub(crate) label: String,
    /// The parameter that it names.
    param: String,
    /// A status that it gives as a code, inside of a stream.
    code: Option<u16>,
}

impl ServerError {
    /// The error in a whole body: JSON in any of the known shapes, or plain words.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let parsed = serde_json::from_slice::<Value>(body).ok();
        parsed
            .as_ref()
            .and_then(Self::from_json)
            .unwrap_or_else(|| Self { message: String::from_utf8_lossy(body).into_owned(), ..Self::default() })
    }

    /// The error that `json` says it is, if it does. Known shapes: `{"error": {..}}` (OpenAI, Anthropic, llama.cpp),
    /// `{"error": "words"}` (Ollama), `{"object": "error", ..}` (older vLLM), `{"detail": ..}` (FastAPI), and the first in an array (Google).
    pub(crate) fn from_json(json: &Value) -> Option<Self> {
        let error = match json {
            Value::Array(all) => return all.first().and_then(Self::from_json),
            _ if !json["error"].is_null() => &json["error"],
            _ if !json["detail"].is_null() => &json["detail"],
            _ if json["object"] == "error" || json["type"] == "error" => json,
            _ => return None,
        };
        let message = match (&error["message"], error) {
            (Value::String(message), _) | (_, Value::String(message)) => message.clone(),
            (_, other) => other.to_string(),
        };
        let code = &error["code"];
        let words = [error["type"].as_str(), code.as_str(), error["status"].as_str()];
        // A number among them is a status, which is told anyway.
        let mut label: Vec<_> = words.into_iter().flatten().filter(|word| word.parse::<u16>().is_err()).collect();
        label.dedup();
        Some(Self {
            message,
            label: label.join(" "),
            param: error["param"].as_str().unwrap_or_default().to_owned(),
            code: code.as_u64().or_else(|| code.as_str()?.parse().ok()).and_then(|code| u16::try_from(code).ok()),
        })
    }

    fn words(&self) -> String {
        format!("{} {}", self.label, self.message).to_ascii_lowercase()
    }
}

/// How servers say that the context is too long, and whose words those are, as far as public sources have them in November 2026.
const CONTEXT_WORDS: [&str; 33] = [
    // Anthropic, and Bedrock with its models.
    "prompt is too long",
    "exceed context limit",
    "exceed your context limit",
    "exceeds context window",
    "request_too_large",
    // OpenAI, Azure and Groq; in Responses also inside of the stream.
    "context_length_exceeded",
    "exceeds the context window",
    "input tokens exceed",
    "reduce the length of the messages",
    // OpenAI, DeepSeek, OpenRouter, vLLM, Mistral, and Bedrock with others' models.
    "maximum context length",
    "contextwindowexceeded", // LiteLLM
    // vLLM, SGLang, Together.
    "model's context length",
    "maximum model length",
    "max_new_tokens", // Text Generation Inference; it is no parameter of ours.
    // llama.cpp, in three versions.
    "exceed_context_size",
    "exceeds the available context size",
    "exceed the available context size",
    // Ollama, in two versions.
    "exceeded max context length",
    "exceeded context length",
    "greater than the context length", // LM Studio
    // Bedrock.
    "input is too long",
    "too many input tokens",
    "too many total text bytes",
    "input token count",             // Google
    "maximum prompt length",         // xAI
    "prompt token count of",         // GitHub
    "maximum allowed input length",  // Poolside
    "context window exceeds limit",  // MiniMax
    "exceeded model token limit",    // Kimi
    "range of input length should",  // Alibaba
    "prompt exceeds max length",     // Zhipu
    "model_context_window_exceeded", // Z.ai
    "tokens in the prompt cannot",   // Cohere
];

/// How servers say that a request alone is more than all requests of a minute may be: waiting does not help. OpenAI, Groq.
const ALONE_TOO_LARGE_WORDS: [&str; 2] = ["tokens must be reduced in order to run", "please reduce your message size"];

const QUOTA_WORDS: [&str; 6] = [
    "insufficient_quota",
    "billing_error",
    "billing_hard_limit_reached",
    "credit balance is too low",
    "insufficient balance",
    "insufficient credits",
];

const AUTH_WORDS: [&str; 4] = ["authentication_error", "permission_error", "invalid_api_key", "api_key_invalid"];

fn kind_of(status: Option<u16>, error: &ServerError) -> FailureKind {
    let words = error.words();
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    // A 2xx that turns out to be an error tells nothing by its status; nor does the 200 of a stream that breaks off.
    let told = status.filter(|status| !(200..300).contains(status)).or(error.code.filter(|code| *code >= 400));
    if matches!(told, None | Some(400 | 413 | 422 | 500)) && says(&CONTEXT_WORDS) {
        return FailureKind::ContextTooLong;
    }
    if told == Some(429) && says(&ALONE_TOO_LARGE_WORDS) {
        return FailureKind::ContextTooLong;
    }
    if matches!(told, None | Some(400 | 402 | 403 | 429)) && says(&QUOTA_WORDS) {
        return FailureKind::Quota;
    }
    if matches!(told, None | Some(400 | 422 | 500)) && says(BAD_IMAGE) {
        return FailureKind::ImageRefused;
    }
    match told {
        Some(401 | 403) => FailureKind::Auth,
        Some(400) if says(&AUTH_WORDS) => FailureKind::Auth,
        Some(402) => FailureKind::Quota,
        Some(404) => FailureKind::NotFound,
        Some(408 | 409 | 425) => FailureKind::Server,
        Some(413) => FailureKind::ContextTooLong,
        Some(429) => FailureKind::RateLimit,
        Some(529) => FailureKind::Overloaded,
        Some(500..) if says(&["overloaded_error"]) => FailureKind::Overloaded,
        Some(500..) => FailureKind::Server,
        Some(_) => FailureKind::BadRequest,
        None if says(&["overloaded"]) => FailureKind::Overloaded,
        None if says(&["rate_limit"]) => FailureKind::RateLimit,
        None if says(&AUTH_WORDS) => FailureKind::Auth,
        None if says(&["not_found"]) => FailureKind::NotFound,
        None if says(&["invalid_request", "invalid_prompt", "badrequest", "bad_request"]) => FailureKind::BadRequest,
        None => FailureKind::Server,
    }
}

/// At most `max` bytes of `text`, in whole characters.
pub(crate) fn start_of(text: &str, max: usize) -> &str {
    &text[..floor_char_boundary(text, max)]
}

/// A parameter that a server may not take.
pub(crate) struct Learnable {
    /// What is remembered once it was refused.
    pub(crate) name: &'static str,
    /// What a body holds that sends it.
    pub(crate) sent_as: &'static str,
    /// What a refusal calls it, one of these.
    pub(crate) called: &'static [&'static str],
    /// The most that a refusal allows for it: for a parameter that cannot be left out. Remembered as `name=most`.
    pub(crate) limit: Option<fn(&str) -> Option<u64>>,
}

impl Learnable {
    pub(crate) const fn new(name: &'static str, sent_as: &'static str, called: &'static [&'static str]) -> Self {
        Self { name, sent_as, called, limit: None }
    }
}

/// What was learned of an endpoint and model: the names of parameters that it refused.
#[derive(Debug, Default)]
pub(crate) struct Learned(RwLock<BTreeSet<String>>);

impl Learned {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(RwLock::new(names.into_iter().collect()))
    }

    /// All of it, in order.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers the parameter of `body` that `error` names, if it does. What is learned is not sent any more, so that
    /// each can be learned once, and trying again comes to an end.
    pub(crate) fn learn(&self, table: &'static [Learnable], body: &Body, error: &ServerError) -> bool {
        let message = error.message.to_ascii_lowercase();
        let names = |text: &str, row: &Learnable| row.called.iter().any(|word| has_word(text, word));
        // No parameter lies in two pieces. A body may have megabytes of images, so it is looked at last.
        let sent = |row: &&Learnable| body.pieces().iter().any(|piece| contains(piece, row.sent_as.as_bytes()));
        let row_of = |text: &str| table.iter().filter(|row| names(text, row)).find(sent);
        let Some(row) = row_of(&error.param).or_else(|| row_of(&message)) else { return false };
        let name = match row.limit {
            None => row.name.to_owned(),
            Some(limit) => match limit(&error.message) {
                Some(most) => format!("{}={most}", row.name),
                None => return false,
            },
        };
        // What was known already did not help.
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name)
    }
}

/// The most that `learned` allows for the parameter `name`.
pub(crate) fn limit_of(learned: &BTreeSet<String>, name: &str) -> Option<u64> {
    learned.iter().filter_map(|known| known.strip_prefix(name)?.strip_prefix('=')?.parse().ok()).min()
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// Whether `text` has `word` as a whole name, not as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part_of_name) && !text[at + word.len()..].starts_with(part_of_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer { name: "openai at example.com".to_owned(), secret: Some(Secret::new("sk-very-secret")) }
    }

    fn kind(status: u16, body: &str) -> FailureKind {
        kind_of(Some(status), &ServerError::parse(body.as_bytes()))
    }

    #[test]
    fn each_provider_says_in_its_own_words_that_the_context_is_too_long() {
        for (who, status, body) in [
            (
                "anthropic",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            ),
            (
                "anthropic, with the answer",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease input length or `max_tokens` and try again"}}"#,
            ),
            (
                "anthropic, by bytes",
                413,
                r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#,
            ),
            (
                "openai",
                400,
                r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            ),
            (
                "openai, newer models",
                400,
                r#"{"error":{"message":"Input tokens exceed the configured limit of 922000 tokens. Your messages resulted in 1200007 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            ),
            (
                "openai responses",
                400,
                r#"{"error":{"message":"Your input exceeds the context window of this model. Please adjust your input and try again.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}"#,
            ),
            (
                "openai, more than a minute may have",
                429,
                r#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 31538. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
            ),
            (
                "azure",
                400,
                r#"{"error":{"message":"This model's maximum context length is 128000 tokens, however you requested 130000 tokens","type":"invalid_request_error","param":null,"code":"context_length_exceeded"}}"#,
            ),
            (
                "groq",
                400,
                r#"{"error":{"message":"Please reduce the length of the messages or completion.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            ),
            (
                "groq, more than a minute may have",
                413,
                r#"{"error":{"message":"Request too large for model `llama-3.3-70b-versatile` on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ),
            (
                "openrouter",
                400,
                r#"{"error":{"code":400,"message":"This endpoint's maximum context length is 1048576 tokens. However, you requested about 1293741 tokens (1227853 of text input, 353 of tool input, 65535 in the output). Please reduce the length of either one, or use the \"middle-out\" transform."}}"#,
            ),
            (
                "openrouter, poolside",
                400,
                r#"{"error":{"code":400,"message":"Input length 265330 exceeds the maximum allowed input length of 262144 tokens."}}"#,
            ),
            (
                "vllm",
                400,
                r#"{"object":"error","message":"'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 8192 tokens","type":"BadRequestError","param":null,"code":400}"#,
            ),
            (
                "vllm, newer",
                400,
                r#"{"error":{"message":"You passed 1015 input tokens. However, the model's context length is only 1024 tokens","type":"BadRequestError","param":"input_tokens","code":400}}"#,
            ),
            (
                "vllm, the prompt alone",
                400,
                r#"{"error":{"message":"The decoder prompt (length 44458) is longer than the maximum model length of 24576.","type":"BadRequestError","param":null,"code":400}}"#,
            ),
            (
                "sglang and together",
                400,
                r#"{"error":{"message":"The input (44458 tokens) is longer than the model's context length (32768 tokens).","type":"invalid_request_error"}}"#,
            ),
            (
                "text generation inference",
                422,
                r#"{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 32768. Given: 71508 `inputs` tokens and 0 `max_new_tokens`","error_type":"validation"}"#,
            ),
            (
                "llama.cpp",
                400,
                r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error","n_ctx":256}}"#,
            ),
            (
                "llama.cpp, older",
                500,
                r#"{"error":{"code":500,"message":"the request exceeds the available context size. try increasing the context size or enable context shift","type":"server_error"}}"#,
            ),
            ("ollama", 400, r#"{"error":"prompt too long; exceeded max context length by 412 tokens"}"#),
            ("ollama, another", 400, r#"{"error":{"message":"prompt too long; exceeded context length","type":"api_error"}}"#),
            (
                "lm studio",
                400,
                r#"{"error":"The number of tokens to keep from the initial prompt is greater than the context length."}"#,
            ),
            (
                "litellm",
                400,
                r#"{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException","type":null,"param":null,"code":"400"}}"#,
            ),
            (
                "bedrock by a proxy",
                400,
                r#"{"error":{"message":"bedrock error: The model returned the following errors: Input is too long for requested model.","type":"invalid_request_error"}}"#,
            ),
            (
                "bedrock by a proxy, claude",
                400,
                r#"{"message":"ValidationException: The model returned the following errors: prompt is too long: 903884 tokens > 200000 maximum"}"#,
            ),
            (
                "google",
                400,
                r#"[{"error":{"code":400,"message":"The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).","status":"INVALID_ARGUMENT"}}]"#,
            ),
            (
                "xai",
                400,
                r#"{"code":"Client specified an invalid argument","error":"This model's maximum prompt length is 131072 but the request contains 537812 tokens."}"#,
            ),
            (
                "mistral",
                400,
                r#"{"object":"error","message":"Prompt contains 33012 tokens and 0 draft tokens, too large for model with 32768 maximum context length","type":"invalid_request_prompt_too_long"}"#,
            ),
            ("minimax", 400, r#"{"error":{"message":"invalid params, context window exceeds limit (2013)"}}"#),
            ("kimi", 400, r#"{"error":{"message":"Your request exceeded model token limit: 262144 (requested: 566084)"}}"#),
            (
                "github",
                400,
                r#"{"error":{"message":"prompt token count of 140000 exceeds the limit of 128000","code":"model_max_prompt_tokens_exceeded"}}"#,
            ),
            (
                "alibaba",
                400,
                r#"{"error":{"code":"invalid_parameter_error","message":"Range of input length should be [1, 129024]","type":"invalid_request_error"}}"#,
            ),
            ("zhipu", 400, r#"{"error":{"code":"1261","message":"Prompt exceeds max length"}}"#),
            (
                "cohere",
                400,
                r#"{"message":"too many tokens: total number of tokens in the prompt cannot exceed 128000 - received 130000."}"#,
            ),
        ] {
            assert_eq!(kind(status, body), FailureKind::ContextTooLong, "{who}: {body}");
        }
    }

    #[test]
    fn what_passes_by_itself_is_not_taken_for_a_context_that_is_too_long() {
        for (who, status, body, expected) in [
            (
                "openai",
                429,
                r#"{"error":{"message":"Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 1443. Please try again in 4.77s.","type":"tokens","code":"rate_limit_exceeded"}}"#,
                FailureKind::RateLimit,
            ),
            (
                "bedrock by a proxy",
                429,
                r#"{"message":"ThrottlingException: Too many tokens, please wait before trying again."}"#,
                FailureKind::RateLimit,
            ),
            (
                "anthropic, the answer alone",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for claude-x"}}"#,
                FailureKind::BadRequest,
            ),
            ("a proxy", 503, "upstream: prompt is too long to be queued", FailureKind::Server),
        ] {
            assert_eq!(kind(status, body), expected, "{who}: {body}");
        }
    }

    #[test]
    fn each_server_says_in_its_own_words_that_it_does_not_take_an_image() {
        for (who, status, body) in [
            (
                "anthropic",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Could not process image"}}"#,
            ),
            (
                "anthropic, by bytes",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.58.content.2.image.source.base64: image exceeds 5 MB maximum: 6500712 bytes > 5242880 bytes"}}"#,
            ),
            (
                "anthropic, by pixels",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.88.content.1.image.source.base64.data: At least one of the image dimensions exceed max allowed size for many-image requests: 2000 pixels"}}"#,
            ),
            (
                "anthropic, by kind",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages.83.content.0.tool_result.content.1.image.source.base64: The image was specified using the image/jpeg media type, but the image appears to be a image/png image"}}"#,
            ),
            (
                "bedrock by a proxy",
                400,
                r#"{"message":"ValidationException: The model returned the following errors: Could not process image"}"#,
            ),
            (
                "openai",
                400,
                r#"{"error":{"message":"You uploaded an unsupported image. Please make sure your image has of one the following formats: ['png', 'jpeg', 'gif', 'webp'].","type":"invalid_request_error","param":null,"code":"invalid_image_format"}}"#,
            ),
            (
                "openai responses",
                400,
                r#"{"error":{"message":"The image data you provided does not represent a valid image. Please check your input and try again with one of the supported image formats: ['image/jpeg', 'image/png', 'image/gif', 'image/webp'].","type":"invalid_request_error","param":"input","code":"invalid_value"}}"#,
            ),
            (
                "openai responses, by place",
                400,
                r#"{"error":{"type":"invalid_request_error","code":"invalid_value","message":"Invalid 'input[108].content[14].image_url'. Expected a base64-encoded data URL with an image MIME type (e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU='), but got empty base64-encoded bytes.","param":"input[108].content[14].image_url"}}"#,
            ),
            ("openai, of old", 400, r#"{"error":{"message":"Invalid image.","type":"invalid_request_error","code":null}}"#),
            ("xai", 400, r#"{"code":"Client specified an invalid argument","error":"Invalid PNG image"}"#),
            ("google", 400, r#"[{"error":{"code":400,"message":"Provided image is not valid.","status":"INVALID_ARGUMENT"}}]"#),
            (
                "google, through a gateway",
                400,
                r#"{"error":{"message":"Unable to process input image. Please retry or report","type":"","code":400}}"#,
            ),
            ("vllm", 400, r#"{"object":"error","message":"cannot identify image file <_io.BytesIO>","code":400}"#),
            (
                "llama.cpp",
                400,
                r#"{"error":{"code":400,"message":"Failed to load image or audio file","type":"invalid_request_error"}}"#,
            ),
            (
                "llama.cpp, older",
                500,
                r#"{"error":{"code":500,"message":"Failed to load image or audio file","type":"server_error"}}"#,
            ),
            ("ollama", 400, r#"{"error":"illegal base64 data at input byte 5"}"#),
        ] {
            assert_eq!(kind(status, body), FailureKind::ImageRefused, "{who}: {body}");
        }
        let in_a_stream = r#"{"type":"error","error":{"code":"image_parse_error","message":"The image could not be parsed."}}"#;
        assert_eq!(kind_of(None, &ServerError::parse(in_a_stream.as_bytes())), FailureKind::ImageRefused);
    }

    #[test]
    fn what_is_said_of_something_else_is_no_refusal_of_an_image() {
        for (status, body, expected) in [
            (
                400,
                r#"{"error":{"type":"invalid_request_error","message":"tools.0.input_schema: JSON schema of `image` is invalid"}}"#,
                FailureKind::BadRequest,
            ),
            (
                400,
                r#"{"error":{"type":"invalid_request_error","message":"messages.3.content.0.tool_use.id: String should match pattern"}}"#,
                FailureKind::BadRequest,
            ),
            (403, r#"{"error":{"message":"Invalid image.","code":"invalid_image"}}"#, FailureKind::Auth),
            (429, r#"{"error":{"type":"rate_limit_error","message":"too many images in a minute"}}"#, FailureKind::RateLimit),
            (
                413,
                r#"{"error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#,
                FailureKind::ContextTooLong,
            ),
        ] {
            assert_eq!(kind(status, body), expected, "{body}");
        }
    }

    #[test]
    fn an_account_without_credit_is_not_a_rate_limit() {
        for (status, body) in [
            (
                429,
                r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API"}}"#,
            ),
            (402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#),
            (403, r#"{"type":"error","error":{"type":"billing_error","message":"There's an issue with billing"}}"#),
        ] {
            assert_eq!(kind(status, body), FailureKind::Quota, "{body}");
        }
        assert_eq!(kind(429, r#"{"error":{"type":"rate_limit_error","message":"slow down"}}"#), FailureKind::RateLimit);
    }

    #[test]
    fn an_error_inside_of_a_stream_is_told_by_its_type_or_its_code() {
        for (error, expected) in [
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, FailureKind::Overloaded),
            (r#"{"error":{"type":"api_error","message":"Internal"}}"#, FailureKind::Server),
            (r#"{"error":{"type":"rate_limit_error","message":"x"}}"#, FailureKind::RateLimit),
            (r#"{"error":{"code":429,"message":"provider said so"}}"#, FailureKind::RateLimit),
            (r#"{"error":{"code":"502","message":"bad gateway"}}"#, FailureKind::Server),
            (r#"{"error":{"type":"invalid_request_error","message":"x"}}"#, FailureKind::BadRequest),
            (r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#, FailureKind::ContextTooLong),
        ] {
            assert_eq!(kind_of(None, &ServerError::parse(error.as_bytes())), expected, "{error}");
        }
    }

    #[test]
    fn words_of_a_server_are_bounded_visible_and_without_the_key() {
        let error = ServerError::parse(format!("bad\u{1b}[2J key sk-very-secret {}", "ä".repeat(9000)).as_bytes());
        let detail = peer().refusal(Some(401), &error, None).detail;
        assert!(detail.starts_with("openai at example.com answered 401: bad\u{FFFD}[2J key [key] ää"), "{detail:.80}");
        assert!(detail.ends_with("ä [...]") && detail.len() < WORDS_MAX + 100, "{}", detail.len());
    }

    #[test]
    fn a_name_is_found_only_as_a_whole() {
        assert!(has_word("unsupported parameter: 'max_tokens' here", "max_tokens"));
        assert!(has_word("thinking.type.enabled is not supported", "thinking"));
        assert!(!has_word("reasoning_effort is unknown", "reasoning"));
        assert!(!has_word("xmax_tokens", "max_tokens"));
    }
}
