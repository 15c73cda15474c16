//! The chat on a real terminal: keys in, what a person sees and what the model is sent out.

use super::support::{HUNG, Machine};
use fault_server::{Answer, Script, Terminal, wait_until};

/// The first prompt of the chat.
const PROMPT: &str = "> ";

/// The chat with these arguments, at its first prompt.
fn chat(machine: &Machine, arguments: &[&str]) -> Terminal {
    let mut run = machine.longhand(&[&["-m", machine.model()], arguments].concat());
    let command = std::mem::replace(run.command(), std::process::Command::new("true"));
    Terminal::start(command, PROMPT).expect("the chat shows its prompt").0
}

/// Sends `text`, and waits until `answer` was shown and the chat waits again.
fn ask(chat: &mut Terminal, text: &str, answer: &str) {
    chat.type_keys(&format!("{text}\r")).expect("a terminal");
    chat.wait_for(answer).expect("the answer");
    rest(chat);
}

/// Waits until nothing runs: only then the chat takes this command.
fn rest(chat: &mut Terminal) {
    loop {
        chat.type_keys("/effort\r").expect("a terminal");
        if chat.wait_for_any(&["It may be off", "not while something runs"]).expect("an answer") == 0 {
            return chat.wait_for(PROMPT).expect("the next prompt");
        }
        chat.type_keys("\x15").expect("a terminal");
    }
}

/// The chat after two messages that were answered.
fn chat_about_colours(machine: &Machine) -> Terminal {
    let mut chat = chat(machine, &[]);
    ask(&mut chat, "I like red.", "The first answer.");
    ask(&mut chat, "I like green.", "The second answer.");
    chat
}

/// In the list of messages that it comes to: back to before the newest.
fn go_back(chat: &mut Terminal) {
    chat.wait_for("Enter goes back there").expect("the list");
    chat.type_keys("\r").expect("a terminal");
    chat.wait_for("2 messages left the conversation").expect("what happened");
}

/// What the model was sent last.
fn last_sent(machine: &Machine) -> String {
    let requests = machine.server.requests();
    requests.last().expect("a request").messages().iter().map(ToString::to_string).collect()
}

fn numbers() -> Script {
    Script::in_order(["first", "second", "third", "fourth"].map(|number| Answer::text(format!("The {number} answer."))))
}

#[test]
fn a_person_goes_back_to_an_earlier_message_and_takes_that_back_too() {
    let machine = Machine::new(numbers());
    let mut chat = chat_about_colours(&machine);

    chat.type_keys("/rewind\r").expect("a terminal");
    go_back(&mut chat);
    chat.wait_for("I like green.").expect("the message in the input line");
    chat.type_keys("\x15I like blue.\r").expect("a terminal");
    chat.wait_for("The third answer.").expect("the answer");
    rest(&mut chat);
    let sent = last_sent(&machine);
    assert!(sent.contains("red") && sent.contains("blue") && !sent.contains("green"), "{sent}");

    chat.type_keys("/rewind undo\r").expect("a terminal");
    chat.wait_for("2 messages are back").expect("what happened");
    ask(&mut chat, "What do I like?", "The fourth answer.");
    let sent = last_sent(&machine);
    assert!(sent.contains("red") && sent.contains("green") && !sent.contains("blue"), "{sent}");
    chat.end().expect("it ends");
}

#[test]
fn a_person_pins_a_message_and_sees_what_is_pinned() {
    let machine = Machine::new(numbers());
    let mut chat = chat_about_colours(&machine);
    chat.type_keys("/pin\r").expect("a terminal");
    chat.wait_for("takes its pin (*) off").expect("the list");
    chat.type_keys("\x1b[A\r").expect("a terminal");
    chat.wait_for("This message stays in the context").expect("what happened");
    chat.type_keys("/context\r").expect("a terminal");
    chat.wait_for("1 message, about").expect("what is pinned");
    chat.type_keys("/pin\r").expect("a terminal");
    chat.wait_for("* I like red.").expect("the mark");
    chat.type_keys("\x1b[A\r").expect("a terminal");
    chat.wait_for("This message may be trimmed again").expect("what happened");
    chat.end().expect("it ends");
}

#[test]
fn escape_twice_goes_back_and_holds_for_the_next_start() {
    let machine = Machine::new(numbers());
    let mut first = chat_about_colours(&machine);
    first.type_keys("\x1b").expect("a terminal");
    first.wait_for("Esc again goes back").expect("the hint");
    first.type_keys("\x1b").expect("a terminal");
    go_back(&mut first);
    first.end().expect("it ends");

    let mut again = chat(&machine, &["-c"]);
    again.wait_for("I like red.").expect("what was said");
    ask(&mut again, "And now?", "The third answer.");
    let sent = last_sent(&machine);
    assert!(sent.contains("red") && !sent.contains("green"), "{sent}");
    again.end().expect("it ends");
}

#[test]
fn a_message_that_waits_survives_a_kill_and_is_sent_by_the_person_only() {
    let machine = Machine::new(Script::in_order([Answer::headers_then_nothing(), Answer::text("The later answer.")]));
    let mut first = chat(&machine, &[]);
    first.type_keys("Begin.\r").expect("a terminal");
    first.wait_for("waiting for anthropic").expect("the turn");
    first.type_keys("And then go on.\x1b\r").expect("a terminal");
    first.wait_for("queued: ").expect("the message");
    let log = || std::fs::read_to_string(machine.session_file()).expect("a log");
    let is_written = || log().contains(r#""type":"message.queued","text":"And then go on.""#);
    assert!(wait_until(HUNG, is_written), "it is in the log: {}", log());
    // Dropping it kills it.
    drop(first);

    let mut again = chat(&machine, &["-c"]);
    again.wait_for("waiting: ").expect("the message");
    again.wait_for("And then go on.").expect("its words");
    assert_eq!(machine.server.requests().len(), 1, "nothing is sent by itself");
    again.type_keys("\r").expect("a terminal");
    again.wait_for("The later answer.").expect("the answer");
    rest(&mut again);
    assert!(last_sent(&machine).contains("And then go on."));
    again.type_keys("\x15/quit\r").expect("a terminal");
    assert!(wait_until(HUNG, || log().contains(r#""kind":"follow_up""#)), "{}", log());
}

#[test]
fn a_message_that_steers_too_late_waits_for_the_person() {
    let machine = Machine::new(Script::in_order([Answer::headers_then_nothing(), Answer::text("To the left.")]));
    let mut chat = chat(&machine, &[]);
    chat.type_keys("Begin.\r").expect("a terminal");
    chat.wait_for("waiting for anthropic").expect("the turn");
    chat.type_keys("Left, not right.\r").expect("a terminal");
    chat.wait_for("next: ").expect("the message");
    // Esc.
    chat.type_keys("\x1b").expect("a terminal");
    chat.wait_for("waiting: ").expect("the message waits");
    chat.wait_for("Left, not right.").expect("its words");
    assert_eq!(machine.server.requests().len(), 1, "nothing is sent by itself");
    rest(&mut chat);
    chat.type_keys("\r").expect("a terminal");
    chat.wait_for("To the left.").expect("the answer");
    rest(&mut chat);
    assert_eq!(last_sent(&machine).matches("Left, not right.").count(), 1);
    chat.type_keys("\x15/quit\r").expect("a terminal");
    chat.end().expect("it ends");
}

#[test]
fn a_message_that_no_request_has_room_for_comes_back_to_the_editor_with_both_sizes() {
    // Enter steers, Alt-Enter queues.
    for key in ["\r", "\x1b\r"] {
        let machine = Machine::new(Script::in_order([Answer::headers_then_nothing()]));
        let mut chat = chat(&machine, &["--context-window", "8000"]);
        chat.type_keys("Begin.\r").expect("a terminal");
        chat.wait_for("waiting for anthropic").expect("the turn");
        let words = "word ".repeat(12_000);
        chat.type_keys(&format!("\x1b[200~{words}the end\x1b[201~{key}")).expect("a terminal");
        chat.wait_for("leaves room for").expect("it is refused");
        chat.wait_for("the end").expect("it is in the editor");
        let log = std::fs::read_to_string(machine.session_file()).expect("a log");
        assert!(!log.contains("word word"), "it is not in the log");
        chat.type_keys("\x1b").expect("a terminal");
        chat.wait_for("Stopped after").expect("the turn ends");
        chat.end().expect("it ends");
    }
}

#[test]
fn a_command_of_the_persons_is_shown_as_it_runs_and_esc_stops_it() {
    let machine = Machine::new(numbers());
    let mut chat = chat(&machine, &[]);
    chat.type_keys("!printf 'ha%s\\n' lf; sleep 300; echo whole\r").expect("a terminal");
    chat.wait_for("half").expect("its output, while it runs");
    chat.type_keys("\x1b").expect("a terminal");
    chat.wait_for("stopped by the user").expect("it is stopped");
    ask(&mut chat, "What was that?", "The first answer.");
    let sent = last_sent(&machine);
    assert!(sent.contains("stopped by the user. Its output:\\nhalf\\n"), "the model is told what came: {sent}");
    chat.type_keys("!printf 'do%s\\n' ne\r").expect("a terminal");
    chat.wait_for("done").expect("its output");
    rest(&mut chat);
    chat.type_keys("\x15/quit\r").expect("a terminal");
    chat.end().expect("it ends");
}
