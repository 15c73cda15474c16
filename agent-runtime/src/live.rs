//! The answer that is coming in, as far as it came: readers take from it what they have not seen, each at its own pace.

use crate::turn::DeltaKind;
use session_store::Seq;

/// The whole text and reasoning of one message so far.
#[derive(Debug, Default)]
pub(crate) struct Live {
    message: Option<Seq>,
    text: String,
    reasoning: String,
}

impl Live {
    /// A new message begins.
    pub(crate) fn begin(&mut self, message: Seq) {
        *self = Self { message: Some(message), ..Self::default() };
    }

    /// The message is in the log.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn push(&mut self, kind: DeltaKind, text: &str) {
        match kind {
            DeltaKind::Text => self.text.push_str(text),
            DeltaKind::Reasoning => self.reasoning.push_str(text),
        }
    }

    pub(crate) fn message(&self) -> Option<Seq> {
        self.message
    }

    /// What came after `offset`.
    pub(crate) fn since(&self, kind: DeltaKind, offset: u64) -> &str {
        let whole = match kind {
            DeltaKind::Text => &self.text,
            DeltaKind::Reasoning => &self.reasoning,
        };
        usize::try_from(offset).ok().and_then(|offset| whole.get(offset..)).unwrap_or_default()
    }
}
