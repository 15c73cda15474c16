//! Images: from a file to the log and to each provider, and what becomes of those that cannot be sent.

use crate::support::{Machine, Protocol};
use fault_server::{Answer, Request, Terminal};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// The start of a png, as far as its size goes, and then `bytes` bytes of noise.
fn png(width: u32, height: u32, bytes: usize) -> Vec<u8> {
    let header = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &width.to_be_bytes()[..], &height.to_be_bytes(), b"\x08\x02\0\0\0"].concat();
    header.into_iter().chain((0..bytes).map(|byte| (byte * byte % 251) as u8)).collect()
}

/// The machine, with `photo.png` in its project.
fn machine(protocol: Protocol, answers: &[&str]) -> Machine {
    let machine = Machine::speaking(protocol, answers.iter().map(|text| Answer::text(*text)).collect::<Vec<_>>());
    fs::write(machine.project().join("photo.png"), png(640, 480, 100_000)).expect("a file");
    machine
}

/// Each image in a request: its media type and the length of its data, and the text behind it.
fn images(request: &Request) -> Vec<(String, usize)> {
    fn find(value: &Value, found: &mut Vec<(String, usize)>) {
        match value {
            Value::Object(fields) if fields.get("type") == Some(&json!("base64")) => {
                let text = |name: &str| fields[name].as_str().expect("a text").to_owned();
                found.push((text("media_type"), text("data").len()));
            }
            Value::Object(fields) => fields.values().for_each(|value| find(value, found)),
            Value::Array(values) => values.iter().for_each(|value| find(value, found)),
            Value::String(text) => found.extend(text.strip_prefix("data:").and_then(|url| {
                let (media_type, data) = url.split_once(";base64,")?;
                Some((media_type.to_owned(), data.len()))
            })),
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(&request.body, &mut found);
    found
}

/// The files beside the only log.
fn beside(machine: &Machine) -> Vec<PathBuf> {
    let folder = machine.session_file().with_extension("");
    fs::read_dir(folder).map(|files| files.map(|file| file.expect("a file").path()).collect()).unwrap_or_default()
}

const PHOTO: (&str, usize) = ("image/png", (100_029_usize).div_ceil(3) * 4);

fn photos(count: usize) -> Vec<(String, usize)> {
    vec![(PHOTO.0.to_owned(), PHOTO.1); count]
}

#[test]
fn an_image_is_kept_once_and_goes_to_each_provider_in_its_own_form() {
    for protocol in Protocol::ALL {
        let machine = machine(protocol, &["A cat.", "The same cat.", "You are welcome."]);
        let photo = machine.project().join("photo.png");
        let run = machine.print(&["--image", "photo.png", "what is on this?"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "A cat.\n"), "{protocol:?} {run:?}");
        let twice = ["-c", "--image", "photo.png", "--image", photo.to_str().expect("a path"), "and on these?"];
        machine.print(&twice).finish().assert_code(0);
        machine.print(&["-c", "thank you"]).finish().assert_code(0);
        let requests = machine.server.requests();
        assert_eq!(machine.server.refusals(), Vec::<String>::new());
        assert_eq!(requests.iter().map(images).collect::<Vec<_>>(), [photos(1), photos(3), photos(3)], "{protocol:?}");
        let first = &requests[0].messages().last().expect("a message")["content"];
        let kinds: Vec<&str> = first.as_array().expect("parts").iter().filter_map(|part| part["type"].as_str()).collect();
        let expected = match protocol {
            Protocol::Anthropic => ["image", "text"],
            Protocol::OpenAi => ["image_url", "text"],
            Protocol::Responses => ["input_image", "input_text"],
        };
        assert_eq!(kinds, expected);

        let log = machine.log();
        log.assert_sound();
        let images: Vec<Value> = log.of_type("user.message").map(|event| event["images"].clone()).collect();
        let [file] = &beside(&machine)[..] else { panic!("one image is one file: {:?}", beside(&machine)) };
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        assert_eq!(fs::read(file).expect("the image"), fs::read(&photo).expect("the image"));
        let image = json!({"media_type": "image/png", "width": 640, "height": 480, "sha256": name, "bytes": 100_029});
        assert_eq!(images, [json!([image]), json!([image, image]), Value::Null], "{protocol:?}");

        let run = machine.longhand_without_key(&["replay", &machine.session(), "--verify"]).finish();
        assert!(run.stdout.contains("3 of 3 requests built again") && run.stdout.contains("nothing differs"), "{run:?}");
        machine.assert_goes_on();
    }
}

#[test]
fn an_image_that_cannot_be_sent_is_told_before_anything_is_written_down() {
    let machine = machine(Protocol::Anthropic, &[]);
    let write = |name: &str, bytes: &[u8]| fs::write(machine.project().join(name), bytes).expect("a file");
    write("page.png", b"%PDF-1.7");
    write("huge.png", &png(640, 480, 4_000_000));
    write("wide.png", &png(9_000, 480, 10));
    write("cut.png", &png(640, 480, 0)[..20]);
    for (name, words) in [
        ("missing.png", "No such file"),
        ("page.png", "it is no image that models take: png, jpeg, gif or webp"),
        ("huge.png", "the image has 4000029 bytes, and models take at most 3932160"),
        ("wide.png", "the image has 9000x480 pixels, and models take at most 8000 a side"),
        ("cut.png", "the png is cut or damaged"),
        (".", "it is no regular file"),
    ] {
        let run = machine.print(&["--image", "photo.png", "--image", name, "what is on this?"]).finish();
        assert!(run.stderr.contains(&format!("cannot send the image `{name}`")) && run.stderr.contains(words), "{run:?}");
        run.assert_code(2);
    }
    let many = [&["--image", "photo.png"].repeat(21)[..], &["what is on these?"]].concat();
    let run = machine.print(&many).finish();
    assert!(run.stderr.contains("20 images") && run.stderr.contains("this one has 21"), "{run:?}");
    run.assert_code(2);
    assert_eq!(machine.server.requests().len(), 0);
    assert_eq!(machine.session_files(), Vec::<PathBuf>::new());
}

#[test]
fn an_image_that_is_gone_is_told_to_the_model_and_by_verify() {
    for protocol in Protocol::ALL {
        let machine = machine(protocol, &["A cat.", "It is gone."]);
        machine.print(&["--image", "photo.png", "what is on this?"]).finish().assert_code(0);
        beside(&machine).iter().for_each(|file| fs::remove_file(file).expect("it is there"));
        machine.print(&["-c", "and now?"]).finish().assert_code(0);
        let requests = machine.server.requests();
        assert_eq!((images(&requests[1]), machine.server.refusals()), (Vec::new(), Vec::new()), "{protocol:?}");
        assert!(String::from_utf8_lossy(&requests[1].raw).contains("[An image was here (png 640x480). It is missing now.]"));
        let run = machine.longhand(&["sessions", "verify"]).finish();
        assert!(run.code == Some(1) && run.stdout.contains("side file"), "{run:?}");
    }
}

#[test]
fn a_copy_of_a_session_has_its_images() {
    let machine = machine(Protocol::OpenAi, &["A cat.", "Still a cat."]);
    machine.print(&["--image", "photo.png", "what is on this?"]).finish().assert_code(0);
    let parent = machine.session();
    machine.print(&["-c", "--fork-session", "look again"]).finish().assert_code(0);
    machine.longhand(&["sessions", "rm", &parent, "--yes"]).finish().assert_code(0);
    assert_eq!(images(&machine.server.requests()[1]), photos(1));
    machine.longhand(&["sessions", "verify"]).finish().assert_code(0);
    assert_eq!(beside(&machine).len(), 1);
}

#[test]
fn a_model_that_takes_no_images_is_asked_again_without_them() {
    let refusal = "Invalid content type. image_url is only supported by certain models.";
    let machine = Machine::speaking(
        Protocol::OpenAi,
        [Answer::error(400, refusal), Answer::text("I see nothing."), Answer::text("Still nothing.")],
    );
    fs::write(machine.project().join("photo.png"), png(640, 480, 100)).expect("a file");
    let run = machine.print(&["--image", "photo.png", "what is on this?"]).finish();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "I see nothing.\n"), "{run:?}");
    machine.print(&["-c", "and now?"]).finish().assert_code(0);
    let requests = machine.server.requests();
    let counts: Vec<usize> = requests.iter().map(|request| images(request).len()).collect();
    assert_eq!(counts, [1, 0, 0], "it is remembered");
    assert!(String::from_utf8_lossy(&requests[1].raw).contains("[an image was left out: this model takes none]"));
    let run = machine.longhand_without_key(&["replay", &machine.session(), "--verify"]).finish();
    assert!(run.stdout.contains("3 of 3 requests built again"), "{run:?}");
}

/// What each provider says of an image that it cannot read.
fn refusal(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Anthropic => "Could not process image",
        Protocol::OpenAi => "You uploaded an unsupported image. Please make sure your image is valid.",
        Protocol::Responses => "The image data you provided does not represent a valid image.",
    }
}

fn counts(machine: &Machine) -> Vec<usize> {
    machine.server.requests().iter().map(|request| images(request).len()).collect()
}

/// Each request of the session is built again from its log, and the program does the same again.
#[track_caller]
fn assert_same_again(machine: &Machine) {
    let run = machine.longhand_without_key(&["replay", &machine.session(), "--verify"]).finish();
    let requests = machine.server.requests().len();
    assert!(run.stdout.contains(&format!("{requests} of {requests} requests built again")), "{run:?}");
    assert!(run.stdout.contains("nothing differs"), "{run:?}");
}

#[test]
fn an_image_that_is_refused_is_left_out_and_its_session_goes_on() {
    for protocol in Protocol::ALL {
        let answers =
            [Answer::text("A cat."), Answer::error(400, refusal(protocol)), Answer::text("I see one."), Answer::text("Yes.")];
        let machine = Machine::speaking(protocol, answers);
        fs::write(machine.project().join("photo.png"), png(640, 480, 100_000)).expect("a file");
        fs::write(machine.project().join("bad.png"), png(320, 240, 100)).expect("a file");
        machine.print(&["--image", "photo.png", "what is on this?"]).finish().assert_code(0);
        let run = machine.print(&["-c", "--image", "bad.png", "and on this?"]).finish();
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "I see one.\n"), "{protocol:?} {run:?}");
        assert_eq!(run.stderr.matches("an image (png 320x240) is left out").count(), 1, "{run:?}");
        let run = machine.print(&["-c", "sure?"]).finish();
        assert!(run.code == Some(0) && !run.stderr.contains("left out"), "{run:?}");
        assert_eq!(counts(&machine), [1, 2, 1, 1], "{protocol:?}: it is not asked with again");
        assert_eq!((machine.server.refusals(), beside(&machine).len()), (Vec::new(), 2));
        let note = format!(
            "[an image was left out (png 320x240): it was refused: {}",
            machine.model().split('/').next().expect("a name")
        );
        for request in &machine.server.requests()[2..] {
            let body = String::from_utf8_lossy(&request.raw);
            assert!(body.contains(&note) && body.contains(refusal(protocol)), "{protocol:?} {body}");
        }
        let refused: Vec<Value> =
            machine.log().of_type("images.refused").map(|event| event["images"][0]["width"].clone()).collect();
        assert_eq!(refused, [320]);
        assert_same_again(&machine);
        let shown = machine.longhand(&["sessions", "show", &machine.session()]).finish();
        assert!(shown.stdout.contains("an image (png 320x240) is left out"), "{shown:?}");
        machine.assert_goes_on();
    }
}

#[test]
fn the_image_that_a_refusal_names_is_left_out_and_no_other() {
    for (protocol, words) in [
        (
            Protocol::Anthropic,
            "messages.0.content.1.image.source.base64.data: At least one of the image dimensions exceed max allowed size",
        ),
        (
            Protocol::OpenAi,
            "Invalid 'messages[1].content[1].image_url'. Expected a base64-encoded data URL with an image MIME type",
        ),
        (
            Protocol::Responses,
            "Invalid 'input[0].content[1].image_url'. Expected a base64-encoded data URL with an image MIME type",
        ),
    ] {
        let machine = Machine::speaking(protocol, [Answer::error(400, words), Answer::text("Two cats.")]);
        let names = ["one.png", "two.png", "three.png"];
        for (name, width) in names.iter().zip([100, 200, 300]) {
            fs::write(machine.project().join(name), png(width, 240, 100)).expect("a file");
        }
        let images: Vec<&str> = names.iter().flat_map(|name| ["--image", name]).collect();
        machine.print(&[&images[..], &["what is on these?"]].concat()).finish().assert_code(0);
        assert_eq!(counts(&machine), [3, 2], "{protocol:?}");
        assert!(String::from_utf8_lossy(&machine.server.requests()[1].raw).contains("left out (png 200x240)"), "{protocol:?}");
        assert_same_again(&machine);
    }
}

#[test]
fn an_image_that_was_answered_leaves_only_where_that_is_what_is_refused() {
    // Where many images are in a request, smaller ones are refused than were taken before.
    for protocol in Protocol::ALL {
        let refused = || Answer::error(400, "Too many images in the request.");
        let answers = [Answer::text("A cat."), refused(), refused(), Answer::text("None.")];
        let machine = Machine::speaking(protocol, answers);
        fs::write(machine.project().join("photo.png"), png(640, 480, 100)).expect("a file");
        fs::write(machine.project().join("other.png"), png(320, 240, 100)).expect("a file");
        machine.print(&["--image", "photo.png", "what is on this?"]).finish().assert_code(0);
        machine.print(&["-c", "--image", "other.png", "and on this?"]).finish().assert_code(0);
        assert_eq!(counts(&machine), [1, 2, 1, 0], "{protocol:?}");
        assert_eq!(machine.server.refusals(), Vec::<String>::new());
        assert_same_again(&machine);
        machine.assert_goes_on();
    }
}

#[test]
fn a_request_that_is_refused_for_something_else_keeps_its_images() {
    for protocol in Protocol::ALL {
        let machine = Machine::speaking(
            protocol,
            [Answer::error(400, "tools.0: the name of a tool is not allowed"), Answer::text("A cat.")],
        );
        fs::write(machine.project().join("photo.png"), png(640, 480, 100)).expect("a file");
        machine.print(&["--image", "photo.png", "what is on this?"]).finish().assert_code(3);
        machine.print(&["-c", "and now?"]).finish().assert_code(0);
        assert_eq!(counts(&machine), [1, 1], "{protocol:?}");
        // Nor is a request without images asked again.
        let machine = Machine::speaking(protocol, [Answer::error(400, refusal(protocol)), Answer::text("Hello.")]);
        machine.print(&["hello"]).finish().assert_code(3);
        assert_eq!(counts(&machine), [0], "{protocol:?}");
    }
}

#[test]
fn a_tool_shows_an_image_to_the_model() {
    for protocol in Protocol::ALL {
        let read = [Answer::tool_call("read", r#"{"path": "photo.png"}"#), Answer::text("A cat."), Answer::text("Still one.")];
        let machine = Machine::speaking(protocol, read);
        fs::write(machine.project().join("photo.png"), png(640, 480, 100_000)).expect("a file");
        machine.print(&["what is in photo.png?"]).finish().assert_code(0);
        machine.print(&["-c", "sure?"]).finish().assert_code(0);
        let requests = machine.server.requests();
        assert_eq!(machine.server.refusals(), Vec::<String>::new(), "{protocol:?}");
        assert_eq!(requests.iter().map(images).collect::<Vec<_>>(), [photos(0), photos(1), photos(1)], "{protocol:?}");
        assert_eq!(beside(&machine).len(), 1);
        assert_eq!(machine.log().of_type("tool.finished").map(|event| &event["images"][0]["width"]).collect::<Vec<_>>(), [640]);
        let run = machine.longhand_without_key(&["replay", &machine.session(), "--verify"]).finish();
        assert!(run.stdout.contains("3 of 3 requests built again") && run.stdout.contains("nothing differs"), "{run:?}");
        let cat =
            |format: &str| machine.longhand(&["sessions", "export", &machine.session(), "--format", format]).finish().stdout;
        assert!(cat("markdown").contains("[image png 640x480]") && cat("html").contains("[image png 640x480]"));
    }
}

#[test]
fn an_exported_page_has_the_images_and_a_session_of_another_program_brings_its_own() {
    let machine = machine(Protocol::Anthropic, &["A cat."]);
    fs::write(machine.project().join("large.png"), png(2_000, 1_000, 2_200_000)).expect("a file");
    machine.print(&["--image", "photo.png", "--image", "large.png", "what is on this?"]).finish().assert_code(0);
    let id = machine.session();
    let page = machine.longhand(&["sessions", "export", &id, "--format", "html"]).finish().stdout;
    let (_, url) = page.split_once("src=\"data:image/png;base64,").expect("an image");
    assert_eq!(url.split('"').next().map(str::len), Some(PHOTO.1));
    assert_eq!(page.matches("<img").count(), 1);
    assert!(page.contains("[image png 2000x1000], 2200029 bytes: too large for this page"), "{page:.9000}");

    machine.longhand(&["sessions", "export", &id, "--format", "openai", "-o", "talk.json"]).finish().assert_code(0);
    machine.longhand(&["sessions", "rm", &id, "--yes"]).finish().assert_code(0);
    machine.longhand(&["sessions", "import", "talk.json"]).finish().assert_code(0);
    assert_eq!(beside(&machine).len(), 3, "two images, and a line that is too long");
    machine.longhand(&["sessions", "verify"]).finish().assert_code(0);
    machine.server.follow([Answer::text("Still a cat.")]);
    machine.print(&["-r", &machine.session(), "look again"]).finish().assert_code(0);
    let sent = images(machine.server.requests().last().expect("a request"));
    assert_eq!(sent.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [PHOTO.1, 2_200_029_usize.div_ceil(3) * 4]);
    assert_eq!(machine.server.refusals(), Vec::<String>::new());
}

#[test]
fn an_image_is_shown_by_its_kind_and_size_and_found_by_them() {
    let machine = machine(Protocol::Anthropic, &["A cat."]);
    machine.print(&["--image", "photo.png", "what is on this?"]).finish().assert_code(0);
    let id = machine.session();
    for command in [vec!["sessions", "show", &id], vec!["replay", &id, "--instant"], vec!["sessions", "search", "640x480"]] {
        let run = machine.longhand(&command).finish();
        assert!(run.stdout.contains("[image png 640x480]"), "{command:?} {run:?}");
    }
    let shown = machine.json(&["sessions", "show", &id, "--json"]);
    let asked = shown["messages"].as_array().expect("messages").iter().find(|message| message["role"] == "user").expect("it");
    assert_eq!((&asked["text"], &asked["images"][0]["media_type"]), (&json!("what is on this?"), &json!("image/png")));
}

#[test]
fn a_line_of_a_batch_has_images() {
    let machine = machine(Protocol::Anthropic, &["A cat."]);
    fs::write(machine.project().join("prompts.jsonl"), r#"{"prompt": "what is on this?", "images": ["photo.png"]}"#)
        .expect("a file");
    fs::write(machine.project().join("bad.jsonl"), r#"{"prompt": "what is on this?", "images": ["prompts.jsonl"]}"#)
        .expect("a file");
    let batch = |file: &str| machine.longhand(&["batch", file, "-m", machine.model()]).finish();
    let run = batch("bad.jsonl");
    assert!(run.code == Some(2) && run.stderr.contains("it is no image that models take"), "{run:?}");
    assert!(machine.server.requests().is_empty());
    batch("prompts.jsonl").assert_code(0);
    batch("prompts.jsonl").assert_code(0);
    assert_eq!(machine.server.requests().iter().map(images).collect::<Vec<_>>(), [photos(1)], "it is asked once");
}

#[test]
fn a_person_adds_an_image_to_a_message_of_the_chat() {
    let machine = machine(Protocol::OpenAi, &["A cat.", "Yes."]);
    fs::write(machine.project().join("other.png"), png(320, 240, 10)).expect("a file");
    let mut run = machine.longhand(&["-m", machine.model(), "--image", "photo.png"]);
    let command = std::mem::replace(run.command(), std::process::Command::new("true"));
    let (mut chat, _) = Terminal::start(command, "photo.png (png 640x480)").expect("what is sent with the next message");
    chat.wait_for("> ").expect("the prompt");
    chat.type_keys("/image missing.png\r").expect("a terminal");
    chat.wait_for("cannot send the image").expect("an error");
    chat.wait_for("> ").expect("the prompt");
    chat.type_keys("/image other.png\r").expect("a terminal");
    chat.wait_for("other.png (png 320x240)").expect("a second one");
    chat.wait_for("> ").expect("the prompt");
    chat.type_keys("what is on these?\r").expect("a terminal");
    chat.wait_for("A cat.").expect("the answer");
    let other = ("image/png".to_owned(), 52);
    assert_eq!(machine.server.requests().iter().map(images).collect::<Vec<_>>(), [[photos(1), vec![other]].concat()]);
    assert_eq!(beside(&machine).len(), 2);
}

#[test]
fn an_image_goes_with_a_message_that_steers_a_turn_and_with_one_that_waits() {
    let wait = Answer::tool_call("shell", r#"{"command": "until [ -e go ]; do sleep 0.02; done"}"#);
    let machine = Machine::speaking(Protocol::Anthropic, [wait, Answer::text("A cat."), Answer::text("Another.")]);
    for (name, width) in [("photo.png", 640), ("other.png", 320)] {
        fs::write(machine.project().join(name), png(width, 240, 10)).expect("a file");
    }
    let mut run = machine.longhand(&["-m", machine.model(), "--permission-mode", "allow"]);
    let command = std::mem::replace(run.command(), std::process::Command::new("true"));
    let (mut chat, _) = Terminal::start(command, "> ").expect("the prompt");
    chat.type_keys("what is here?\r").expect("a terminal");
    chat.wait_for("until").expect("the tool");
    chat.type_keys("/image photo.png\r").expect("a terminal");
    chat.wait_for("photo.png (png 640x240)").expect("it is added while the turn runs");
    chat.type_keys("look at this\r").expect("a terminal");
    chat.wait_for("[image png 640x240] look at this").expect("it steers");
    chat.type_keys("/image other.png\r").expect("a terminal");
    chat.wait_for("other.png (png 320x240)").expect("a second one");
    chat.type_keys("and then at this\x1b\r").expect("a terminal");
    chat.wait_for("[image png 320x240] and then at this").expect("it waits");
    fs::write(machine.project().join("go"), "").expect("a file");
    chat.wait_for("Another.").expect("the answer to both");
    let counts: Vec<usize> = machine.server.requests().iter().map(|request| images(request).len()).collect();
    assert_eq!(counts, [0, 1, 2]);
    let kinds: Vec<Value> = machine.log().of_type("user.message").map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["prompt", "steer", "follow_up"]);
    assert_eq!((machine.server.refusals(), beside(&machine).len()), (Vec::new(), 2));
}

#[test]
fn images_that_are_too_much_for_a_request_leave_it_with_their_messages() {
    let machine = machine(Protocol::Anthropic, &["Three.", "Three others."]);
    let name = |number: usize| format!("{number}.png");
    (0..6).for_each(|number| {
        let image = png(2_000, 2_000, 3_900_000 + number);
        fs::write(machine.project().join(name(number)), image).expect("a file");
    });
    let three = |first: usize| (first..first + 3).flat_map(|number| ["--image".to_owned(), name(number)]).collect::<Vec<_>>();
    machine.print(&[three(0), vec!["what is on these?".to_owned()]].concat()).finish().assert_code(0);
    machine.print(&[three(3), vec!["-c".to_owned(), "and on these?".to_owned()]].concat()).finish().assert_code(0);
    let requests = machine.server.requests();
    assert_eq!(requests.iter().map(|request| images(request).len()).collect::<Vec<_>>(), [3, 3]);
    assert!(requests.iter().all(|request| request.raw.len() < 30_000_000));
    assert_eq!(machine.log().of_type("context.trimmed").map(|event| &event["reason"]).collect::<Vec<_>>(), ["request_bytes"]);
}
