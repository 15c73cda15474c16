//! Images of messages, as an embedder sends them: by every way in, kept once, and the same again only with the same images.

mod common;

use agent_runtime::session_store::{Entry, Event, ImageRef};
use agent_runtime::{
    Image, ImageError, MESSAGE_IMAGES_MAX, Runtime, ScriptedAnswer, ScriptedModel, SendError, Sent, SentPart, Session, Setup,
    UserInput,
};
use std::sync::Arc;
use std::time::Duration;

/// The start of a png, and `noise` to tell it from others.
fn image(noise: u8) -> Image {
    let header = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &640_u32.to_be_bytes()[..], &480_u32.to_be_bytes()].concat();
    Image::new([&header[..], &[noise; 1_000]].concat()).expect("an image")
}

struct World {
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { runtime: common::runtime(folder.path()), folder }
    }

    async fn session(&self, answers: impl IntoIterator<Item = ScriptedAnswer>) -> (Session, Arc<ScriptedModel>) {
        let model = Arc::new(ScriptedModel::new(answers));
        let setup = Setup::new(Arc::clone(&model) as Arc<dyn agent_runtime::Model>, self.folder.path());
        (self.runtime.create(setup).await.expect("a session"), model)
    }

    /// Ends the test: each image that the log names is beside it.
    async fn end(self, session: &Session) -> Vec<Arc<Entry>> {
        session.flush().await.expect("durable");
        let verified = self.runtime.store().verify(session.id()).await.expect("verify");
        assert!(verified.ok, "{verified:?}");
        let entries = common::entries(&self.runtime, session.id()).await;
        self.runtime.shutdown(Duration::from_secs(30)).await.expect("everything durable");
        entries
    }
}

/// The images of each message.
fn said(entries: &[Arc<Entry>]) -> Vec<Vec<ImageRef>> {
    let images = |entry: &Arc<Entry>| match &entry.event {
        Event::UserMessage(user) => Some(user.images.clone()),
        _ => None,
    };
    entries.iter().filter_map(images).collect()
}

/// The images of each request.
fn sent(model: &ScriptedModel) -> Vec<Vec<ImageRef>> {
    let image = |part: &SentPart| if let SentPart::Image(sent) = part { Some(sent.image.clone()) } else { None };
    let images = |sent: &Sent| match sent {
        Sent::User(parts) => parts.iter().filter_map(image).collect(),
        _ => Vec::new(),
    };
    model.requests().iter().map(|request| request.messages.iter().flat_map(images).collect()).collect()
}

fn names(images: &[&Image]) -> Vec<ImageRef> {
    images.iter().map(|image| image.reference().clone()).collect()
}

#[tokio::test]
async fn a_message_may_have_images_by_every_way_in() {
    let world = World::new();
    let (session, model) = world.session(["One.", "Two.", "Three."].map(|text| ScriptedAnswer::new().text(text))).await;
    let [first, second, third] = [image(1), image(2), image(3)];
    session.send(UserInput::text("").with_image(first.clone())).await.expect("an image needs no words").outcome().await;
    let queued = session.queue(UserInput::text("two").with_image(second.clone())).await.expect("it waits");
    session.send_queued(queued).await.expect("it is sent").outcome().await;
    let last = UserInput::text("three").with_image(third.clone()).with_image(first.clone());
    session.send(last).await.expect("it is sent").outcome().await;
    assert_eq!(sent(&model), [names(&[&first]), names(&[&first, &second]), names(&[&first, &second, &third, &first])]);
    for image in [&first, &second, &third] {
        let kept = world.runtime.store().read_side(session.id(), &image.reference().side()).await;
        assert_eq!(kept.expect("it is beside the log"), image.bytes().to_vec());
    }
    assert_eq!(said(&world.end(&session).await), [names(&[&first]), names(&[&second]), names(&[&third, &first])]);
}

#[tokio::test]
async fn an_image_may_steer_a_turn() {
    let world = World::new();
    let answers =
        [ScriptedAnswer::new().wait(Duration::from_millis(500)).text("I see."), ScriptedAnswer::new().text("That too.")];
    let (session, model) = world.session(answers).await;
    let turn = session.send("What is this?").await.expect("it is sent");
    session.steer(UserInput::text("").with_image(image(7))).await.expect("the turn runs");
    turn.outcome().await;
    let sent = sent(&model);
    assert_eq!(sent.last(), Some(&names(&[&image(7)])), "{sent:?}");
    world.end(&session).await;
}

#[tokio::test]
async fn a_message_with_a_key_is_the_same_only_with_the_same_images() {
    let world = World::new();
    let (session, model) = world.session([ScriptedAnswer::new().text("A cat.")]).await;
    let message = |noise| UserInput::text("What is this?").with_key("one").with_image(image(noise));
    session.send(message(1)).await.expect("it is sent").outcome().await;
    assert_eq!(session.send(message(1)).await.expect("it is the same").outcome().await.text, "A cat.");
    assert!(matches!(session.send(message(2)).await, Err(SendError::KeyTaken(_))));
    assert_eq!(model.requests().len(), 1);
    world.end(&session).await;
}

#[tokio::test]
async fn what_a_request_cannot_hold_is_refused_before_anything_is_written_down() {
    let world = World::new();
    let (session, model) = world.session([]).await;
    let before = session.state(|state| state.next_seq);
    let many = (0..=MESSAGE_IMAGES_MAX).fold(UserInput::text("Look!"), |message, _| message.with_image(image(1)));
    assert!(matches!(session.send(many).await, Err(SendError::TooManyImages { count: 21, .. })));
    assert!(matches!(Image::new(&b"GIF"[..]), Err(ImageError::Foreign)));
    assert_eq!((session.state(|state| state.next_seq), model.requests().len()), (before, 0));
    world.end(&session).await;
}
