//! Secret values that must reach neither the log nor a model.
//!
//! What the model is sent equals what is logged, so secrets are replaced on the way *in*: in a person's text and in a
//! tool's output, before both. A marker, `«secret:NAME#hash8»`, stands in their place. A tool call whose arguments hold
//! a marker gets the value back where its name is known, and is refused where it is not. Model output is never changed.

use serde_json::Value;
use session_store::sha256_hex;
use std::fmt;
use std::sync::Arc;

/// Shorter values are too likely to be part of something else.
const MIN_LEN: usize = 12;
const MARKER_START: &str = "«secret:";
/// Endings of the names of variables that hold credentials.
const ENDINGS: [&str; 6] = ["_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_SECRET_ACCESS_KEY", "_PRIVATE_KEY"];

/// Known secret values with their names.
#[derive(Clone, Default)]
pub struct Secrets {
    known: Arc<Vec<Secret>>,
}

struct Secret {
    value: String,
    marker: String,
}

impl fmt::Debug for Secrets {
    /// Says how many, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.known.len())
    }
}

impl Secrets {
    /// The secrets in an environment: the values, 12 characters or more, of variables whose names end in `_API_KEY`, `_TOKEN`,
    /// `_SECRET`, `_PASSWORD`, `_SECRET_ACCESS_KEY` or `_PRIVATE_KEY`.
    #[must_use]
    pub fn from_env(env: &[(String, String)]) -> Self {
        let mut known: Vec<Secret> = env
            .iter()
            .filter(|(name, value)| is_credential(name) && value.len() >= MIN_LEN)
            .map(|(name, value)| Secret {
                value: value.clone(),
                marker: format!("{MARKER_START}{name}#{}»", &sha256_hex(value.as_bytes())[..8]),
            })
            .collect();
        // A secret that contains another is replaced first.
        known.sort_by_key(|secret| std::cmp::Reverse(secret.value.len()));
        Self { known: Arc::new(known) }
    }

    /// `text` with every known value replaced by its marker.
    #[must_use]
    pub fn hide(&self, text: String) -> String {
        if !self.known.iter().any(|secret| text.contains(&secret.value)) {
            return text;
        }
        let (mut hiding, mut hidden) = (self.hiding(), String::with_capacity(text.len()));
        hiding.push(&text, &mut hidden);
        hiding.finish(&mut hidden);
        hidden
    }

    /// The same for a text that comes in pieces.
    pub(crate) fn hiding(&self) -> Hiding {
        Hiding { secrets: self.clone(), held: String::new() }
    }

    /// What begins where `rest` does. Where a text may go on behind `rest`, the longest value that it may become is waited for.
    fn at_start_of(&self, rest: &str, may_go_on: bool) -> Start<'_> {
        for secret in self.known.iter() {
            if rest.starts_with(&secret.value) {
                return Start::Secret(secret);
            }
            if may_go_on && secret.value.starts_with(rest) {
                return Start::Unknown;
            }
        }
        Start::Nothing
    }

    /// `arguments` with every marker replaced by its value.
    ///
    /// # Errors
    /// Words for the model, where a marker names a value that is not known here.
    pub(crate) fn reveal(&self, arguments: Value) -> Result<Value, String> {
        Ok(match arguments {
            Value::String(text) => Value::String(self.reveal_text(text)?),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.reveal(item)).collect::<Result<_, _>>()?),
            Value::Object(fields) => Value::Object(
                fields.into_iter().map(|(name, value)| Ok((name, self.reveal(value)?))).collect::<Result<_, String>>()?,
            ),
            other => other,
        })
    }

    fn reveal_text(&self, text: String) -> Result<String, String> {
        if !text.contains(MARKER_START) {
            return Ok(text);
        }
        let text = self.known.iter().fold(text, |text, secret| text.replace(&secret.marker, &secret.value));
        if text.contains(MARKER_START) {
            return Err("the arguments hold a marker of a secret whose value is not known here".to_owned());
        }
        Ok(text)
    }
}

enum Start<'a> {
    Secret(&'a Secret),
    /// It may become one.
    Unknown,
    Nothing,
}

/// A text that comes in pieces, while known values in it are replaced: from its start on, the longest that begins at a place. So it does not matter how it is
/// cut into pieces.
#[derive(Clone, Default)]
pub(crate) struct Hiding {
    secrets: Secrets,
    /// What may become a value: shorter than the longest.
    held: String,
}

impl Hiding {
    /// Takes the next piece, and appends what is decided to `out`.
    pub(crate) fn push(&mut self, piece: &str, out: &mut String) {
        if self.secrets.known.is_empty() {
            out.push_str(piece);
            return;
        }
        self.held.push_str(piece);
        self.decide(true, out);
    }

    /// Appends what was held back: nothing comes any more.
    pub(crate) fn finish(&mut self, out: &mut String) {
        self.decide(false, out);
    }

    fn decide(&mut self, may_go_on: bool, out: &mut String) {
        let text = std::mem::take(&mut self.held);
        let begins_one = |byte: &u8| self.secrets.known.iter().any(|secret| secret.value.as_bytes().first() == Some(byte));
        let (mut copied, mut decided) = (0, 0);
        while let Some(at) = text.as_bytes()[decided..].iter().position(begins_one).map(|next| decided + next) {
            decided = at + 1;
            match self.secrets.at_start_of(&text[at..], may_go_on) {
                Start::Nothing => {}
                Start::Secret(secret) => {
                    out.push_str(&text[copied..at]);
                    out.push_str(&secret.marker);
                    decided = at + secret.value.len();
                    copied = decided;
                }
                Start::Unknown => {
                    out.push_str(&text[copied..at]);
                    self.held.push_str(&text[at..]);
                    return;
                }
            }
        }
        out.push_str(&text[copied..]);
    }
}

/// The environment that a tool's child processes get: without credentials.
pub(crate) fn without_credentials(env: &[(String, String)]) -> Vec<(String, String)> {
    env.iter().filter(|(name, _)| !is_credential(name)).cloned().collect()
}

fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending) || name == ending[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let env = [
            ("MY_API_KEY", "sk-123456789012"),
            ("LONG_TOKEN", "sk-123456789012-and-more"),
            ("SHORT_TOKEN", "abc"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG"),
            ("HOME", "/home/someone-here"),
        ];
        Secrets::from_env(&env.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn known_values_are_hidden_and_come_back_in_arguments() {
        let secrets = secrets();
        let hidden = secrets.hide("a sk-123456789012-and-more b sk-123456789012 c abc /home/someone-here".to_owned());
        assert!(!hidden.contains("sk-123456789012"), "{hidden}");
        assert!(hidden.contains("«secret:LONG_TOKEN#") && hidden.contains("«secret:MY_API_KEY#"), "{hidden}");
        assert!(hidden.ends_with("c abc /home/someone-here"));
        assert!(secrets.hide("wJalrXUtnFEMI/K7MDENG".to_owned()).starts_with("«secret:AWS_SECRET_ACCESS_KEY#"));
        let arguments = serde_json::json!({"command": ["echo", hidden]});
        let revealed = secrets.reveal(arguments).expect("all names are known");
        assert_eq!(revealed["command"][1], "a sk-123456789012-and-more b sk-123456789012 c abc /home/someone-here");
    }

    #[test]
    fn an_unknown_marker_is_refused() {
        assert!(secrets().reveal(Value::String("«secret:OTHER_KEY#00000000»".to_owned())).is_err());
    }
}
