//! The commands after `offline:`, for tests and demonstrations.

use super::view::View;
use super::{Call, Ending, Reply};
use crate::model::{FailureKind, ModelFailure};
use serde_json::json;
use std::time::Duration;

/// So that a typing error does not ask for an answer of gigabytes.
const COUNT_MAX: usize = 1_000_000;
const SLOW_WORD_DELAY_MS: u64 = 50;
/// Said before an answer breaks off.
const BEGINNING: &str = "This answer begins well and then";

pub(super) fn reply(command: &str, view: &View<'_>) -> Reply {
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    match name {
        "slow" => slow(rest),
        "sleep" => Reply { wait: seconds(rest), ..Reply::say("I have slept, and answer now.") },
        "repeat" => Reply { is_verbatim: true, ..Reply::say(rest) },
        "think" => Reply { reasoning: rest.into(), ..Reply::say("I have thought about it.") },
        "shell" => call_then_tell(vec![call("shell", json!({"command": rest}).to_string())], view),
        "call" => {
            let (tool, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            call_then_tell(vec![call(tool, arguments.trim().into())], view)
        }
        "parallel" => {
            let paths = rest.strip_prefix("reads").unwrap_or(rest).split_whitespace();
            call_then_tell(paths.map(|path| call("read", json!({"path": path}).to_string())).collect(), view)
        }
        "steps" if view.rounds_done() < count(rest) && view.has_tool("list") => {
            Reply::call(format!("Step {}.", view.rounds_done() + 1), vec![call("list", "{}".into())])
        }
        "steps" => Reply::say(format!("I did {} steps.", view.rounds_done())),
        "bad-arguments" => call_then_tell(vec![call("read", r#"{"path": "README.md"#.into())], view),
        "fail" => fail(rest),
        "cut" => Reply { ending: Ending::Cut, ..Reply::say(BEGINNING) },
        "hang" => Reply { ending: Ending::Hang, ..Reply::default() },
        "max-tokens" => Reply { ending: Ending::MaxTokens, ..Reply::say(BEGINNING) },
        _ => Reply::say(format!("There is no command `offline: {name}`.")),
    }
}

fn slow(rest: &str) -> Reply {
    let mut numbers = rest.split_whitespace().filter_map(|word| word.parse().ok());
    let count = usize::try_from(numbers.next().unwrap_or(100)).map_or(COUNT_MAX, |count| count.min(COUNT_MAX));
    let delay = Duration::from_millis(numbers.next().unwrap_or(SLOW_WORD_DELAY_MS));
    let words: Vec<String> = (1..=count).map(|number| format!("word{number}")).collect();
    Reply { word_delay: Some(delay), ..Reply::say(words.join(" ")) }
}

fn seconds(rest: &str) -> Duration {
    let seconds = rest.trim_start_matches(char::is_whitespace).split([' ', 's']).next().and_then(|word| word.parse().ok());
    Duration::try_from_secs_f64(seconds.unwrap_or(1.0)).unwrap_or(Duration::ZERO)
}

fn count(rest: &str) -> usize {
    rest.parse().map_or(1, |count: usize| count.min(COUNT_MAX))
}

fn fail(rest: &str) -> Reply {
    let kind = if rest == "server" { FailureKind::Server } else { FailureKind::BadRequest };
    let failure = ModelFailure::new(kind, "the offline model was asked to fail");
    Reply { ending: Ending::Fail(failure), ..Reply::default() }
}

fn call(name: &str, arguments: String) -> Call {
    Call { name: name.into(), arguments }
}

/// Calls the tools in one message, and answers with their results as they are.
fn call_then_tell(calls: Vec<Call>, view: &View<'_>) -> Reply {
    if let Some(call) = calls.iter().find(|call| !view.has_tool(&call.name)) {
        return Reply::say(format!("This session has no tool `{}`.", call.name));
    }
    let Some(results) = view.round(0) else { return Reply::call("", calls) };
    let told = results.iter().map(|done| {
        let how = if done.is_error { "failed" } else { "gave" };
        format!("`{}` {how}:\n\n{}", done.name, done.output.trim_end())
    });
    Reply::say(told.collect::<Vec<_>>().join("\n\n"))
}
