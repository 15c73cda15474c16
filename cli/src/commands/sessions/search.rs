//! `longhand sessions search`: messages of all sessions by their words, from the index, which is brought up to date first.
//!
//! The index is only a help. Where it cannot be used, every log is read, which finds the same.

use super::JsonArray;
use super::list::Directory;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::progress::Progress;
use crate::safe_text::safe_line;
use crate::transcript::{Painter, clock, count_words};
use crate::units::{When, parse_when};
use clap::ValueEnum;
use serde::Serialize;
use session_store::{
    Refreshed, SearchError, SearchHit, SearchIndex, SearchOrder, SearchQuery, SearchRole, Seq, SessionId, SessionStore,
    SessionSummary, Snippet, Timestamp, scan,
};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::slice;

/// How many findings people are shown where they do not say.
const SHOWN_MAX: usize = 50;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json, an array of objects: `session`, `name`, `title`, `seq`, `at`, `role`, `tool` (or null), `snippet`, and `marks` (what was found in the snippet, as \
[begin, end] in bytes).")]
pub(crate) struct SearchArgs {
    /// What to look for: messages that have all of these words; quote a phrase, end a word with `*` to find every word that begins so
    #[arg(required_unless_present_any = ["role", "tool", "rebuild"])]
    words: Vec<String>,
    /// Only messages without this word or phrase
    #[arg(long, value_name = "WORDS")]
    not: Vec<String>,
    /// Only what these said
    #[arg(long, value_enum, value_delimiter = ',')]
    role: Vec<Role>,
    /// Only calls of this tool and what came of them
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// Only with this model: `provider/name`, or either of them
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only sessions that were started in this directory or below it
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Not before this: `2026-01-31` (UTC), or an age as `12h`, `7d`, `6w`
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    since: Option<When>,
    /// Not after this
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    until: Option<When>,
    /// What fits best first, not the newest
    #[arg(long)]
    best: bool,
    /// Look into the archive, too: its sessions are in no index, so each is read
    #[arg(long)]
    archived: bool,
    /// Make the index anew first: a disk that changed it unnoticed may hide messages
    #[arg(long)]
    rebuild: bool,
    /// Stop after N findings [default: 50; with --json: all]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    User,
    Assistant,
    Reasoning,
    Tool,
}

impl From<Role> for SearchRole {
    fn from(role: Role) -> Self {
        match role {
            Role::User => Self::User,
            Role::Assistant => Self::Assistant,
            Role::Reasoning => Self::Reasoning,
            Role::Tool => Self::Tool,
        }
    }
}

fn query(args: &SearchArgs) -> Result<SearchQuery, CliError> {
    let mut query = args.words.iter().fold(SearchQuery::default(), |query, word| {
        // What the shell passed on in one piece was quoted.
        let is_phrase = word.contains(char::is_whitespace) && !word.contains('"');
        if is_phrase { query.and_phrase(word) } else { query.and(SearchQuery::parse(word)) }
    });
    if !args.words.is_empty() && !query.has_words() {
        return Err(CliError::usage("there is no word to search for")
            .hint("letters, digits and pictographs can be found; punctuation only separates"));
    }
    for word in &args.not {
        query = query.and_not(SearchQuery::default().and_phrase(word));
    }
    query.roles = args.role.iter().copied().map(SearchRole::from).collect();
    query.tool.clone_from(&args.tool);
    query.model.clone_from(&args.model);
    if let Some(cwd) = &args.cwd {
        query.folders = Directory::new(cwd)?.names();
    }
    query.since = args.since.map(|when| when.first);
    query.until = args.until.map(|when| when.last);
    query.order = if args.best { SearchOrder::Best } else { SearchOrder::Newest };
    Ok(query)
}

pub(super) async fn run(app: &App, args: SearchArgs) -> Result<Exit, CliError> {
    let query = query(&args)?;
    let store = app.file_store()?;
    let mut sessions = store.list().await?;
    if args.rebuild {
        let index = SearchIndex::new(app.home());
        index.remove().await.map_err(|error| not_rebuilt(&error))?;
        if args.words.is_empty() && args.role.is_empty() && args.tool.is_none() {
            let refreshed = refresh(app, &index, store.as_ref(), &sessions).await.map_err(|error| not_rebuilt(&error))?;
            output::stderr(&format!("the search index was made anew: {}\n", count_words(refreshed.added, "message")));
            return Ok(Exit::Done);
        }
    }
    let limit = args.limit.unwrap_or(if args.json { usize::MAX } else { SHOWN_MAX });
    let mut found = match by_index(app, store.as_ref(), &sessions, &query, limit).await {
        Ok(found) => found,
        Err(error) => {
            if app.is_verbose() {
                output::stderr(&format!("every log is read, because {error}\n"));
            }
            by_reading(store.as_ref(), &sessions, &query, limit).await
        }
    };
    let archived = store.list_archived();
    // What was found stands, whether the archive can be looked at or not.
    let left = match args.archived {
        true => {
            let archived = archived.await?;
            found.join(by_reading(store.as_ref(), &archived, &query, limit).await, &query, limit);
            sessions.extend(archived);
            0
        }
        false => store.archived_count().await.unwrap_or(0),
    };
    let sessions: HashMap<SessionId, &SessionSummary> = sessions.iter().map(|session| (session.id, session)).collect();
    match args.json {
        true => print_json(&found, &sessions)?,
        false => print_text(Painter::new(app.colors_stdout()), &found, &sessions)?,
    }
    if found.hits.is_empty() {
        output::stderr("nothing was found\n");
    } else if found.is_cut && !args.json {
        output::stderr("there is more; `-n N` shows N of it\n");
    }
    match left {
        0 => {}
        1 => output::stderr("the session in the archive is not searched; `--archived` searches it, too\n"),
        count => {
            output::stderr(&format!("the {count} sessions in the archive are not searched; `--archived` searches them, too\n"));
        }
    }
    Ok(Exit::Done)
}

/// What was found, up to the limit.
#[derive(Default)]
struct Found {
    hits: Vec<SearchHit>,
    is_cut: bool,
}

impl Found {
    fn take(&mut self, hit: SearchHit, limit: usize) -> ControlFlow<()> {
        self.is_cut = self.hits.len() >= limit;
        if self.is_cut {
            return ControlFlow::Break(());
        }
        self.hits.push(hit);
        ControlFlow::Continue(())
    }

    /// Adds what was found elsewhere: by its time, or behind the best.
    fn join(&mut self, other: Self, query: &SearchQuery, limit: usize) {
        self.hits.extend(other.hits);
        if query.order == SearchOrder::Newest {
            self.hits.sort_by_key(|hit| std::cmp::Reverse(hit.at));
        }
        self.is_cut |= other.is_cut || self.hits.len() > limit;
        self.hits.truncate(limit);
    }
}

fn not_rebuilt(error: &SearchError) -> CliError {
    CliError::new(Exit::Failed, error.to_string())
        .hint("the index is in the folder `index` of the home, which can be deleted at any time")
}

async fn by_index(
    app: &App,
    store: &dyn SessionStore,
    sessions: &[SessionSummary],
    query: &SearchQuery,
    limit: usize,
) -> Result<Found, SearchError> {
    let index = SearchIndex::new(app.home());
    let refreshed = refresh(app, &index, store, sessions).await?;
    match search(&index.of(&refreshed), store, query, limit).await {
        Err(SearchError::Damaged(why)) => {
            if app.is_verbose() {
                output::stderr(&format!("the search index is made anew, because it is damaged: {why}\n"));
            }
            index.remove().await?;
            let refreshed = refresh(app, &index, store, sessions).await?;
            search(&index.of(&refreshed), store, query, limit).await
        }
        found => found,
    }
}

async fn search(index: &SearchIndex, store: &dyn SessionStore, query: &SearchQuery, limit: usize) -> Result<Found, SearchError> {
    let mut found = Found::default();
    index.search(store, query, &mut |hit| found.take(hit, limit)).await?;
    Ok(found)
}

async fn refresh(
    app: &App,
    index: &SearchIndex,
    store: &dyn SessionStore,
    sessions: &[SessionSummary],
) -> Result<Refreshed, SearchError> {
    let progress = Progress::bytes("indexing", 0);
    let (mut done, mut total) = (0, 0);
    let mut report = |now: session_store::RefreshProgress| {
        // A damaged index is made anew, from the start.
        progress.add_total(now.total.saturating_sub(total));
        progress.add(now.done.saturating_sub(done));
        (done, total) = (now.done, now.total);
    };
    let refreshed = index.refresh(store, sessions, &mut report).await?;
    drop(progress);
    for (id, error) in &refreshed.unread {
        output::stderr(&format!("warning: {id}: {error}\n"));
    }
    if refreshed.is_busy {
        output::stderr("another process is indexing the sessions: what it has by now is searched\n");
    }
    if let Some(why) = refreshed.rebuilt.as_ref().filter(|_| app.is_verbose()) {
        output::stderr(&format!("the search index was made anew: {why}\n"));
    }
    Ok(refreshed)
}

async fn by_reading(store: &dyn SessionStore, sessions: &[SessionSummary], query: &SearchQuery, limit: usize) -> Found {
    let progress = Progress::count("searching", sessions.len() as u64);
    let mut found = Found::default();
    for session in sessions {
        for (id, error) in scan(store, slice::from_ref(session), query, &mut |hit| found.take(hit, limit)).await {
            progress.suspend(|| output::stderr(&format!("warning: {id}: {error}\n")));
        }
        if found.is_cut {
            break;
        }
        progress.add(1);
    }
    found
}

/// A message that was found, for programs.
#[derive(Debug, Serialize)]
struct Finding<'a> {
    session: SessionId,
    name: Option<&'a str>,
    title: Option<&'a str>,
    seq: Seq,
    at: Timestamp,
    role: SearchRole,
    tool: Option<&'a str>,
    snippet: &'a str,
    /// What was found in the snippet, as ranges of its bytes in UTF-8.
    marks: Vec<(usize, usize)>,
}

fn print_json(found: &Found, sessions: &HashMap<SessionId, &SessionSummary>) -> Result<(), CliError> {
    let mut array = JsonArray::begin(Stdout::new())?;
    for hit in &found.hits {
        let session = sessions.get(&hit.session);
        array.push(&Finding {
            session: hit.session,
            name: session.and_then(|session| session.name.as_deref()),
            title: session.and_then(|session| session.title.as_deref()),
            seq: hit.seq,
            at: hit.at,
            role: hit.role,
            tool: hit.tool.as_deref(),
            snippet: &hit.snippet.text,
            marks: hit.snippet.marks.iter().map(|mark| (mark.start, mark.end)).collect(),
        })?;
    }
    array.end("\n")
}

/// Prints the findings under a line for each session, in the order of the first finding of each.
fn print_text(painter: Painter, found: &Found, sessions: &HashMap<SessionId, &SessionSummary>) -> Result<(), CliError> {
    let mut out = Stdout::new();
    let mut groups: Vec<(SessionId, Vec<&SearchHit>)> = Vec::new();
    for hit in &found.hits {
        match groups.iter_mut().find(|(session, _)| *session == hit.session) {
            Some((_, hits)) => hits.push(hit),
            None => groups.push((hit.session, vec![hit])),
        }
    }
    for (id, hits) in groups {
        let session = sessions.get(&id);
        let title = session.and_then(|session| session.name.as_deref().or(session.title.as_deref())).unwrap_or("(untitled)");
        out.raw(format!("{}\n", painter.bold(&safe_line(&format!("{id}  {title}")))).as_bytes())?;
        for hit in hits {
            let who = hit.tool.as_deref().map_or_else(|| hit.role.name().to_owned(), |tool| safe_line(tool).into_owned());
            let head = painter.dim(&format!("{} {who}:", clock(hit.at)));
            out.raw(format!("  [{}] {head} {}\n", hit.seq, marked(painter, &hit.snippet)).as_bytes())?;
        }
    }
    out.flush()?;
    if let Some(hit) = found.hits.first() {
        output::stderr(&format!(
            "\nhint: `longhand replay {} --instant --at {}` shows a session up to a finding\n",
            hit.session, hit.seq
        ));
    }
    Ok(())
}

fn marked(painter: Painter, snippet: &Snippet) -> String {
    let (mut line, mut at) = (String::new(), 0);
    for mark in &snippet.marks {
        line += &safe_line(&snippet.text[at..mark.start]);
        line += &painter.bold(&safe_line(&snippet.text[mark.clone()]));
        at = mark.end;
    }
    line + &safe_line(&snippet.text[at..])
}
