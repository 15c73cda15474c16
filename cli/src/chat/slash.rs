//! The commands that are typed into the chat: `/help` and the others.

use agent_runtime::PermissionMode;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slash {
    Help,
    /// Shows the model, or changes it.
    Model(Option<String>),
    Effort(Option<String>),
    /// Goes on with another session: an id, a name or a prefix; nothing: a list to pick from.
    Resume(Option<String>),
    New,
    Fork,
    /// Goes back to an earlier message, or undoes that.
    Rewind {
        undo: bool,
    },
    Todos,
    /// Shows what the model is sent, or undoes the last trim.
    Context {
        undo: bool,
    },
    /// Lists the person's messages, to pin one or take its pin off.
    Pin,
    Usage,
    Tools,
    /// Shows who may run what, or changes the mode.
    Permissions(Option<PermissionMode>),
    /// Sums up old steps and takes them out, keeping above all what is named.
    Compact(Option<String>),
    Export {
        format: ExportFormat,
        path: Option<String>,
    },
    Rename(String),
    Retry,
    /// Adds the image in a file to the next message, or takes the last one off.
    Image(Option<String>),
    Quit,
}

/// A format of `/export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExportFormat {
    Jsonl,
    Markdown,
    Html,
}

impl ExportFormat {
    /// The ending of a file in it.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Markdown => "md",
            Self::Html => "html",
        }
    }
}

/// A line of `/help`.
pub(super) struct Help {
    /// With the slash.
    pub(super) name: &'static str,
    pub(super) arguments: &'static str,
    pub(super) does: &'static str,
}

const fn help(name: &'static str, arguments: &'static str, does: &'static str) -> Help {
    Help { name, arguments, does }
}

/// Every command, in the order of `/help`.
pub(super) const COMMANDS: [Help; 19] = [
    help("/help", "", "this list"),
    help("/model", "[PROVIDER/NAME]", "who answers; another one from the next message on"),
    help("/effort", "[off|low|medium|high]", "how much the model reasons"),
    help("/resume", "[ID|NAME]", "go on with another session"),
    help("/new", "", "start a new session"),
    help("/fork", "", "go on in a copy of this session"),
    help("/rewind", "[undo]", "go back to an earlier message; undo that"),
    help("/todos", "", "the todo list"),
    help("/context", "[undo]", "what the model is sent, and how much room there is; undo a trim"),
    help("/pin", "", "keep a message of yours in the context, whatever is trimmed; take that back"),
    help("/usage", "", "tokens used, and what they cost"),
    help("/tools", "", "what the model can call"),
    help("/permissions", "[ask|read-only|allow]", "which tools run without asking"),
    help("/compact", "[what to keep]", "sum up old steps, and take them out of the context"),
    help("/export", "[jsonl|markdown|html] [FILE]", "write the session to a file"),
    help("/rename", "NAME", "name the session"),
    help("/retry", "", "ask the model again"),
    help("/image", "[FILE]", "send an image with the next message; without FILE: take the last one off"),
    help("/quit", "", "leave"),
];

/// The command in `text`, or why it is none; nothing where `text` is a message (a path such as `/etc/hosts` begins one).
pub(super) fn parse(text: &str) -> Option<Result<Slash, String>> {
    let text = text.trim_end();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let is_command = name.len() > 1 && name.starts_with('/') && name[1..].bytes().all(|byte| byte.is_ascii_lowercase());
    if !is_command || text.contains('\n') {
        return None;
    }
    Some(command(name, rest.trim()))
}

/// The commands that begin with `start`.
pub(super) fn complete(start: &str) -> Vec<&'static str> {
    COMMANDS.iter().map(|command| command.name).filter(|name| name.starts_with(start)).collect()
}

fn command(name: &str, rest: &str) -> Result<Slash, String> {
    let argument = (!rest.is_empty()).then(|| rest.to_owned());
    let bare = |command| if rest.is_empty() { Ok(command) } else { Err(format!("`{name}` takes no argument")) };
    match name {
        "/help" => bare(Slash::Help),
        "/model" => Ok(Slash::Model(argument)),
        "/effort" => match rest {
            "" | "off" | "low" | "medium" | "high" => Ok(Slash::Effort(argument)),
            _ => Err("`/effort` is one of `off`, `low`, `medium` and `high`".to_owned()),
        },
        "/resume" => Ok(Slash::Resume(argument)),
        "/new" => bare(Slash::New),
        "/fork" => bare(Slash::Fork),
        "/todos" => bare(Slash::Todos),
        "/rewind" => undo(name, rest).map(|undo| Slash::Rewind { undo }),
        "/context" => undo(name, rest).map(|undo| Slash::Context { undo }),
        "/pin" => bare(Slash::Pin),
        "/usage" => bare(Slash::Usage),
        "/tools" => bare(Slash::Tools),
        "/permissions" => match rest {
            "" => Ok(Slash::Permissions(None)),
            "ask" => Ok(Slash::Permissions(Some(PermissionMode::Ask))),
            "read-only" => Ok(Slash::Permissions(Some(PermissionMode::ReadOnly))),
            "allow" => Ok(Slash::Permissions(Some(PermissionMode::Allow))),
            _ => Err("`/permissions` is one of `ask`, `read-only` and `allow`".to_owned()),
        },
        "/compact" => Ok(Slash::Compact(argument)),
        "/export" => export(rest),
        "/rename" => argument.map(Slash::Rename).ok_or_else(|| "`/rename` wants a name".to_owned()),
        "/retry" => bare(Slash::Retry),
        "/image" => Ok(Slash::Image(argument)),
        "/quit" | "/exit" => bare(Slash::Quit),
        _ => Err(unknown(name)),
    }
}

/// Whether an undo is meant.
fn undo(name: &str, rest: &str) -> Result<bool, String> {
    match rest {
        "" => Ok(false),
        "undo" => Ok(true),
        _ => Err(format!("`{name}` takes `undo` or nothing")),
    }
}

fn export(rest: &str) -> Result<Slash, String> {
    let (word, path) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let path = path.trim();
    let path = (!path.is_empty()).then(|| path.to_owned());
    match word {
        "" | "markdown" | "md" => Ok(Slash::Export { format: ExportFormat::Markdown, path }),
        "jsonl" => Ok(Slash::Export { format: ExportFormat::Jsonl, path }),
        "html" => Ok(Slash::Export { format: ExportFormat::Html, path }),
        _ => Err("`/export` writes `markdown`, `html` or `jsonl`; the file comes after it".to_owned()),
    }
}

fn unknown(name: &str) -> String {
    let start: String = name.chars().take(3).collect();
    let like = complete(&start);
    let meant = if like.is_empty() { "`/help` lists them".to_owned() } else { format!("do you mean {}?", like.join(" or ")) };
    format!("there is no command `{name}`; {meant} (Up brings it back; a space before it sends it as it is)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        assert_eq!(parse("/help "), Some(Ok(Slash::Help)));
        assert_eq!(parse("/model openai/x"), Some(Ok(Slash::Model(Some("openai/x".to_owned())))));
        assert_eq!(parse("/etc/hosts is empty"), None);
        assert_eq!(parse("/"), None);
        assert_eq!(parse(" /help"), None);
        assert_eq!(parse("/help\nme"), None);
    }

    #[test]
    fn every_listed_command_is_known() {
        for command in &COMMANDS {
            let argument = if command.name == "/rename" { " x" } else { "" };
            assert!(matches!(parse(&format!("{}{argument}", command.name)), Some(Ok(_))), "{}", command.name);
        }
    }

    #[test]
    fn a_wrong_command_says_what_would_be_right() {
        let Some(Err(words)) = parse("/toods") else { panic!("not refused") };
        assert!(words.contains("/todos or /tools"), "{words}");
        assert!(matches!(parse("/effort much"), Some(Err(_))));
        assert!(matches!(parse("/quit now"), Some(Err(_))));
        assert!(matches!(parse("/rename"), Some(Err(_))));
    }

    #[test]
    fn exports_name_a_format_and_a_file() {
        let export = |format, path: Option<&str>| Some(Ok(Slash::Export { format, path: path.map(str::to_owned) }));
        assert_eq!(parse("/export"), export(ExportFormat::Markdown, None));
        assert_eq!(parse("/export html my file.html"), export(ExportFormat::Html, Some("my file.html")));
    }
}
