//! From what the offline model sees to what it answers.

use super::facts::{self, Listing};
use super::instance::instance;
use super::steps::Step;
use super::view::View;
use super::{Call, Ending, Reply, commands};
use crate::model::{FailureKind, ModelFailure};
use serde_json::{Value, json};

/// What it says about itself, once a conversation.
const INTRODUCTION: &str =
    "*I am the offline model that is built in: no language model was asked, and nothing left this machine.*\n\n";
/// What can be asked of it.
const HELP: &str = "I understand a few requests by fixed rules: `what is in this folder?`, `list DIR`, `read FILE`, `search TEXT`, \
                    `write FILE: TEXT`, `replace OLD with NEW in FILE`, `run COMMAND`, several of these joined by `then`, `plan A; B; C`, \
                    and `what did I say first?`.";
/// Lines of a README that are looked at.
const README_LINES: usize = 60;

/// Of what the person said, how many messages are in a summary, and how many characters of each.
const SUMMARY_LINES: usize = 20;
const SUMMARY_LINE: usize = 120;

/// What is wanted.
enum Request<'a> {
    Folder,
    Steps(Vec<Step>),
    Plan(Vec<&'a str>),
    FirstWords,
    LastWords,
    Help,
}

/// The answer: a pure function of what is seen.
pub(super) fn reply(view: &View<'_>) -> Reply {
    let reply = in_words(view);
    let is_last = reply.calls.is_empty() && matches!(reply.ending, Ending::Complete);
    match view.output_schema {
        Some(schema) if is_last && !reply.is_verbatim => as_json(schema, reply),
        _ => reply,
    }
}

/// The same in JSON that fits `schema`.
fn as_json(schema: &Value, reply: Reply) -> Reply {
    match instance(schema) {
        Ok(value) => Reply { text: value.to_string(), ..reply },
        Err(why) => {
            let why = format!("the offline model found nothing that fits the output schema: {why}");
            Reply { ending: Ending::Fail(ModelFailure::new(FailureKind::BadRequest, why)), ..Reply::default() }
        }
    }
}

fn in_words(view: &View<'_>) -> Reply {
    if view.is_to_sum_up {
        return Reply::say(summary(view));
    }
    if let Some(command) = view.prompt.strip_prefix("offline:") {
        return commands::reply(command.trim(), view);
    }
    let mut reply = match Request::of(view) {
        Request::Folder => folder(view),
        Request::Steps(steps) => match steps.as_slice() {
            [step] => single(step, view),
            steps => several(steps, view),
        },
        Request::Plan(items) => plan(&items, view),
        Request::FirstWords => Reply::say(words_told("first", view.earlier.first().copied())),
        Request::LastWords => Reply::say(words_told("last", view.earlier.last().copied())),
        Request::Help => Reply::say(help(view)),
    };
    if !view.has_answered && reply.calls.is_empty() {
        reply.text.insert_str(0, INTRODUCTION);
    }
    reply
}

/// The start of what the person said each time: no more can be said without a language model.
fn summary(view: &View<'_>) -> String {
    let mut summary = "*No language model was asked for this summary.* The user said, in this order:\n".to_owned();
    let said = view.earlier.iter().filter(|text| !text.starts_with('['));
    for line in said.filter_map(|text| text.lines().find(|line| !line.trim().is_empty())).take(SUMMARY_LINES) {
        summary.push_str("\n- ");
        summary.extend(line.trim().chars().take(SUMMARY_LINE));
    }
    summary
}

impl<'a> Request<'a> {
    fn of(view: &View<'a>) -> Self {
        let lower = view.prompt.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if has(&["did i say", "did i ask", "did i write", "my first message", "my last message"]) {
            return if has(&["last", "before"]) { Self::LastWords } else { Self::FirstWords };
        }
        if let Some(items) = plan_items(view.prompt) {
            return Self::Plan(items);
        }
        if let Some(steps) = steps(view.prompt) {
            return Self::Steps(steps);
        }
        let asks_for_folder = has(&["folder", "directory", "files", "project", "repository", "what is here", "what's here"]);
        if asks_for_folder || !view.has_answered && !has(&["help"]) { Self::Folder } else { Self::Help }
    }
}

fn plan_items(prompt: &str) -> Option<Vec<&str>> {
    let (verb, rest) = prompt.split_once([' ', ':'])?;
    let is_plan = ["plan", "todo", "todos"].iter().any(|word| verb.eq_ignore_ascii_case(word));
    let items: Vec<&str> = rest.split([';', '\n']).map(str::trim).filter(|item| !item.is_empty()).collect();
    (is_plan && !items.is_empty()).then_some(items)
}

/// The steps of a prompt: several where each part is one, else the whole as one.
fn steps(prompt: &str) -> Option<Vec<Step>> {
    let parts = prompt.split([';', '\n']).flat_map(|part| part.split(" then ")).map(|part| {
        let part = part.trim();
        part.strip_suffix(" and").unwrap_or(part).trim_end_matches(',')
    });
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    if parts.len() > 1
        && let Some(steps) = parts.iter().map(|part| Step::parse(part)).collect()
    {
        return Some(steps);
    }
    Step::parse(prompt).filter(|step| !is_question_about_folder(step)).map(|step| vec![step])
}

/// `list the files here` asks for the folder, with its README.
fn is_question_about_folder(step: &Step) -> bool {
    matches!(step, Step::List { path } if path == ".")
}

fn missing(tool: &str) -> Reply {
    Reply::say(format!("I would need the tool `{tool}` for that, and this session does not have it. {HELP}"))
}

/// Looks at the folder: a list, and a README where there is one.
fn folder(view: &View<'_>) -> Reply {
    let step = Step::List { path: ".".into() };
    if !view.has_tool("list") {
        return missing("list");
    }
    let Some(listing) = view.result(0) else {
        return Reply::call("I look at what is in this folder.", vec![step.call()]);
    };
    let readme = if listing.is_error { None } else { Listing::of(listing.output).readme() };
    match (readme, view.result(1)) {
        (Some(readme), None) if view.has_tool("read") => {
            let arguments = json!({"path": readme, "limit": README_LINES}).to_string();
            Reply::call(format!("I read `{readme}`."), vec![Call { name: "read".into(), arguments }])
        }
        (Some(readme), Some(read)) => {
            let read = Step::Read { path: readme.into() }.report(read);
            Reply::say(format!("{}\n\n{read}", step.report(listing)))
        }
        _ => Reply::say(step.report(listing)),
    }
}

fn single(step: &Step, view: &View<'_>) -> Reply {
    if !view.has_tool(step.tool()) {
        return missing(step.tool());
    }
    view.result(0).map_or_else(|| step.begin(), |done| Reply::say(step.report(done)))
}

/// Does the steps one after the other: each message puts the list up to date and calls the next tool.
fn several(steps: &[Step], view: &View<'_>) -> Reply {
    if let Some(step) = steps.iter().find(|step| !view.has_tool(step.tool())) {
        return missing(step.tool());
    }
    let done = view.rounds_done();
    let mut calls = Vec::new();
    if view.has_tool("todo") && done <= steps.len() {
        let status = |index| match index {
            _ if index < done => "completed",
            _ if index == done => "in_progress",
            _ => "pending",
        };
        let items = steps.iter().enumerate().map(|(index, step)| json!({"content": step.title(), "status": status(index)}));
        calls.push(todo(&items.collect::<Vec<_>>()));
    }
    if let Some(step) = steps.get(done) {
        calls.insert(0, step.call());
        return Reply::call(format!("Step {} of {}: {}.", done + 1, steps.len(), step.title()), calls);
    }
    if !calls.is_empty() {
        return Reply::call(format!("Step {}: all of the {} before are done.", done + 1, steps.len()), calls);
    }
    let report = |(index, step): (usize, &Step)| {
        let told = view.result(index).map_or_else(|| "not done".into(), |done| step.report(done));
        format!("**{}. {}.** {told}", index + 1, step.title())
    };
    Reply::say(steps.iter().enumerate().map(report).collect::<Vec<_>>().join("\n\n"))
}

fn plan(items: &[&str], view: &View<'_>) -> Reply {
    if !view.has_tool("todo") {
        return missing("todo");
    }
    match view.result(0) {
        None => {
            let items = items.iter().map(|item| json!({"content": item, "status": "pending"}));
            Reply::call("I write the list down.", vec![todo(&items.collect::<Vec<_>>())])
        }
        Some(done) if done.is_error => Reply::say(format!("The list was not taken: {}", done.output.trim())),
        Some(_) => Reply::say(format!("The todo list has {} now.", facts::counted(items.len(), "item", "items"))),
    }
}

fn todo(items: &[Value]) -> Call {
    Call { name: "todo".into(), arguments: json!({ "todos": items }).to_string() }
}

fn words_told(which: &str, words: Option<&str>) -> String {
    match words {
        Some(words) => format!("Your {which} message that I can see was:\n\n> {}", words.trim().replace('\n', "\n> ")),
        None => "You have said nothing before this.".into(),
    }
}

fn help(view: &View<'_>) -> String {
    let seen = match view.earlier.len() {
        0 => String::new(),
        count => format!("I see {} before this one. ", facts::counted(count, "message", "messages")),
    };
    format!("{seen}{HELP}")
}
