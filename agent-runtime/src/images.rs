//! Images of messages, and what they are sent as.
//!
//! The log has a reference ([`ImageRef`]), the bytes lie beside it. A request needs them in base64: [`Images`] holds them so while they are in the context
//! of a session, each once, shared by all its requests.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use session_store::{ImageError, ImageRef, Message, Slot};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Providers make larger images smaller before a model sees them: no image takes more tokens.
const TOKENS_MAX: u64 = 4_784;
const PIXELS_PER_TOKEN: u64 = 750;

/// An image that was looked at: one of the kinds and sizes that models take. Cheap to clone.
#[derive(Clone, PartialEq)]
pub struct Image {
    reference: ImageRef,
    bytes: Bytes,
}

impl Image {
    /// Looks at `bytes`, the whole file. Takes some milliseconds for each MB, so call it on a thread that may block.
    ///
    /// # Errors
    /// As [`ImageRef::of`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, ImageError> {
        let bytes = bytes.into();
        let reference = ImageRef::of(&bytes)?;
        Ok(Self { reference, bytes })
    }

    /// The image that a log names, whatever is known of it.
    pub(crate) fn stored(reference: ImageRef, bytes: impl Into<Bytes>) -> Self {
        Self { reference, bytes: bytes.into() }
    }

    /// What the log says of it.
    #[must_use]
    pub fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Image").field(&self.reference).finish()
    }
}

/// About how many tokens a model takes an image for.
pub(crate) fn image_tokens(image: &ImageRef) -> u64 {
    (u64::from(image.width) * u64::from(image.height)).div_ceil(PIXELS_PER_TOKEN).clamp(1, TOKENS_MAX)
}

/// The images of a context in the form in which they are sent, by what is in them. Those that it has only the names of are known to be gone.
#[derive(Clone, Debug, Default)]
pub struct Images(HashMap<String, Option<Base64>>);

impl Images {
    /// Takes in an image, or that there is none of this name. The base64 form of some MB is best made on a thread that may block.
    pub fn insert(&mut self, image: &ImageRef, bytes: Option<&[u8]>) {
        self.learn(image, bytes.map(Base64::of));
    }

    pub(crate) fn learn(&mut self, image: &ImageRef, base64: Option<Base64>) {
        self.0.insert(image.sha256.clone(), base64);
    }

    /// What is sent for `image`; nothing where it is gone.
    pub(crate) fn get(&self, image: &ImageRef) -> Option<&Base64> {
        self.0.get(&image.sha256)?.as_ref()
    }

    /// The images of `slots` that nothing is known of yet, each once.
    pub(crate) fn unknown(&self, slots: &[Slot]) -> Vec<ImageRef> {
        let mut unknown: Vec<ImageRef> = Vec::new();
        for image in slot_images(slots).filter(|image| !self.0.contains_key(&image.sha256)) {
            if !unknown.iter().any(|other| other.sha256 == image.sha256) {
                unknown.push(image.clone());
            }
        }
        unknown
    }

    /// Forgets those that are not in `slots`.
    pub(crate) fn retain(&mut self, slots: &[Slot]) {
        if !self.0.is_empty() {
            let stays: HashSet<&str> = slot_images(slots).map(|image| image.sha256.as_str()).collect();
            self.0.retain(|sha256, _| stays.contains(sha256.as_str()));
        }
    }
}

/// The images of the messages in `slots`.
pub(crate) fn slot_images(slots: &[Slot]) -> impl Iterator<Item = &ImageRef> {
    slots.iter().filter_map(|slot| slot.message.as_deref()).flat_map(Message::images)
}

/// An image in base64, shared by all that hold it.
#[derive(Clone, Default, PartialEq)]
pub struct Base64(Bytes);

impl Base64 {
    /// The base64 form of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(BASE64_STANDARD.encode(bytes).into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It was made of a text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text as bytes that are shared.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_costs_what_providers_say() {
        let tokens = |width, height| image_tokens(&ImageRef { width, height, ..ImageRef::default() });
        assert_eq!((tokens(1000, 1000), tokens(1, 1), tokens(8_000, 8_000)), (1_334, 1, TOKENS_MAX));
    }
}
