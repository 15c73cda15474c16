//! Images, where a server takes none: what is learned from its refusal, and what is sent in their place.

use crate::model::{SentImage, SentResult};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// What is remembered of a model that takes no images: [`Model::learned`](crate::Model::learned). A table of models may say it beforehand.
pub const IMAGES: &str = "images";

pub(super) const IMAGE_LEFT_OUT: &str = "[an image was left out: this model takes none]";

/// How servers say that a model takes no images at all; looked for before [`BAD_IMAGE`].
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

/// How servers say that they do not take one of the images: one that cannot be read, is too large, or of another kind than was said.
pub(super) const BAD_IMAGE: &[&str] = &[
    // Anthropic, and Bedrock with its models. A path to the image stands before most of its words.
    ".image.source",
    "could not process image",
    "image exceeds",
    "image dimensions exceed",
    "does not match the provided media type",
    "too many images",
    // OpenAI: words and codes
    "uploaded an unsupported image",
    "does not represent a valid image",
    "expected a base64-encoded data url",
    "invalid_image",
    "invalid_base64_image",
    "image_parse_error",
    "image_too_large",
    "image_too_small",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "image_content_policy_violation",
    // OpenAI, LiteLLM, gateways
    "invalid image",
    // xAI
    "invalid png image",
    "invalid jpeg image",
    "provided image cannot be decoded",
    // Google
    "unable to process input image",
    "provided image is not valid",
    // vLLM and SGLang, llama.cpp, Ollama
    "cannot identify image file",
    "failed to load image",
    "failed to decode image",
    "image: unknown format",
    "illegal base64 data",
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
