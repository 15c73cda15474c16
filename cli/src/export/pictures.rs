//! The images of a session inside a page: each as a URL that holds it, within bounds.

use crate::transcript::{Item, ItemKind, ToolEnd};
use agent_runtime::Base64;
use session_store::{ImageRef, SessionId, SessionStore};
use std::collections::HashMap;

/// The largest image that is put into a page, in bytes.
const PICTURE_BYTES_MAX: u64 = 2 << 20;
/// How many bytes of images a page has at most.
const PICTURES_BYTES_MAX: u64 = 20 << 20;

/// What a page shows of an image.
#[derive(Debug)]
pub(crate) enum Picture {
    /// It, as a URL that holds it.
    Url(String),
    /// Why it is not in the page.
    LeftOut(&'static str),
}

/// The images of an item, by what is in them, and the room for further ones.
#[derive(Debug)]
pub(crate) struct Pictures {
    room: u64,
    of_item: HashMap<String, Picture>,
}

impl Default for Pictures {
    fn default() -> Self {
        Self { room: PICTURES_BYTES_MAX, of_item: HashMap::new() }
    }
}

impl Pictures {
    /// Reads the images of the item that is written next.
    pub(crate) async fn read(&mut self, store: &dyn SessionStore, id: SessionId, item: &Item) {
        self.of_item.clear();
        for image in images(item) {
            if !self.of_item.contains_key(&image.sha256) {
                let picture = self.picture(store, id, image).await;
                self.of_item.insert(image.sha256.clone(), picture);
            }
        }
    }

    async fn picture(&mut self, store: &dyn SessionStore, id: SessionId, image: &ImageRef) -> Picture {
        if image.bytes > PICTURE_BYTES_MAX {
            return Picture::LeftOut("too large for this page");
        }
        if image.bytes > self.room {
            return Picture::LeftOut("no room for it in this page");
        }
        let Ok(bytes) = store.read_side(id, &image.side()).await else { return Picture::LeftOut("its file is missing") };
        // The log may say anything of it; the page says what it is.
        let Ok(known) = ImageRef::of(&bytes) else { return Picture::LeftOut("it cannot be read") };
        self.room -= image.bytes;
        Picture::Url(format!("data:{};base64,{}", known.media_type, Base64::of(&bytes).as_str()))
    }

    /// What the page shows of an image of the item.
    pub(super) fn get(&self, image: &ImageRef) -> &Picture {
        self.of_item.get(&image.sha256).unwrap_or(&Picture::LeftOut("it was not read"))
    }
}

fn images(item: &Item) -> &[ImageRef] {
    match &item.kind {
        ItemKind::User { images, .. } => images,
        ItemKind::Tool { end: ToolEnd::Finished(finished), .. } => &finished.images,
        _ => &[],
    }
}
