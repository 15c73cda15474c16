//! A session as one HTML page that needs nothing but itself: no scripts, no fonts, no pictures but those of its messages, which are in it.
//!
//! Everything in a session is hostile until escaped. All text goes through [`escape`]; an answer's Markdown is rendered with its raw
//! HTML shown as text, its pictures as links, and only web and mail links alive; and the page's own
//! `Content-Security-Policy` would still stop what slipped through. Control characters and bidirectional overrides are made visible.

use super::Facts;
use super::pictures::{Picture, Pictures};
use crate::safe_text::safe;
use crate::transcript::{
    Answer, Item, ItemKind, PARTIAL, ToolEnd, call_words, capital, clock, end_words, is_image, is_trouble, outcome_words,
    profile_words, user_words,
};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use serde_json::Value;
use session_store::{Block, ImageRef, Profile, Todo, TodoStatus, ToolCall};
use std::fmt::Write;

/// The end of the page.
pub(super) const FOOT: &str = "</main>\n</body>\n</html>\n";

const STYLE: &str = include_str!("page.css");

/// The start of the page: title, style, facts.
pub(super) fn head(facts: &Facts) -> String {
    let title = escape(&facts.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1 dir=\"auto\">{title}</h1>\n\
         <details><summary>About this session</summary>\n<dl>\n"
    );
    for (name, value) in &facts.rows {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    out + "</dl>\n</details>\n</header>\n<main>\n"
}

/// One item.
pub(super) fn item(item: &Item, pictures: &Pictures) -> String {
    match &item.kind {
        ItemKind::Profile(profile) => profile_details(item, profile),
        ItemKind::User { text, kind, images } => {
            article(item, "user", user_words(*kind), "", &(figures(images, pictures) + &plain(text)))
        }
        ItemKind::Note { text } => article(item, "note", "note to the model", "", &plain(text)),
        ItemKind::Answer(answer) => answer_article(item, answer),
        ItemKind::Tool { call, end } => tool_details(item, call, end, pictures),
        ItemKind::Todos(todos) => todo_list(item, todos),
        ItemKind::Remark { text, trouble } => {
            let class = if *trouble { "remark trouble" } else { "remark" };
            format!("<p class=\"{class}\" id=\"e{}\"><span dir=\"auto\">{}</span>{}</p>\n", item.seq, escape(text), place(item))
        }
    }
}

fn article(item: &Item, class: &str, who: &str, model: &str, body: &str) -> String {
    let model = if model.is_empty() { String::new() } else { format!(" <span class=\"model\">{}</span>", escape(model)) };
    format!(
        "<article class=\"{class}\" id=\"e{}\">\n<h2>{}{model}{}</h2>\n{body}</article>\n",
        item.seq,
        escape(&capital(who)),
        place(item)
    )
}

/// The event's number, which is a link to itself, and its time.
fn place(item: &Item) -> String {
    let at = clock(item.at);
    let unchecked = if item.sound { "" } else { "<strong class=\"trouble\">damaged: its checksum does not hold</strong> " };
    format!(
        " <span class=\"place\">{unchecked}<time datetime=\"{}\" title=\"{at} UTC\">{}</time> <a href=\"#e{seq}\">#{seq}</a></span>",
        item.at,
        &at[5..16],
        seq = item.seq
    )
}

fn profile_details(item: &Item, profile: &Profile) -> String {
    format!(
        "<details class=\"profile\" id=\"e{}\"><summary><span>{}</span>{}</summary>\n{}</details>\n",
        item.seq,
        escape(&profile_words(profile)),
        place(item),
        pre(&profile.system)
    )
}

fn answer_article(item: &Item, answer: &Answer) -> String {
    let mut body = String::new();
    for block in &answer.blocks {
        match block {
            Block::Text { text } if !text.trim().is_empty() => {
                let _ = writeln!(body, "<div class=\"text\" dir=\"auto\">\n{}</div>", markdown(text));
            }
            block if is_image(block) => body += "<p class=\"cut\">an image</p>\n",
            Block::Reasoning { text, .. } if !text.trim().is_empty() => {
                let _ = writeln!(body, "<details class=\"reasoning\"><summary>Reasoning</summary>\n{}</details>", plain(text));
            }
            _ => {}
        }
    }
    match (answer.partial, answer.coming) {
        (true, true) => body += "<p class=\"cut\">still being written</p>\n",
        (true, false) => body += "<p class=\"cut\">cut off here</p>\n",
        (false, _) => {}
    }
    article(item, "assistant", "assistant", &answer.model, &body)
}

fn tool_details(item: &Item, call: &ToolCall, end: &ToolEnd, pictures: &Pictures) -> String {
    let class = if is_trouble(end) { "tool trouble" } else { "tool" };
    let (ended, output) = match end {
        ToolEnd::Finished(finished) => {
            let ended = outcome_words(finished);
            let words = if finished.output.is_empty() { String::new() } else { pre(&finished.output) };
            let output = figures(&finished.images, pictures) + &words;
            (ended, if output.is_empty() { output } else { format!("<h3>Result</h3>\n{output}") })
        }
        other => {
            let output = other.partial_output().map(|output| format!("<h3>{}</h3>\n{}", capital(PARTIAL), pre(output)));
            (end_words(other), output.unwrap_or_default())
        }
    };
    format!(
        "<details class=\"{class}\" id=\"e{}\"><summary><code>{}</code> <span class=\"end\">{}</span>{}</summary>\n{}{output}</details>\n",
        item.seq,
        escape(&call_words(call)),
        escape(&ended),
        place(item),
        arguments(call)
    )
}

/// A call's arguments, a field each where they are an object, so that a file's text is not a line with `\n` in it.
fn arguments(call: &ToolCall) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(&call.arguments) else { return pre(&call.arguments) };
    let mut out = String::new();
    for (name, value) in &fields {
        let value = match value {
            Value::String(text) => text.clone(),
            other => serde_json::to_string_pretty(other).unwrap_or_else(|_| other.to_string()),
        };
        let _ = write!(out, "<h3>{}</h3>\n{}", escape(name), pre(&value));
    }
    out
}

fn todo_list(item: &Item, todos: &[Todo]) -> String {
    let mut list = String::new();
    for todo in todos {
        let (class, word) = match todo.status {
            TodoStatus::Pending => ("pending", "to do"),
            TodoStatus::InProgress => ("doing", "being done"),
            TodoStatus::Completed => ("done", "done"),
        };
        let _ = writeln!(
            list,
            "<li class=\"{class}\"><span dir=\"auto\">{}</span> <small>{word}</small></li>",
            escape(&todo.content)
        );
    }
    format!("<section class=\"todos\" id=\"e{}\"><h2>Todo list{}</h2>\n<ul>\n{list}</ul></section>\n", item.seq, place(item))
}

/// Images; in the place of one that is not in the page, what it is and why it is not.
fn figures(images: &[ImageRef], pictures: &Pictures) -> String {
    let mut out = String::new();
    for image in images {
        let label = escape(&format!("image {}", image.label()));
        let _ = match pictures.get(image) {
            Picture::Url(url) => writeln!(out, "<p><img alt=\"[{label}]\" title=\"{label}\" src=\"{url}\"></p>"),
            Picture::LeftOut(why) => writeln!(out, "<p class=\"cut\">[{label}], {} bytes: {why}</p>", image.bytes),
        };
    }
    out
}

fn plain(text: &str) -> String {
    format!("<div class=\"plain\" dir=\"auto\">{}</div>\n", escape(text.trim_end()))
}

fn pre(text: &str) -> String {
    // A newline directly after `<pre>` is dropped by browsers, so one is given to them.
    format!("<pre>\n{}</pre>\n", escape(text.trim_end_matches('\n')))
}

/// Text for an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in safe(text).chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}

/// A model's Markdown as HTML that cannot do anything.
fn markdown(text: &str) -> String {
    let text = safe(text);
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut html = String::with_capacity(text.len() * 3 / 2);
    pulldown_cmark::html::push_html(&mut html, Disarmed { events: Parser::new_ext(&text, options), in_dead_link: false });
    html
}

/// Markdown events without what a page must not do.
struct Disarmed<'a> {
    events: Parser<'a>,
    /// Whether the link that is open was left out, because it leads nowhere harmless. Links do not nest.
    in_dead_link: bool,
}

impl<'a> Iterator for Disarmed<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        Some(match self.events.next()? {
            Event::Html(html) | Event::InlineHtml(html) => Event::Text(html),
            Event::Start(Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
            Event::End(TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
            Event::Start(Tag::Heading { level, .. }) => Event::Start(heading(level)),
            Event::End(TagEnd::Heading(level)) => Event::End(TagEnd::Heading(lower(level))),
            Event::Start(Tag::Link { dest_url, .. }) => self.link(&dest_url),
            Event::End(TagEnd::Link) => self.link_end(),
            Event::Start(Tag::Image { dest_url, .. }) => Event::Text(format!("[picture {dest_url} ").into()),
            Event::End(TagEnd::Image) => Event::Text("]".into()),
            event => event,
        })
    }
}

impl<'a> Disarmed<'a> {
    /// A link, as HTML of our own: the renderer's would not say `noreferrer`.
    fn link(&mut self, url: &CowStr<'a>) -> Event<'a> {
        self.in_dead_link = !is_harmless(url);
        match self.in_dead_link {
            true => Event::Text(format!("[{url}] ").into()),
            false => Event::InlineHtml(format!("<a rel=\"noopener noreferrer nofollow\" href=\"{}\">", escape(url)).into()),
        }
    }

    fn link_end(&mut self) -> Event<'a> {
        match std::mem::take(&mut self.in_dead_link) {
            true => Event::Text(CowStr::Borrowed("")),
            false => Event::InlineHtml(CowStr::Borrowed("</a>")),
        }
    }
}

fn is_harmless(url: &str) -> bool {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https" | "mailto"))
}

/// An answer's headings stand below the page's own.
fn heading(level: HeadingLevel) -> Tag<'static> {
    Tag::Heading { level: lower(level), id: None, classes: Vec::new(), attrs: Vec::new() }
}

fn lower(level: HeadingLevel) -> HeadingLevel {
    match level {
        HeadingLevel::H1 => HeadingLevel::H3,
        HeadingLevel::H2 => HeadingLevel::H4,
        HeadingLevel::H3 => HeadingLevel::H5,
        _ => HeadingLevel::H6,
    }
}
