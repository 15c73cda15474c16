//! A session as a document for others: Markdown, or one HTML page.
//!
//! Both are made item by item from the transcript that `sessions show` prints, whatever the session's length, with what looks
//! like a credential replaced ([`Redactor`]). What a session holds was written by models, tools and strangers: neither
//! document lets it add markup of its own, load anything or run anything. A page has the images of its session in itself.

mod html;
mod markdown;
mod pictures;
mod redact;

pub(crate) use pictures::Pictures;
pub(crate) use redact::Redactor;

use crate::transcript::Item;
use session_store::{SessionId, State};

/// What stands on top of a document.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The session's name, or its title, or a word that it has neither.
    pub(crate) title: String,
    /// Name and value, in order.
    pub(crate) rows: Vec<(&'static str, String)>,
}

impl Facts {
    /// The facts of a session, cleaned.
    pub(crate) fn new(id: SessionId, state: &State, redactor: &Redactor) -> Self {
        let title = state.name.as_deref().or(state.title.as_deref()).unwrap_or("Untitled session");
        let time = |at: session_store::Timestamp| format!("{} UTC", crate::transcript::clock(at));
        let tokens = |count: Option<u64>| count.map(|count| count.to_string());
        let rows = [
            ("Session", Some(id.to_string())),
            ("Started", state.created_at.map(time)),
            ("Last event", state.updated_at.map(time)),
            ("Model", state.profile.as_ref().map(|profile| profile.model.clone())),
            ("Directory", state.cwd.clone()),
            ("Forked from", state.parent.map(|(parent, at)| format!("{parent} at event {at}"))),
            ("Messages", Some(state.messages.to_string())),
            ("Input tokens", tokens(state.usage.input_tokens)),
            ("Output tokens", tokens(state.usage.output_tokens)),
        ];
        let rows = rows.into_iter().filter_map(|(name, value)| Some((name, redactor.clean(&value?).into_owned()))).collect();
        Self { title: redactor.clean(title).into_owned(), rows }
    }
}

/// The documents that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// Markdown, as GitHub and most viewers read it.
    Markdown,
    /// A self-contained page: no scripts, nothing loaded from elsewhere.
    Html,
}

impl Document {
    /// What comes before the first item.
    pub(crate) fn head(self, facts: &Facts) -> String {
        match self {
            Self::Markdown => markdown::head(facts),
            Self::Html => html::head(facts),
        }
    }

    /// Whether images are a part of it.
    pub(crate) fn has_pictures(self) -> bool {
        self == Self::Html
    }

    /// One item, with its images. It must have been cleaned.
    pub(crate) fn item(self, item: &Item, pictures: &Pictures) -> String {
        match self {
            Self::Markdown => markdown::item(item),
            Self::Html => html::item(item, pictures),
        }
    }

    /// What comes after the last item.
    pub(crate) fn foot(self) -> &'static str {
        match self {
            Self::Markdown => "",
            Self::Html => html::FOOT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::Transcript;
    use crate::transcript::fixture;
    use session_store::{Entry, ImageRef, UserMessage};

    fn export(document: Document, entries: &[Entry]) -> String {
        let redactor = Redactor::new();
        let mut transcript = Transcript::default();
        let mut items: Vec<Item> = entries.iter().flat_map(|entry| transcript.push(entry)).collect();
        items.extend(transcript.finish(false));
        let id = "019a0000-0000-7000-8000-000000000001".parse().expect("an id");
        let mut out = document.head(&Facts::new(id, transcript.state(), &redactor));
        items.into_iter().for_each(|item| out += &document.item(&redactor.clean_item(item), &Pictures::default()));
        out + document.foot()
    }

    fn answer(text: &str) -> Vec<Entry> {
        fixture::entries(vec![fixture::user("Hi"), fixture::request(), fixture::answer(1, vec![fixture::says(text)])])
    }

    /// Whether `html` has no tag, attribute or URL that a page must not have.
    fn assert_harmless(html: &str) {
        let body = html.split("</style>").nth(1).expect("a body");
        let tag = regex::Regex::new(r#"<(/?)([a-zA-Z!]\w*)((?:[^>"]|"[^"]*")*)>"#).expect("a pattern");
        let known = [
            "head",
            "body",
            "html",
            "header",
            "main",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "p",
            "div",
            "span",
            "a",
            "code",
            "pre",
            "details",
            "summary",
            "dl",
            "dt",
            "dd",
            "ul",
            "ol",
            "li",
            "article",
            "section",
            "time",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "strong",
            "em",
            "del",
            "blockquote",
            "small",
            "hr",
            "br",
            "input",
        ];
        for found in tag.captures_iter(body) {
            assert!(known.contains(&&found[2]), "{}", &found[0]);
            let attributes = found[3].to_lowercase();
            assert!(
                !attributes.contains(" on") && !attributes.contains("style=") && !attributes.contains("src="),
                "{}",
                &found[0]
            );
            assert!(
                !attributes.contains("href=")
                    || ["href=\"#", "href=\"http://", "href=\"https://", "href=\"mailto:"]
                        .iter()
                        .any(|href| attributes.contains(href)),
                "{}",
                &found[0]
            );
        }
        assert!(!html.chars().any(|char| char.is_control() && char != '\n' && char != '\t'));
        assert!(!html.contains(['\u{202e}', '\u{2066}']));
    }

    #[test]
    fn a_session_as_markdown() {
        insta::assert_snapshot!(export(Document::Markdown, &fixture::session()));
    }

    #[test]
    fn a_session_as_html() {
        let page = export(Document::Html, &fixture::session());
        let (head, body) = page.split_once("<style>").expect("a style");
        insta::assert_snapshot!(format!("{head}{}", body.split_once("</style>\n").expect("its end").1));
    }

    #[test]
    fn a_hostile_session_makes_a_harmless_page() {
        let page = export(Document::Html, &fixture::session());
        assert_harmless(&page);
        assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
        assert!(page.contains("default-src 'none'"));
        for text in [
            "<svg/onload=alert(1)>",
            "[x](data:text/html,<script>alert(1)</script>)",
            "[x](JaVaScRiPt:alert(1)) <javascript:alert(1)> [x](//evil.example) [x](  javascript:x)",
            "![a\"onerror=\"alert(1)](x) [![p](https://e.example/p.png)](https://e.example/\"onclick=\"x)",
            "```\"><script>alert(1)</script>\nx\n```",
            "```js\"onmouseover=\"alert(1)\nx\n```",
            "<details open ontoggle=alert(1)>\n\n<style>*{display:none}</style>\n\n</main></body>",
            "&lt;script&gt; &#60;script&#62; \\<script>",
            "- [x] <b>done</b>\n\n> <iframe src=x>",
        ] {
            assert_harmless(&export(Document::Html, &answer(text)));
        }
    }

    #[test]
    fn an_image_that_is_not_in_the_page_is_named_and_cannot_add_markup() {
        let image = ImageRef { media_type: "image/\"><script>alert(1)</script>".to_owned(), bytes: 7, ..ImageRef::default() };
        let user = UserMessage { text: "look".to_owned(), images: vec![image], ..UserMessage::default() };
        let page = export(Document::Html, &fixture::entries(vec![user.into()]));
        assert_harmless(&page);
        assert!(page.contains("0x0], 7 bytes: it was not read") && !page.contains("<img"), "{page}");
    }

    #[test]
    fn a_page_loads_nothing_and_runs_nothing() {
        let page = export(Document::Html, &fixture::session());
        for word in ["<script", "<link", "<img", "<iframe", "url(", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn what_looks_like_a_credential_is_in_neither_document() {
        for document in [Document::Markdown, Document::Html] {
            let out = export(document, &fixture::session());
            assert!(!out.contains("ghp_") && out.contains("«secret:github-token#"), "{out}");
        }
    }

    #[test]
    fn an_answer_cannot_swallow_the_rest_of_a_markdown_document() {
        for text in
            ["```rust\nfn", "~~~~\n```", "<!-- never ends", "<script>\nlet x", "<details>\n\n```", "> ```\n> x", "a <!-- b\n```"]
        {
            let mut entries = answer(text);
            entries.extend(
                fixture::entries(vec![fixture::user("x"), fixture::request(), fixture::user("The end")]).into_iter().skip(2),
            );
            let out = export(Document::Markdown, &entries);
            let parsed: Vec<pulldown_cmark::Event<'_>> = pulldown_cmark::Parser::new(&out).collect();
            assert!(
                !parsed
                    .iter()
                    .any(|event| matches!(event, pulldown_cmark::Event::Html(_) | pulldown_cmark::Event::InlineHtml(_))),
                "{text}: {out}"
            );
            let end = parsed.iter().position(|event| *event == pulldown_cmark::Event::Text("The end".into())).expect("the end");
            let quoted = parsed[..end]
                .iter()
                .rev()
                .take(2)
                .any(|event| matches!(event, pulldown_cmark::Event::Start(pulldown_cmark::Tag::BlockQuote(_))));
            assert!(quoted, "{text}: {out}");
        }
    }
}
