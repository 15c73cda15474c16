//! A session as Markdown. A person's words are quotes, an answer stands as the model wrote it, what a tool read and gave is fenced.
//!
//! An answer is Markdown already, and stays it; only what would swallow the rest of the document is disarmed: raw HTML is
//! escaped so that it is shown, and a fence that the answer left open is closed.

use super::Facts;
use crate::safe_text::{safe, safe_line};
use crate::transcript::{
    Answer, Item, ItemKind, PARTIAL, ToolEnd, answer_words, capital, clock, end_words, is_image, outcome_words, profile_words,
    todo_mark, user_words,
};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use session_store::{Block, Profile, ToolCall, with_images};
use std::fmt::Write;

/// The title and the facts.
pub(super) fn head(facts: &Facts) -> String {
    let mut out = format!("# {}\n\n", inline(&facts.title));
    for (name, value) in &facts.rows {
        let _ = writeln!(out, "- {name}: {}", code_span(value));
    }
    out + "\n"
}

/// One item, with a blank line after it.
pub(super) fn item(item: &Item) -> String {
    match &item.kind {
        ItemKind::Profile(profile) => profile_block(item, profile),
        ItemKind::User { text, kind, images } => {
            format!("{}{}\n", heading(item, user_words(*kind)), quote(&with_images(text, images)))
        }
        ItemKind::Note { text } => format!("{}{}\n", heading(item, "note to the model"), quote(text)),
        ItemKind::Answer(answer) => answer_block(item, answer),
        ItemKind::Tool { call, end } => tool_block(item, call, end),
        ItemKind::Todos(todos) => {
            let mut out = format!("**Todo list** ({})\n\n", place(item));
            for todo in todos.iter() {
                let _ = writeln!(out, "- {} {}", todo_mark(todo.status), inline(&todo.content));
            }
            out + "\n"
        }
        ItemKind::Remark { text, .. } => format!("*{}* ({})\n\n", inline(text), place(item)),
    }
}

fn heading(item: &Item, who: &str) -> String {
    format!("## {}\n\n*{}*\n\n", inline(&capital(who)), place(item))
}

fn place(item: &Item) -> String {
    let unchecked = if item.sound { "" } else { ", damaged: its checksum does not hold" };
    format!("event {}, {} UTC{unchecked}", item.seq, clock(item.at))
}

fn profile_block(item: &Item, profile: &Profile) -> String {
    let words = inline(&profile_words(profile));
    format!("{}{words}\n\n{}", heading(item, "system"), fenced("text", &profile.system))
}

fn answer_block(item: &Item, answer: &Answer) -> String {
    let mut out = heading(item, &answer_words(&answer.model));
    for block in &answer.blocks {
        match block {
            Block::Text { text } if !text.trim().is_empty() => {
                let _ = writeln!(out, "{}\n", contained(&safe(text)));
            }
            block if is_image(block) => out.push_str("*(an image)*\n\n"),
            Block::Reasoning { text, .. } if !text.trim().is_empty() => {
                let _ = writeln!(out, "*Reasoning:*\n\n{}", quote(text));
            }
            _ => {}
        }
    }
    match (answer.partial, answer.coming) {
        (true, true) => out + "*(still being written)*\n\n",
        (true, false) => out + "*(cut off here)*\n\n",
        (false, _) => out,
    }
}

fn tool_block(item: &Item, call: &ToolCall, end: &ToolEnd) -> String {
    let ended = match end {
        ToolEnd::Finished(finished) => outcome_words(finished),
        other => end_words(other),
    };
    let mut out = format!(
        "**Tool** {}: {} ({})\n\n{}",
        code_span(&call.name),
        inline(&ended),
        place(item),
        fenced("json", &call.arguments)
    );
    if let ToolEnd::Finished(finished) = end {
        out += &fenced("text", &with_images(&finished.output, &finished.images));
    }
    if let Some(output) = end.partial_output() {
        out += &format!("{}:\n\n{}", capital(PARTIAL), fenced("text", output));
    }
    out
}

/// Text that has its own Markdown, kept from reaching beyond its end.
fn contained(text: &str) -> String {
    let mut shown = escape_html(text.trim_end());
    if let (true, Some(fence)) = (swallows_what_follows(&shown), open_fence(&shown)) {
        shown.push('\n');
        shown.push_str(&fence);
    }
    shown
}

/// Whether a paragraph after `text` would be part of something that `text` began.
fn swallows_what_follows(text: &str) -> bool {
    let followed = format!("{text}\n\nend\n");
    let events: Vec<Event<'_>> = Parser::new_ext(&followed, Options::ENABLE_TABLES).collect();
    let paragraph = [Event::Start(Tag::Paragraph), Event::Text("end".into()), Event::End(TagEnd::Paragraph)];
    !events.ends_with(&paragraph)
}

/// `text` with its raw HTML escaped, code left as it is.
fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        if let (Event::Html(_) | Event::InlineHtml(_), true) = (event, range.start >= copied) {
            out.push_str(&text[copied..range.start]);
            out.push_str(&text[range.clone()].replace('<', "\\<"));
            copied = range.end;
        }
    }
    out + &text[copied..]
}

/// The fence that `text` leaves open, where it leaves one open.
fn open_fence(text: &str) -> Option<String> {
    text.lines().fold(None, after_line)
}

/// The open fence after `line`, where `open` was open before it.
fn after_line(open: Option<String>, line: &str) -> Option<String> {
    let content = line.trim_start_matches([' ', '>']);
    let mark = content.chars().next().filter(|mark| matches!(mark, '`' | '~'));
    let length = mark.map_or(0, |mark| content.chars().take_while(|char| *char == mark).count());
    let (Some(mark), 3..) = (mark, length) else { return open };
    let rest = &content[length..];
    match open {
        Some(fence) => (!fence.starts_with(mark) || length < fence.len() || !rest.trim().is_empty()).then_some(fence),
        None if mark == '`' && rest.contains('`') => None,
        None => Some(String::from(mark).repeat(length)),
    }
}

/// `text` as a quote whose lines stay lines.
fn quote(text: &str) -> String {
    let text = contained(&safe(text));
    let mut out = String::new();
    let mut fence = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        fence = after_line(fence, line);
        let breaks = fence.is_none() && !line.trim().is_empty() && lines.peek().is_some_and(|next| !next.trim().is_empty());
        let _ = match (breaks, line.is_empty()) {
            (true, _) => writeln!(out, "> {line}  "),
            (false, false) => writeln!(out, "> {line}"),
            (false, true) => writeln!(out, ">"),
        };
    }
    out
}

/// `text` in a fence that is longer than any in it.
fn fenced(language: &str, text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}\n\n", safe(text.trim_end_matches('\n')))
}

fn code_span(text: &str) -> String {
    let text = safe_line(text);
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// The longest run of backticks.
fn longest_run(text: &str) -> usize {
    text.split(|char| char != '`').map(str::len).max().unwrap_or(0)
}

/// One line of plain text: every character that Markdown could read as markup is escaped.
fn inline(text: &str) -> String {
    let text = safe_line(text);
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if matches!(char, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&') {
            out.push('\\');
        }
        out.push(char);
    }
    out
}
