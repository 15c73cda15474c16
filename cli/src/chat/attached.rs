//! Images that go with the next message.

use crate::safe_text::safe_line;
use agent_runtime::Image;
use agent_runtime::session_store::ImageRef;
use std::path::Path;

/// An image that waits for its message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attached {
    /// The file's name.
    pub(super) name: String,
    pub(super) image: Image,
}

impl Attached {
    pub(super) fn new(path: &Path, image: Image) -> Self {
        Self { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), image }
    }

    /// What stands above the input line for it.
    pub(super) fn words(&self) -> String {
        format!("{} ({})", safe_line(&self.name), self.image.reference().label())
    }
}

/// What the log says of them.
pub(super) fn references(images: &[Attached]) -> Vec<ImageRef> {
    images.iter().map(|attached| attached.image.reference().clone()).collect()
}

/// The file that `text` names, where that is all that it is, and an image by its name: what a terminal pastes for a file that is dropped on it, with
/// quotes, backslashes or as a URL.
pub(super) fn dropped(text: &str) -> Option<String> {
    let text = text.trim();
    let quoted = ['\'', '"'].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    let path = match quoted {
        Some(path) => path.to_owned(),
        None => text.replace("\\ ", " "),
    };
    let path = path.strip_prefix("file://").unwrap_or(&path);
    let extension = Path::new(path).extension()?.to_str()?.to_ascii_lowercase();
    let is_image = ["png", "jpg", "jpeg", "gif", "webp"].contains(&extension.as_str());
    let is_path = path.contains('/') && !path.contains('\n') && !path.contains("://");
    (is_image && is_path).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_dropped_is_an_image_by_its_name() {
        for text in ["/tmp/a photo.png ", "'/tmp/a photo.png'", "/tmp/a\\ photo.png", "file:///tmp/a photo.png"] {
            assert_eq!(dropped(text).as_deref(), Some("/tmp/a photo.png"), "{text}");
        }
        assert_eq!(dropped("./shots/One.JPG").as_deref(), Some("./shots/One.JPG"));
        for text in ["see /tmp/a.txt", "photo.png", "/tmp/a.png\n/tmp/b.png", "https://e.example/a.png", ""] {
            assert_eq!(dropped(text), None, "{text}");
        }
    }
}
