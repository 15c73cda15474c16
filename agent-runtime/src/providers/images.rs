//! Images, where a server takes none: what is learned from its refusal, and what is sent in their place.

use crate::model::{SentImage, SentResult};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// What is remembered of a model that takes no images: [`Model::learned`](crate::Model::learned). A table of models may say it beforehand.
pub const IMAGES: &str = "images";

pub(super) const IMAGE_LEFT_OUT: &str = "[an image was left out: this model takes none]";

/// How servers say that a model takes no images at all. That one image is bad, or too large, is said in other words, and is not learned.
pub(super) const NO_IMAGES: &[&str] = &[
    // OpenAI
    "image_url is only supported by certain models",
    "image input is not supported",
    "image inputs are not supported",
    // llama.cpp, Ollama, vLLM
    "missing data required for image input",
    "is not a multimodal model",
    "at most 0 image(s) may be provided",
    // DeepSeek, and servers that take only text as content
    "unknown variant `image_url`",
    "unknown variant `image`",
    "value must be a string",
    "content must be a string",
    // Bedrock, Mistral, gateways
    "doesn't support the image",
    "does not support image",
    "does not support images",
    "do not support images",
    "not support image input",
    "not enabled for image",
    "no endpoints found that support image input",
];

/// The output of a tool, with a note for each image of it.
pub(super) fn output_without_images(result: &SentResult) -> Cow<'_, str> {
    if result.images.is_empty() {
        return Cow::Borrowed(&result.output);
    }
    let notes = result.images.iter().flat_map(|_| ["\n", IMAGE_LEFT_OUT]);
    Cow::Owned(std::iter::once(result.output.as_str()).chain(notes).collect())
}

/// An image as a URL that holds it. Written without a copy of it.
pub(super) struct DataUrl<'a>(pub(super) &'a SentImage);

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(SentImage { image, base64 }) = self;
        serializer.collect_str(&format_args!("data:{};base64,{}", image.media_type, base64.as_str()))
    }
}
