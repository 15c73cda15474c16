//! `longhand sessions prune`: makes room, in two steps on purpose.
//!
//! The first puts sessions into the archive, where they take a fraction of their room and come back at any time. The second, `--delete`, removes sessions
//! for good, and only such as are in the archive. Either shows first what it would do. Never touched are: a session that is open, one with a
//! name (unless that is asked for), one that holds no sound record, and the newest of each directory, which `-c` goes on with.

use super::list::Directory;
use super::{ask, can_ask, json};
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::progress::Progress;
use crate::safe_text::safe_line;
use crate::table::{Column, table};
use crate::transcript::count_words;
use crate::units::{parse_age, parse_size, size_words};
use serde::Serialize;
use session_store::{
    Clock, FileStore, SessionId, SessionListState, SessionSpace, SessionStore, SessionSummary, StoreError, SystemClock, Timestamp,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Each rule that is given is enforced. Never touched are sessions that are open, that have a name (unless `--include-named`), that hold no sound record \
(`sessions repair` looks at those), and the newest of each directory. Ages are since a session's last event, by its own records.

With --json, one object: `action` (`archive` or `delete`), `done` (false with `--dry-run`), `bytes` and `freed_bytes`, `sessions` (`id`, `title`, `updated_at`, \
`bytes`, and `error`: why it was left alone after all, or null) and `kept` (`open`, `named`, `damaged`, `newest`: how many the rules would have chosen).")]
pub(crate) struct PruneArgs {
    /// Sessions without an event for so long, like `90d`
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// The oldest sessions, until all take no more than this, like `5GB`
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// None of the newest N; without another rule, all but these
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Only sessions that were started in this directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Sessions with a name, too
    #[arg(long)]
    include_named: bool,
    /// Remove sessions that are in the archive, for good, instead of archiving
    #[arg(long)]
    delete: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// A session, and what it takes.
struct Candidate {
    summary: SessionSummary,
    bytes: u64,
    is_archived: bool,
}

/// What the rules say.
#[derive(Clone, Copy)]
struct Rules {
    older_than: Option<Duration>,
    max_size: Option<u64>,
    keep_last: Option<usize>,
    include_named: bool,
}

/// How many sessions the rules would have chosen, but for this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Kept {
    open: u64,
    named: u64,
    damaged: u64,
    newest: u64,
}

/// What was chosen, and what became of it.
#[derive(Serialize)]
struct Report {
    action: &'static str,
    done: bool,
    bytes: u64,
    freed_bytes: u64,
    sessions: Vec<Chosen>,
    kept: Kept,
}

#[derive(Serialize)]
struct Chosen {
    id: SessionId,
    title: Option<String>,
    updated_at: Timestamp,
    bytes: u64,
    error: Option<String>,
}

pub(super) async fn run(app: &App, args: PruneArgs) -> Result<Exit, CliError> {
    if args.older_than.is_none() && args.max_size.is_none() && args.keep_last.is_none() {
        return Err(CliError::usage("no rule says which sessions to prune")
            .hint("give `--older-than AGE`, `--max-size SIZE` or `--keep-last N`; `--dry-run` shows what would be done"));
    }
    let store = app.file_store()?;
    let wanted = args.cwd.as_deref().map(Directory::new).transpose()?;
    let all = candidates(&store).await?;
    let is_in = |candidate: &&Candidate| wanted.as_ref().is_none_or(|wanted| wanted.is(candidate.summary.cwd.as_deref()));
    let newest = newest_by_cwd(&all);
    let pool: Vec<&Candidate> = all.iter().filter(is_in).filter(|candidate| candidate.is_archived == args.delete).collect();
    let PruneArgs { older_than, max_size, keep_last, include_named, .. } = args;
    let rules = Rules { older_than, max_size, keep_last, include_named };
    let (chosen, kept) = choose(pool, &newest, rules, SystemClock.now());
    let mut report = Report::new(args.delete, chosen, kept);

    if !args.dry_run && !report.sessions.is_empty() {
        if !args.yes {
            if !can_ask() {
                return Err(CliError::usage(format!("nobody can be asked whether to {} sessions", report.action))
                    .hint("`--dry-run` shows what would be done, `--yes` does it"));
            }
            output::stderr(&report.plan());
            if !ask(&report.question()).await {
                return Err(CliError::failed("nothing was changed"));
            }
        }
        report.carry_out(&store).await;
    }
    let mut out = Stdout::new();
    if args.json {
        out.raw(&json(&report)?)?;
        out.raw(b"\n")?;
    } else {
        out.raw(if report.done { report.outcome() } else { report.plan() }.as_bytes())?;
    }
    out.flush()?;
    let failed = report.sessions.iter().filter(|session| session.error.is_some()).count();
    match failed {
        0 => Ok(Exit::Done),
        failed => {
            Err(CliError::failed(format!("{} left alone", if failed == 1 { "1 session was" } else { "some sessions were" })))
        }
    }
}

/// All sessions, those in the archive too.
async fn candidates(store: &FileStore) -> Result<Vec<Candidate>, CliError> {
    let space = store.space().await?;
    let (sessions, archived) = (store.list().await?, store.list_archived().await?);
    let candidate = |summary: SessionSummary, is_archived: bool| {
        let taken = if is_archived { &space.archived } else { &space.sessions };
        let bytes = taken.get(&summary.id).map_or(summary.bytes, SessionSpace::total);
        Candidate { summary, bytes, is_archived }
    };
    let sessions = sessions.into_iter().map(|summary| candidate(summary, false));
    Ok(sessions.chain(archived.into_iter().map(|summary| candidate(summary, true))).collect())
}

/// The newest session of each directory, in the archive or not.
fn newest_by_cwd(all: &[Candidate]) -> HashMap<Option<&str>, SessionId> {
    let mut newest: HashMap<Option<&str>, &SessionSummary> = HashMap::new();
    for Candidate { summary, .. } in all {
        let known = newest.entry(summary.cwd.as_deref()).or_insert(summary);
        if (summary.updated_at, summary.id) > (known.updated_at, known.id) {
            *known = summary;
        }
    }
    newest.into_iter().map(|(cwd, summary)| (cwd, summary.id)).collect()
}

/// The sessions that the rules choose, oldest first.
fn choose<'a>(
    mut pool: Vec<&'a Candidate>,
    newest: &HashMap<Option<&str>, SessionId>,
    rules: Rules,
    now: Timestamp,
) -> (Vec<&'a Candidate>, Kept) {
    pool.sort_by_key(|candidate| (candidate.summary.updated_at, candidate.summary.id));
    let mut total: u64 = pool.iter().map(|candidate| candidate.bytes).sum();
    let ends = pool.len().saturating_sub(rules.keep_last.unwrap_or(0));
    let is_old = |candidate: &Candidate| {
        let age_ms = now.as_ms().saturating_sub(candidate.summary.updated_at.as_ms());
        rules.older_than.is_some_and(|limit| u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > limit.as_millis()))
    };
    let is_rest = rules.older_than.is_none() && rules.max_size.is_none();
    let (mut chosen, mut kept) = (Vec::new(), Kept::default());
    for candidate in &pool[..ends] {
        let is_too_much = rules.max_size.is_some_and(|max| total > max);
        if !(is_old(candidate) || is_too_much || is_rest) {
            continue;
        }
        let summary = &candidate.summary;
        match summary.state {
            SessionListState::Open => kept.open += 1,
            SessionListState::Damaged => kept.damaged += 1,
            SessionListState::Idle if summary.name.is_some() && !rules.include_named => kept.named += 1,
            SessionListState::Idle if newest.get(&summary.cwd.as_deref()) == Some(&summary.id) => kept.newest += 1,
            SessionListState::Idle => {
                total -= candidate.bytes;
                chosen.push(*candidate);
            }
        }
    }
    (chosen, kept)
}

impl Report {
    fn new(delete: bool, chosen: Vec<&Candidate>, kept: Kept) -> Self {
        let sessions = chosen.into_iter().map(|Candidate { summary, bytes, .. }| Chosen {
            id: summary.id,
            title: summary.name.clone().or_else(|| summary.title.clone()),
            updated_at: summary.updated_at,
            bytes: *bytes,
            error: None,
        });
        let sessions: Vec<Chosen> = sessions.collect();
        let bytes = sessions.iter().map(|session| session.bytes).sum();
        Self { action: if delete { "delete" } else { "archive" }, done: false, bytes, freed_bytes: 0, sessions, kept }
    }

    fn is_delete(&self) -> bool {
        self.action == "delete"
    }

    /// Does it, session by session. One that fails, because somebody uses it again, say, is left alone and holds up no other.
    async fn carry_out(&mut self, store: &FileStore) {
        let delete = self.is_delete();
        let progress = Progress::bytes(if delete { "deleting" } else { "archiving" }, self.bytes);
        for session in &mut self.sessions {
            let done = if delete { delete_one(store, session).await } else { archive_one(store, session).await };
            match done {
                Ok(freed) => self.freed_bytes += freed,
                Err(error) => session.error = Some(error),
            }
            progress.add(session.bytes);
        }
        self.done = true;
    }

    /// What would be done, or what is about to be.
    fn plan(&self) -> String {
        let left = self.kept_words();
        if self.sessions.is_empty() {
            let what = if self.is_delete() { "in the archive" } else { "stored" };
            return format!("nothing to do: the rules choose no session that is {what}{left}\n");
        }
        let rows: Vec<[String; 4]> = self
            .sessions
            .iter()
            .map(|session| {
                let title = safe_line(session.title.as_deref().unwrap_or("(untitled)")).into_owned();
                [session.id.to_string(), session.updated_at.to_string()[..10].to_owned(), size_words(session.bytes), title]
            })
            .collect();
        let columns = [Column::Text("ID"), Column::Text("LAST EVENT"), Column::Number("SIZE"), Column::Text("TITLE")];
        let lines = table(columns, &rows).join("\n");
        let what = if self.is_delete() { "would be removed from the archive, for good" } else { "would go into the archive" };
        format!("{lines}\n{}, {}, {what}{left}\n", count_words(self.sessions.len() as u64, "session"), size_words(self.bytes))
    }

    fn question(&self) -> String {
        let what = count_words(self.sessions.len() as u64, "session");
        if self.is_delete() { format!("Remove {what} for good?") } else { format!("Archive {what}?") }
    }

    fn outcome(&self) -> String {
        let mut out = String::new();
        for session in &self.sessions {
            if let Some(error) = &session.error {
                out += &format!("{}  left alone: {}\n", session.id, safe_line(error));
            }
        }
        let done = self.sessions.iter().filter(|session| session.error.is_none()).count() as u64;
        let what = if self.is_delete() { "removed" } else { "archived" };
        out += &format!("{what} {}, {} freed\n", count_words(done, "session"), size_words(self.freed_bytes));
        if !self.is_delete() && done > 0 {
            out += "they come back with `longhand sessions archive --undo ID`; `prune --delete` removes what is in the archive\n";
        }
        out
    }

    fn kept_words(&self) -> String {
        let Kept { open, named, damaged, newest } = self.kept;
        let counts = [
            (open, "in use"),
            (named, "with a name"),
            (damaged, "without a sound record"),
            (newest, "the newest of its directory"),
        ];
        let words: Vec<_> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if words.is_empty() { String::new() } else { format!("; left alone: {}", words.join(", ")) }
    }
}

/// Why a session is left alone.
const USED_MEANWHILE: &str = "it was used meanwhile";

async fn archive_one(store: &FileStore, session: &Chosen) -> Result<u64, String> {
    if is_changed(store, session).await? {
        return Err(USED_MEANWHILE.to_owned());
    }
    let packed = store.archive(session.id).await.map_err(|error| error.to_string())?;
    Ok(packed.before.saturating_sub(packed.after))
}

async fn delete_one(store: &FileStore, session: &Chosen) -> Result<u64, String> {
    let words = |error: StoreError| error.to_string();
    if !store.is_archived(session.id).await.map_err(words)? || is_changed(store, session).await? {
        return Err(USED_MEANWHILE.to_owned());
    }
    // It may be resumed in this very moment.
    store.remove_archived(session.id).await.map_err(words)?;
    Ok(session.bytes)
}

/// Whether it has new events since it was chosen.
async fn is_changed(store: &FileStore, session: &Chosen) -> Result<bool, String> {
    let loaded = store.load(session.id).await.map_err(|error| error.to_string())?;
    Ok(loaded.state.updated_at.is_some_and(|updated_at| updated_at != session.updated_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const TODAY: i64 = 1000;

    fn session(number: u32, days_old: i64, cwd: &str) -> Candidate {
        let at = Timestamp::from_ms((TODAY - days_old) * DAY_MS);
        let summary = SessionSummary {
            id: format!("019a0000-0000-7000-8000-{number:012}").parse().expect("an id"),
            name: None,
            title: None,
            cwd: Some(cwd.to_owned()),
            model: None,
            created_at: at,
            updated_at: at,
            messages: 1,
            bytes: 1,
            state: SessionListState::Idle,
        };
        Candidate { summary, bytes: 100, is_archived: false }
    }

    /// Sessions 1 to 6, the oldest first, two of each directory.
    fn six() -> Vec<Candidate> {
        let sessions = [(1, 500, "/a"), (2, 400, "/b"), (3, 300, "/c"), (4, 200, "/a"), (5, 100, "/b"), (6, 1, "/c")];
        sessions.map(|(number, days_old, cwd)| session(number, days_old, cwd)).into()
    }

    const NO_RULES: Rules = Rules { older_than: None, max_size: None, keep_last: None, include_named: false };

    fn days(days: u64) -> Option<Duration> {
        Some(Duration::from_secs(days * 86_400))
    }

    /// The numbers of the sessions that are chosen.
    fn chosen(all: &[Candidate], rules: Rules) -> (Vec<u32>, Kept) {
        let newest = newest_by_cwd(all);
        let (chosen, kept) = choose(all.iter().collect(), &newest, rules, Timestamp::from_ms(TODAY * DAY_MS));
        let number = |candidate: &&Candidate| candidate.summary.id.to_string()[24..].parse().expect("a number");
        (chosen.iter().map(number).collect(), kept)
    }

    #[test]
    fn each_rule_chooses_the_oldest_first() {
        let newest = |newest| Kept { newest, ..Kept::default() };
        let all = six();
        assert_eq!(chosen(&all, Rules { older_than: days(250), ..NO_RULES }), (vec![1, 2, 3], newest(0)));
        assert_eq!(chosen(&all, Rules { max_size: Some(450), ..NO_RULES }), (vec![1, 2], newest(0)));
        assert_eq!(chosen(&all, Rules { keep_last: Some(4), ..NO_RULES }), (vec![1, 2], newest(0)));
        assert_eq!(chosen(&all, Rules { older_than: days(350), max_size: Some(300), ..NO_RULES }), (vec![1, 2, 3], newest(0)));
        assert_eq!(chosen(&all, Rules { older_than: days(0), keep_last: Some(5), ..NO_RULES }), (vec![1], newest(0)));
        assert_eq!(chosen(&all, Rules { max_size: Some(1000), ..NO_RULES }), (vec![], newest(0)));
        assert_eq!(chosen(&all, Rules { keep_last: Some(100), ..NO_RULES }), (vec![], newest(0)));
    }

    #[test]
    fn the_newest_of_each_directory_stays_whatever_the_rules_say() {
        let everything = Rules { max_size: Some(0), ..NO_RULES };
        assert_eq!(chosen(&six(), everything), (vec![1, 2, 3], Kept { newest: 3, ..Kept::default() }));
    }

    #[test]
    fn what_is_in_use_named_or_damaged_stays() {
        let mut all = six();
        all[0].summary.state = SessionListState::Open;
        all[1].summary.name = Some("keep".to_owned());
        all[2].summary.state = SessionListState::Damaged;
        let everything = Rules { older_than: days(150), ..NO_RULES };
        assert_eq!(chosen(&all, everything), (vec![], Kept { open: 1, named: 1, damaged: 1, newest: 1 }));
        assert_eq!(chosen(&all, Rules { include_named: true, ..everything }).0, [2]);
    }

    #[test]
    fn a_clock_that_stepped_back_makes_nothing_old() {
        let all = [session(1, -5, "/a"), session(2, -6, "/a")];
        assert_eq!(chosen(&all, Rules { older_than: days(0), ..NO_RULES }).0, Vec::<u32>::new());
    }
}
