//! Messages that wait for a turn to end: in the log from the moment they are accepted, and sent by whoever holds the session, one by one. Nothing in
//! here sends them by itself: after a restart the person decides. A message that steered and missed its turn waits like them.

use crate::session::{SendError, Session, UserInput};
use crate::turn::Turn;
use session_store::{MessageQueued, MessageWithdrawn, QueuedMessage, Seq, UserKind, UserMessage};

/// How many messages may wait.
pub const QUEUED_MAX: usize = 32;

impl Session {
    /// The messages that wait, oldest first.
    #[must_use]
    pub fn queued(&self) -> Vec<QueuedMessage> {
        self.state(|state| state.queued.clone())
    }

    /// Lets a message wait until [`Session::send_queued`] sends it. It is in the log at once, whether a turn runs or not. A key says nothing here. Waits and
    /// is cancel-safe as [`Session::steer`] is.
    ///
    /// # Errors
    /// [`SendError::Empty`], [`SendError::TooLong`], [`SendError::TooManyImages`], [`SendError::QueueFull`], or the log's; the message is not in the log then.
    pub async fn queue(&self, message: impl Into<UserInput>) -> Result<Seq, SendError> {
        let (message, images) = self.message(message.into(), UserKind::FollowUp)?;
        self.check_length(&message).await?;
        self.shared.keep_images(images).await?;
        let UserMessage { text, images: references, .. } = message;
        let queue = MessageQueued { text, missed: None, images: references };
        let appended = self.shared.append_if(|state| (state.queued.len() < QUEUED_MAX).then(|| queue.into()))?;
        let entry = appended.ok_or(SendError::QueueFull)?;
        self.shared.log.start_commit(entry.seq);
        Ok(entry.seq)
    }

    /// Takes back a message that waits, and gives its words.
    ///
    /// # Errors
    /// [`SendError::NotQueued`], or the log's.
    pub fn withdraw(&self, queued: Seq) -> Result<String, SendError> {
        let mut text = None;
        self.shared.append_if(|state| {
            text = state.queued.iter().find(|waiting| waiting.seq == queued).map(|waiting| waiting.text.clone());
            text.is_some().then(|| MessageWithdrawn { queued }.into())
        })?;
        text.ok_or(SendError::NotQueued(queued))
    }

    /// Sends a message that waits, as [`Session::send_follow_up`] does; it waits no more. Where it is refused it goes on waiting.
    ///
    /// # Errors
    /// [`SendError::NotQueued`], or as [`Session::send`].
    pub async fn send_queued(&self, queued: Seq) -> Result<Turn, SendError> {
        let waiting = self.queued().into_iter().find(|waiting| waiting.seq == queued);
        let QueuedMessage { text, images, .. } = waiting.ok_or(SendError::NotQueued(queued))?;
        self.send_message(UserMessage { text, kind: UserKind::FollowUp, key: None, images }, Vec::new()).await
    }
}
