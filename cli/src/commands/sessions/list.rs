//! `longhand sessions list`.

use super::JsonArray;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout, tell_if_slow};
use crate::safe_text::safe_line;
use crate::transcript::Painter;
use session_store::{Clock, SessionListState, SessionStore, SessionSummary, SystemClock, Timestamp};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// The most columns that a model and a directory get on a terminal, and the fewest that a title and a directory need.
const MODEL_COLUMNS_MAX: usize = 24;
const DIRECTORY_COLUMNS_MAX: usize = 28;
const DIRECTORY_COLUMNS_MIN: usize = 12;
const TITLE_COLUMNS_MIN: usize = 24;
/// The fewest characters of an id.
const ID_CHARS_MIN: usize = 8;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json, an array of objects, the newest first: `id`, `name`, `title`, `cwd`, `model` (each null where there is none), `created_at`, `updated_at`, `messages`, \
`bytes` (what the log takes on the disk) and `state`: `open` while a process writes it, `idle`, or `damaged` where it holds no sound record.")]
pub(crate) struct ListArgs {
    /// Only sessions that were started in this directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// The sessions in the archive instead
    #[arg(long)]
    archived: bool,
    /// Only the newest N
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: ListArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let listed = async { if args.archived { store.list_archived().await } else { store.list().await } };
    let all = tell_if_slow(app.home(), listed).await?;
    let id_chars = id_chars(&all);
    let wanted = args.cwd.as_deref().map(Directory::new).transpose()?;
    let sessions: Vec<SessionSummary> = all
        .into_iter()
        .filter(|session| wanted.as_ref().is_none_or(|wanted| wanted.is(session.cwd.as_deref())))
        .take(args.n.unwrap_or(usize::MAX))
        .collect();

    if args.json {
        let mut array = JsonArray::begin(Stdout::new())?;
        sessions.iter().try_for_each(|session| array.push(session))?;
        array.end("\n")?;
    } else if sessions.is_empty() {
        output::stderr("no sessions\n");
    } else {
        let width = if std::io::stdout().is_terminal() { terminal_columns() } else { None };
        let painter = Painter::new(app.colors_stdout());
        let table = Table { now: SystemClock.now(), id_chars, width, home: app.env("HOME"), painter };
        let mut out = Stdout::new();
        out.raw(table.lines(&sessions).as_bytes())?;
        out.flush()?;
        tell_damaged(&sessions);
    }
    Ok(Exit::Done)
}

/// Says what to do about sessions that hold no sound record.
pub(super) fn tell_damaged(sessions: &[SessionSummary]) {
    let mut damaged = sessions.iter().filter(|session| session.state == SessionListState::Damaged);
    let Some(first) = damaged.next() else { return };
    let (count, one) = match damaged.count() {
        0 => ("1 session is".to_owned(), first.id.to_string()),
        more => (format!("{} sessions are", more + 1), "ID".to_owned()),
    };
    output::stderr(&format!("warning: {count} damaged; `longhand sessions verify {one}` says what is wrong, line by line\n"));
}

fn terminal_columns() -> Option<usize> {
    crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|columns| *columns > 0)
}

/// A directory as typed, and as it is without links.
pub(super) struct Directory {
    absolute: PathBuf,
    real: Option<PathBuf>,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Result<Self, CliError> {
        let absolute = std::path::absolute(path).map_err(CliError::io("find", path))?;
        let real = std::fs::canonicalize(&absolute).ok();
        Ok(Self { absolute, real })
    }

    /// Under which names it may be recorded.
    pub(super) fn names(&self) -> Vec<String> {
        std::iter::once(&self.absolute).chain(&self.real).map(|path| path.to_string_lossy().into_owned()).collect()
    }

    pub(super) fn is(&self, cwd: Option<&str>) -> bool {
        cwd.map(Path::new).is_some_and(|cwd| cwd == self.absolute || self.real.as_deref() == Some(cwd))
    }
}

/// How many characters of an id tell every session from the others.
fn id_chars(sessions: &[SessionSummary]) -> usize {
    let mut ids: Vec<String> = sessions.iter().map(|session| session.id.to_string()).collect();
    ids.sort_unstable();
    let shared = |pair: &[String]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    let longest = ids.windows(2).map(shared).max().map_or(0, |shared| shared + 1);
    // An id that ends in its hyphen looks cut.
    match longest.max(ID_CHARS_MIN) {
        9 | 14 | 19 | 24 => longest + 1,
        chars => chars,
    }
}

/// The places of the columns that are treated in a way of their own.
const MESSAGES: usize = 2;
const MODEL: usize = 4;
const DIRECTORY: usize = 5;
const TITLE: usize = 6;

/// How the list looks.
struct Table<'a> {
    now: Timestamp,
    id_chars: usize,
    /// The columns of the terminal; absent: nothing is cut.
    width: Option<usize>,
    /// Shown as `~`.
    home: Option<&'a str>,
    painter: Painter,
}

impl Table<'_> {
    fn lines(&self, sessions: &[SessionSummary]) -> String {
        let head = ["ID", "CHANGED", "MESSAGES", "STATE", "MODEL", "DIRECTORY", "TITLE"].map(str::to_owned);
        let rows: Vec<[String; 7]> = std::iter::once(head).chain(sessions.iter().map(|session| self.row(session))).collect();
        let widths = self.widths(&rows);
        let mut out = String::new();
        for (place, row) in rows.iter().enumerate() {
            let line = line(row, widths);
            out += &if place == 0 { self.painter.bold(&line) } else { line };
            out.push('\n');
        }
        out
    }

    fn row(&self, session: &SessionSummary) -> [String; 7] {
        let state = match session.state {
            SessionListState::Open => "open",
            SessionListState::Idle => "idle",
            SessionListState::Damaged => "damaged",
        };
        let title = session.name.as_deref().or(session.title.as_deref()).unwrap_or("");
        [
            session.id.to_string().chars().take(self.id_chars).collect(),
            ago(session.updated_at, self.now),
            session.messages.to_string(),
            state.to_owned(),
            safe_line(session.model.as_deref().unwrap_or("")).into_owned(),
            safe_line(&self.short_directory(session.cwd.as_deref().unwrap_or(""))).into_owned(),
            safe_line(title).into_owned(),
        ]
    }

    fn short_directory(&self, cwd: &str) -> String {
        match self.home.and_then(|home| cwd.strip_prefix(home)) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("~{rest}"),
            _ => cwd.to_owned(),
        }
    }

    /// The width of each column: what it needs, and on a terminal what there is, the title taking the rest.
    fn widths(&self, rows: &[[String; 7]]) -> [usize; 7] {
        let mut widths = [0; 7];
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        match self.width {
            Some(columns) => fit(widths, columns),
            None => widths,
        }
    }
}

/// Makes columns fit a terminal: on a narrow one the model goes first, then the directory's start, then all of it.
fn fit(mut widths: [usize; 7], columns: usize) -> [usize; 7] {
    let taken = |widths: &[usize; 7]| widths[..TITLE].iter().filter(|width| **width > 0).map(|width| width + 2).sum::<usize>();
    let lacking = |widths: &[usize; 7]| (taken(widths) + TITLE_COLUMNS_MIN.min(widths[TITLE])).saturating_sub(columns);
    widths[MODEL] = widths[MODEL].min(MODEL_COLUMNS_MAX);
    widths[DIRECTORY] = widths[DIRECTORY].min(DIRECTORY_COLUMNS_MAX);
    if lacking(&widths) > 0 {
        widths[MODEL] = 0;
    }
    widths[DIRECTORY] = match widths[DIRECTORY].saturating_sub(lacking(&widths)) {
        width if width < DIRECTORY_COLUMNS_MIN && lacking(&widths) > 0 => 0,
        width => width,
    };
    widths[TITLE] = widths[TITLE].min(columns.saturating_sub(taken(&widths)));
    widths
}

fn line(row: &[String; 7], widths: [usize; 7]) -> String {
    let mut out = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate().filter(|(_, (_, width))| *width > 0) {
        // The end of a path says more than its start.
        let cell = if column == DIRECTORY && cell != "DIRECTORY" { cut_start(cell, width) } else { cut_end(cell, width) };
        let pad = " ".repeat(width.saturating_sub(cell.width()));
        // Numbers stand below each other's ends.
        out += &if column == MESSAGES { format!("{pad}{cell}") } else { format!("{cell}{pad}") };
        out += "  ";
    }
    out.trim_end().to_owned()
}

fn cut_end(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    taken(text.graphemes(true), width.saturating_sub(1)).concat() + "…"
}

fn cut_start(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut end = taken(text.graphemes(true).rev(), width.saturating_sub(1));
    end.reverse();
    "…".to_owned() + &end.concat()
}

/// As many graphemes as fit `width`.
fn taken<'a>(graphemes: impl Iterator<Item = &'a str>, width: usize) -> Vec<&'a str> {
    let mut used = 0;
    let fits = |grapheme: &&str| {
        used += grapheme.width();
        used <= width
    };
    graphemes.take_while(fits).collect()
}

/// How long before `now` something was.
fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_ms() - at.as_ms()) / 1000;
    match seconds {
        // A clock that stepped back, or that of another machine.
        ..0 => at.to_string()[..10].to_owned(),
        0..60 => "now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        86_400..2_592_000 => format!("{} d ago", seconds / 86_400),
        _ => at.to_string()[..10].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn session(last: u32, minutes_ago: i64, title: &str) -> SessionSummary {
        SessionSummary {
            id: format!("019a0000-0000-7000-8000-{last:012}").parse().expect("an id"),
            name: None,
            title: Some(title.to_owned()),
            cwd: Some("/home/me/projects/longhand".to_owned()),
            model: Some("anthropic/claude-sonnet".to_owned()),
            created_at: Timestamp::from_ms(0),
            updated_at: Timestamp::from_ms(NOW_MS - minutes_ago * 60_000),
            messages: u64::from(last) * 9,
            bytes: 1,
            state: SessionListState::Idle,
        }
    }

    fn table(width: Option<usize>, sessions: &[SessionSummary]) -> String {
        let now = Timestamp::from_ms(NOW_MS);
        let painter = Painter::new(false);
        Table { now, id_chars: 8, width, home: Some("/home/me"), painter }.lines(sessions)
    }

    #[test]
    fn a_pipe_gets_every_column_whole() {
        let sessions =
            [session(1, 0, "Fix the parser"), session(12, 90, "日本語のタイトル"), session(3, 60 * 24 * 3, "a\x1b[31m\nb")];
        insta::assert_snapshot!(table(None, &sessions), @r"
        ID        CHANGED  MESSAGES  STATE  MODEL                    DIRECTORY            TITLE
        019a0000  now             9  idle   anthropic/claude-sonnet  ~/projects/longhand  Fix the parser
        019a0000  1 h ago       108  idle   anthropic/claude-sonnet  ~/projects/longhand  日本語のタイトル
        019a0000  3 d ago        27  idle   anthropic/claude-sonnet  ~/projects/longhand  a\x1b[31m\nb
        ");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let titles = [
            "Fix the parser of the configuration file, then the tests",
            "とても長い日本語のタイトルがここにあります",
            "👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀",
        ];
        let sessions: Vec<SessionSummary> = titles.iter().map(|title| session(1, 3, title)).collect();
        for width in [50, 70, 80, 100, 120, 200] {
            for line in table(Some(width), &sessions).lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        insta::assert_snapshot!(table(Some(80), &sessions), @r"
        ID        CHANGED    MESSAGES  STATE  DIRECTORY         TITLE
        019a0000  3 min ago         9  idle   …ojects/longhand  Fix the parser of the c…
        019a0000  3 min ago         9  idle   …ojects/longhand  とても長い日本語のタイ…
        019a0000  3 min ago         9  idle   …ojects/longhand  👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀👩‍🚀
        ");
    }

    #[test]
    fn ids_are_as_long_as_it_takes_to_tell_them_apart() {
        assert_eq!(id_chars(&[session(1, 0, "")]), 8);
        assert_eq!(id_chars(&[session(1, 0, ""), session(2, 0, "")]), 36);
    }

    #[test]
    fn times_are_relative_for_a_month() {
        let at = |minutes: i64| ago(Timestamp::from_ms(NOW_MS - minutes * 60_000), Timestamp::from_ms(NOW_MS));
        assert_eq!(
            [at(0), at(59), at(60), at(60 * 24), at(60 * 24 * 29)],
            ["now", "59 min ago", "1 h ago", "1 d ago", "29 d ago"]
        );
        assert_eq!([at(60 * 24 * 31), at(-5)], ["2026-12-15", "2027-01-15"]);
    }
}
