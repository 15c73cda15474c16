//! Texts that look like credentials do not leave in an export that is made to be shown to others.
//!
//! Known secret *values* are replaced before they reach a log. What is left are credentials that nobody knew as such: pasted
//! into a question, printed by a tool. They are known by their *shape* only, so this is a net with holes and no promise: it
//! prefers to miss a strange token to taking apart ordinary text. A JSONL export copies the bytes of the log and is not touched.

use crate::transcript::{Item, ItemKind, ToolEnd};
use regex::{Captures, Regex, RegexSet};
use session_store::{Block, Profile, Todo, sha256_hex};
use std::borrow::Cow;
use std::sync::Arc;

/// Shapes of credentials: a name for the marker, and a pattern. The secret is the group `s`, or else the whole match.
const SHAPES: &[(&str, &str)] = &[
    ("private-key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.+?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)"),
    ("anthropic-key", r"\bsk-ant-[A-Za-z0-9_-]{16,}"),
    ("api-key", r"\bsk-(?:proj-|svcacct-|admin-|or-v1-|lf-)?[A-Za-z0-9_-]{20,}"),
    ("stripe-key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("github-token", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    ("gitlab-token", r"\bgl(?:pat|dt|rt|ptt|cbt)-[A-Za-z0-9_-]{20,}"),
    ("slack-token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("google-key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("google-token", r"\bya29\.[A-Za-z0-9_-]{20,}"),
    ("aws-key-id", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("aws-secret-key", r#"(?i)aws_secret_access_key["']?\s*[:=]\s*["']?(?P<s>[A-Za-z0-9/+]{40})"#),
    ("npm-token", r"\bnpm_[A-Za-z0-9]{36}"),
    ("pypi-token", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    ("hugging-face-token", r"\bhf_[A-Za-z0-9]{30,}"),
    ("jwt", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    ("bearer-token", r"(?i)\bbearer\s+(?P<s>[A-Za-z0-9._~+/-]{20,}=*)"),
    ("url-password", r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:(?P<s>[^\s/@]{3,})@"),
];

/// Replaces texts of those shapes by `«secret:SHAPE#hash8»`: equal secrets have equal markers.
pub(crate) struct Redactor {
    any: RegexSet,
    shapes: Vec<(&'static str, Regex)>,
}

impl Redactor {
    /// Compiles the shapes, some milliseconds of work.
    pub(crate) fn new() -> Self {
        // The patterns are constants, and a test compiles each of them: one that does not compile cannot be released.
        let shapes: Vec<_> = SHAPES.iter().filter_map(|(name, pattern)| Some((*name, Regex::new(pattern).ok()?))).collect();
        Self { any: RegexSet::new(SHAPES.iter().map(|(_, pattern)| pattern)).unwrap_or_default(), shapes }
    }

    /// `text` without what looks like a credential.
    pub(crate) fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.any.is_match(text) {
            return Cow::Borrowed(text);
        }
        let mut clean = text.to_owned();
        for (name, shape) in &self.shapes {
            clean = shape.replace_all(&clean, |found: &Captures<'_>| replacement(name, found)).into_owned();
        }
        Cow::Owned(clean)
    }

    /// Cleans every text of an item that an export shows.
    pub(crate) fn clean_item(&self, mut item: Item) -> Item {
        match &mut item.kind {
            ItemKind::Profile(profile) => {
                let clean = Profile { system: self.clean(&profile.system).into_owned(), ..Profile::clone(profile) };
                *profile = Arc::new(clean);
            }
            ItemKind::User { text, .. } | ItemKind::Note { text } | ItemKind::Remark { text, .. } => self.clean_in_place(text),
            ItemKind::Answer(answer) => answer.blocks.iter_mut().for_each(|block| self.clean_block(block)),
            ItemKind::Tool { call, end } => {
                self.clean_in_place(&mut call.arguments);
                match end {
                    ToolEnd::Finished(finished) => self.clean_in_place(&mut finished.output),
                    ToolEnd::Denied(reason) => self.clean_in_place(reason),
                    ToolEnd::Running(output) | ToolEnd::Unknown(output) => self.clean_in_place(output),
                    ToolEnd::NotRun => {}
                }
            }
            ItemKind::Todos(todos) => *todos = Arc::new(todos.iter().map(|todo| self.clean_todo(todo)).collect()),
        }
        item
    }

    fn clean_block(&self, block: &mut Block) {
        match block {
            Block::Text { text } | Block::Reasoning { text, .. } => self.clean_in_place(text),
            Block::ToolCall(call) => self.clean_in_place(&mut call.arguments),
            _ => {}
        }
    }

    fn clean_todo(&self, todo: &Todo) -> Todo {
        Todo { content: self.clean(&todo.content).into_owned(), status: todo.status }
    }

    fn clean_in_place(&self, text: &mut String) {
        if let Cow::Owned(clean) = self.clean(text) {
            *text = clean;
        }
    }
}

/// The match with its secret replaced.
fn replacement(name: &str, found: &Captures<'_>) -> String {
    let whole = &found[0];
    let (start, secret) = match (found.get(0), found.name("s")) {
        (Some(all), Some(group)) => (group.start() - all.start(), group.as_str()),
        _ => (0, whole),
    };
    // Words with hyphens can begin with `sk-`; a key of that length without a digit is not to be expected.
    let is_words = name == "api-key" && !secret.bytes().any(|byte| byte.is_ascii_digit());
    if is_words || secret.contains("«secret:") {
        return whole.to_owned();
    }
    let hash = &sha256_hex(secret.as_bytes())[..8];
    format!("{}«secret:{name}#{hash}»{}", &whole[..start], &whole[start + secret.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        Redactor::new().clean(text).into_owned()
    }

    #[test]
    fn every_shape_compiles() {
        for (name, pattern) in SHAPES {
            assert!(Regex::new(pattern).is_ok(), "{name}");
        }
        assert_eq!(Redactor::new().shapes.len(), SHAPES.len());
    }

    #[test]
    fn what_looks_like_a_credential_is_replaced() {
        // Assembled here, so that no scanner of repositories takes this file for a leak.
        let body = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8";
        let secrets = [
            format!("sk-ant-api03-{body}"),
            format!("sk-proj-{body}"),
            format!("sk-{body}"),
            format!("ghp_{body}"),
            format!("github_pat_{body}"),
            format!("glpat-{body}"),
            format!("xoxb-123456789012-{body}"),
            format!("AIza{}", &body[..35]),
            format!("AKIA{}", "IOSFODNN7EXAMPLE"),
            format!("npm_{body}"),
            format!("hf_{body}"),
            format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{body}"),
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n{body}\n-----END OPENSSH PRIVATE KEY-----"),
        ];
        for secret in secrets {
            let cleaned = clean(&format!("before {secret} after"));
            assert!(cleaned.starts_with("before «secret:") && cleaned.ends_with("» after"), "{secret} became {cleaned}");
            assert!(!cleaned.contains(&body[..20]), "{cleaned}");
        }
    }

    #[test]
    fn only_the_secret_of_a_longer_match_goes() {
        assert!(clean("postgres://me:hunter22@db/x").starts_with("postgres://me:«secret:url-password#"));
        assert!(clean("postgres://me:hunter22@db/x").ends_with("»@db/x"));
        assert!(
            clean("Authorization: Bearer abcdefghijklmnopqrstuvwxyz").starts_with("Authorization: Bearer «secret:bearer-token#")
        );
    }

    #[test]
    fn equal_secrets_have_equal_markers_and_different_ones_do_not() {
        let (one, two) = (format!("ghp_{}", "a".repeat(36)), format!("ghp_{}", "b".repeat(36)));
        assert_eq!(clean(&one), clean(&one));
        assert_ne!(clean(&one), clean(&two));
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in [
            "task-runner sk-learn, desk-organiser-for-the-whole-family, sk-learn-contrib-extensions-and-more",
            "https://example.com:8080/path?user=a@b",
            "a bearer of bad news; commit 0c6c9bfa272c57a1e1f0",
            "«secret:OPENAI_API_KEY#0a1b2c3d»",
            "base64: aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=",
        ] {
            assert_eq!(clean(text), text);
        }
    }

    #[test]
    fn a_key_without_an_end_is_replaced_to_the_end() {
        assert!(clean("-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA").starts_with("«secret:private-key#"));
    }
}
