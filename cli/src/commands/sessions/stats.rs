//! `longhand sessions stats`: what the sessions take, by age, folder and model, and how that grows.
//!
//! Sizes come from the files' lengths, everything else from the sessions' own records: file times say when a home was copied.

use super::json;
use super::list::tell_damaged;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::Stdout;
use crate::progress::Progress;
use crate::safe_text::safe_line;
use crate::table::{Column, table};
use crate::transcript::{Painter, count_words};
use crate::units::size_words;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use session_store::{
    Clock, Quota, SessionId, SessionListState, SessionSpace, SessionStore, SessionSummary, Space, SystemClock, Timestamp, Usage,
};
use std::collections::BTreeMap;

const DAY_MS: i64 = 86_400_000;
/// How many weeks of growth are told.
const WEEKS: usize = 8;
/// How many sessions are read at a time.
const READS: usize = 4;

#[derive(Debug, clap::Args)]
#[command(after_long_help = JSON_HELP)]
pub(crate) struct StatsArgs {
    /// How many directories and sessions are named
    #[arg(short, value_name = "N", default_value_t = 10)]
    n: usize,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

const JSON_HELP: &str = "\
With --json, one object: `sessions`, `open`, `damaged`, `archived` (numbers); `bytes` with `logs`, `cold`, `side_files`, `archive`,
`index`, `repaired`, `leftovers`, `total`; `quota` (null, or `used_bytes` and `limit_bytes`); `by_age` (`age`, `sessions`, `bytes`), `by_cwd` (`cwd`, ...), `by_model` (`model`, ...,
`input_tokens`, `output_tokens`, `cache_read_tokens`: null where no provider told), `growth` (`week_of`, ...: the sessions that began
in the seven days from then on, and what they take now), `largest` (`id`, `title`, `bytes`). Ages are since the last event. Tokens count for
the model that a session had last.";

/// All that is told.
#[derive(Serialize)]
struct Stats {
    sessions: usize,
    open: usize,
    damaged: usize,
    archived: usize,
    bytes: Bytes,
    quota: Option<Quota>,
    by_age: Vec<Part<Age>>,
    by_cwd: Vec<Part<Cwd>>,
    by_model: Vec<Part<Model>>,
    growth: Vec<Part<Week>>,
    largest: Vec<Large>,
}

#[derive(Serialize)]
struct Bytes {
    logs: u64,
    cold: u64,
    side_files: u64,
    archive: u64,
    index: u64,
    repaired: u64,
    leftovers: u64,
    total: u64,
}

/// Some of the sessions.
#[derive(Serialize)]
struct Part<Name> {
    #[serde(flatten)]
    name: Name,
    sessions: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Age {
    age: &'static str,
}

#[derive(Serialize)]
struct Cwd {
    cwd: Option<String>,
}

#[derive(Serialize)]
struct Model {
    model: Option<String>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_tokens: Option<u64>,
}

#[derive(Serialize)]
struct Week {
    week_of: String,
}

#[derive(Serialize)]
struct Large {
    id: SessionId,
    title: Option<String>,
    bytes: u64,
}

pub(super) async fn run(app: &App, args: StatsArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let summaries = store.list().await?;
    let space = store.space().await?;
    let usages = usages(store.as_ref(), &summaries).await;
    let mut stats = Stats::of(&summaries, &space, &usages, SystemClock.now(), args.n);
    stats.quota = app.quota_bytes().map(|limit| Quota::new(space.total(), limit));
    let mut out = Stdout::new();
    if args.json {
        out.raw(&json(&stats)?)?;
        out.raw(b"\n")?;
    } else {
        out.raw(stats.lines(Painter::new(app.colors_stdout()), app.env("HOME")).as_bytes())?;
    }
    out.flush()?;
    if !args.json {
        tell_damaged(&summaries);
    }
    Ok(Exit::Done)
}

/// The tokens that each session used. One that cannot be read used none that are known.
async fn usages(store: &dyn SessionStore, summaries: &[SessionSummary]) -> BTreeMap<SessionId, Usage> {
    let progress = Progress::count("reading", summaries.len() as u64);
    let loads = stream::iter(summaries).map(|session| async {
        let loaded = store.load(session.id).await;
        progress.add(1);
        Some((session.id, loaded.ok()?.state.usage))
    });
    loads.buffer_unordered(READS).filter_map(std::future::ready).collect().await
}

impl Stats {
    fn of(
        summaries: &[SessionSummary],
        space: &Space,
        usages: &BTreeMap<SessionId, Usage>,
        now: Timestamp,
        named_max: usize,
    ) -> Self {
        let bytes_of = |session: &SessionSummary| space.sessions.get(&session.id).map_or(session.bytes, SessionSpace::total);
        let in_state = |state| summaries.iter().filter(|session| session.state == state).count();
        Self {
            sessions: summaries.len(),
            open: in_state(SessionListState::Open),
            damaged: in_state(SessionListState::Damaged),
            archived: space.archived.len(),
            bytes: Bytes::of(space),
            quota: None,
            by_age: by_age(summaries, bytes_of, now),
            by_cwd: by_cwd(summaries, bytes_of, named_max),
            by_model: by_model(summaries, bytes_of, usages),
            growth: growth(summaries, bytes_of, now),
            largest: largest(summaries, bytes_of, named_max),
        }
    }

    fn lines(&self, painter: Painter, home: Option<&str>) -> String {
        let Bytes { logs, cold, side_files, archive, index, repaired, leftovers, total } = self.bytes;
        let mut out = format!(
            "{}, {} open, {} damaged, {} in the archive; {} on the disk{}\n",
            count_words(self.sessions as u64, "session"),
            self.open,
            self.damaged,
            self.archived,
            size_words(total),
            self.quota.map_or_else(String::new, |quota| {
                format!(", {}% of the quota of {}", quota.percent(), size_words(quota.limit_bytes))
            }),
        );
        let parts = [
            ("logs", logs),
            ("compressed logs", cold),
            ("side files", side_files),
            ("archive", archive),
            ("index", index),
            ("kept by repairs", repaired),
            ("leftovers", leftovers),
        ];
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| format!("{name} {}", size_words(*bytes)));
        let parts: Vec<_> = parts.collect();
        if !parts.is_empty() {
            out += &format!("{}\n", parts.join(", "));
        }
        let mut add = |lines: Vec<String>| {
            let mut lines = lines.iter();
            if let Some(head) = lines.next().filter(|_| lines.len() > 0) {
                out += &format!("\n{}\n", painter.bold(head));
            }
            lines.for_each(|line| out += &format!("{line}\n"));
        };
        let sizes = [Column::Number("SESSIONS"), Column::Number("SIZE")];
        let [sessions, size] = sizes;
        add(table([Column::Text("LAST EVENT"), sessions, size], &rows(&self.by_age, |part| part.age.to_owned())));
        let mut weeks = rows(&self.growth, |part| part.week_of.clone());
        // Before the oldest session there was nothing to grow.
        let oldest = weeks.iter().rposition(|[_, sessions, _]| sessions != "0").map_or(0, |at| at + 1);
        weeks.truncate(oldest);
        add(table([Column::Text("BEGUN IN 7 DAYS FROM"), sessions, size], &weeks));
        let cwd = |part: &Cwd| short_directory(part.cwd.as_deref().unwrap_or("(none)"), home);
        add(table([Column::Text("DIRECTORY"), sessions, size], &rows(&self.by_cwd, cwd)));
        let tokens = |tokens: Option<u64>| tokens.map_or("-".to_owned(), |tokens| tokens.to_string());
        let models = self.by_model.iter().map(|part| {
            let Model { model, input_tokens, output_tokens, .. } = &part.name;
            let name = safe_line(model.as_deref().unwrap_or("(none)")).into_owned();
            [name, part.sessions.to_string(), size_words(part.bytes), tokens(*input_tokens), tokens(*output_tokens)]
        });
        let [input, output] = [Column::Number("TOKENS IN"), Column::Number("TOKENS OUT")];
        add(table([Column::Text("MODEL"), sessions, size, input, output], &models.collect::<Vec<_>>()));
        let largest = self.largest.iter().map(|session| {
            let title = safe_line(session.title.as_deref().unwrap_or("(untitled)")).into_owned();
            [session.id.to_string(), size_words(session.bytes), title]
        });
        add(table([Column::Text("LARGEST"), size, Column::Text("TITLE")], &largest.collect::<Vec<_>>()));
        out
    }
}

fn rows<Name>(parts: &[Part<Name>], name: impl Fn(&Name) -> String) -> Vec<[String; 3]> {
    parts
        .iter()
        .map(|part| [safe_line(&name(&part.name)).into_owned(), part.sessions.to_string(), size_words(part.bytes)])
        .collect()
}

fn short_directory(cwd: &str, home: Option<&str>) -> String {
    match home.and_then(|home| cwd.strip_prefix(home)) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("~{rest}"),
        _ => cwd.to_owned(),
    }
}

impl Bytes {
    fn of(space: &Space) -> Self {
        let sum = |part: fn(&SessionSpace) -> u64| space.sessions.values().map(part).sum();
        Self {
            logs: sum(|session| session.log_bytes),
            cold: sum(|session| session.cold_bytes),
            side_files: sum(|session| session.side_bytes),
            archive: space.archive_bytes(),
            index: space.index_bytes,
            repaired: space.repaired_bytes,
            leftovers: space.leftover_bytes,
            total: space.total(),
        }
    }
}

type Sessions<'a> = &'a [SessionSummary];

fn part<'a, Name>(
    name: Name,
    sessions: impl Iterator<Item = &'a SessionSummary>,
    bytes_of: impl Fn(&SessionSummary) -> u64,
) -> Part<Name> {
    sessions.fold(Part { name, sessions: 0, bytes: 0 }, |part, session| Part {
        sessions: part.sessions + 1,
        bytes: part.bytes + bytes_of(session),
        ..part
    })
}

fn by_age(sessions: Sessions<'_>, bytes_of: impl Fn(&SessionSummary) -> u64 + Copy, now: Timestamp) -> Vec<Part<Age>> {
    let ages = [("a day", i64::MIN, 1), ("a week", 1, 7), ("a month", 7, 30), ("older", 30, i64::MAX)];
    let parts = ages.map(|(age, from, to)| {
        // A clock may have stepped back: what lies ahead is of today.
        let days = |session: &SessionSummary| (now.as_ms() - session.updated_at.as_ms()).div_euclid(DAY_MS);
        part(Age { age }, sessions.iter().filter(|session| (from..to).contains(&days(session))), bytes_of)
    });
    parts.into()
}

/// The directories with the most bytes.
fn by_cwd(sessions: Sessions<'_>, bytes_of: impl Fn(&SessionSummary) -> u64 + Copy, named_max: usize) -> Vec<Part<Cwd>> {
    let mut groups: BTreeMap<Option<&str>, Vec<&SessionSummary>> = BTreeMap::new();
    sessions.iter().for_each(|session| groups.entry(session.cwd.as_deref()).or_default().push(session));
    let parts = groups.into_iter().map(|(cwd, group)| part(Cwd { cwd: cwd.map(str::to_owned) }, group.into_iter(), bytes_of));
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    parts.truncate(named_max);
    parts
}

fn by_model(
    sessions: Sessions<'_>,
    bytes_of: impl Fn(&SessionSummary) -> u64 + Copy,
    usages: &BTreeMap<SessionId, Usage>,
) -> Vec<Part<Model>> {
    let mut groups: BTreeMap<Option<&str>, Vec<&SessionSummary>> = BTreeMap::new();
    sessions.iter().for_each(|session| groups.entry(session.model.as_deref()).or_default().push(session));
    let parts = groups.into_iter().map(|(model, group)| {
        let mut sum = Usage::default();
        group.iter().filter_map(|session| usages.get(&session.id)).for_each(|usage| sum.add(usage));
        let Usage { input_tokens, output_tokens, cache_read_tokens, .. } = sum;
        let name = Model { model: model.map(str::to_owned), input_tokens, output_tokens, cache_read_tokens };
        part(name, group.into_iter(), bytes_of)
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    parts
}

/// The sessions that began in each of the last weeks, the newest week first; a week is seven days that end now.
fn growth(sessions: Sessions<'_>, bytes_of: impl Fn(&SessionSummary) -> u64 + Copy, now: Timestamp) -> Vec<Part<Week>> {
    let weeks = (0_i64..).take(WEEKS).map(|week| {
        let end = now.as_ms() - week * 7 * DAY_MS;
        let begin = end - 7 * DAY_MS;
        let is_in = |session: &&SessionSummary| {
            let at = session.created_at.as_ms();
            begin < at && (at <= end || week == 0)
        };
        let week_of = Timestamp::from_ms(begin).to_string()[..10].to_owned();
        part(Week { week_of }, sessions.iter().filter(is_in), bytes_of)
    });
    weeks.collect()
}

fn largest(sessions: Sessions<'_>, bytes_of: impl Fn(&SessionSummary) -> u64, named_max: usize) -> Vec<Large> {
    let mut all: Vec<Large> = sessions
        .iter()
        .map(|session| Large {
            id: session.id,
            title: session.name.clone().or_else(|| session.title.clone()),
            bytes: bytes_of(session),
        })
        .collect();
    all.sort_by_key(|session| (std::cmp::Reverse(session.bytes), session.id));
    all.truncate(named_max);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u32, days_old: i64, cwd: &str, model: &str) -> SessionSummary {
        let at = Timestamp::from_ms((1000 - days_old) * DAY_MS);
        SessionSummary {
            id: format!("019a0000-0000-7000-8000-{number:012}").parse().expect("an id"),
            name: None,
            title: Some(format!("session {number}")),
            cwd: Some(cwd.to_owned()),
            model: Some(model.to_owned()),
            created_at: at,
            updated_at: at,
            messages: 1,
            bytes: u64::from(number),
            state: SessionListState::Idle,
        }
    }

    #[test]
    fn every_session_counts_once_in_each_table() {
        let now = Timestamp::from_ms(1000 * DAY_MS);
        let sessions = [
            session(1, -3, "/a", "x"),
            session(2, 0, "/a", "y"),
            session(4, 6, "/b", "y"),
            session(8, 29, "/b", "y"),
            session(16, 900, "/c", "x"),
        ];
        let used = Usage { input_tokens: Some(5), ..Usage::default() };
        let usages = sessions.iter().map(|session| (session.id, used)).collect();
        let stats = Stats::of(&sessions, &Space::default(), &usages, now, 2);
        let counts = |parts: &[(usize, u64)]| parts.iter().fold((0, 0), |(n, bytes), part| (n + part.0, bytes + part.1));

        let ages: Vec<_> = stats.by_age.iter().map(|part| (part.sessions, part.bytes)).collect();
        assert_eq!(ages, [(2, 3), (1, 4), (1, 8), (1, 16)]);
        let models: Vec<_> = stats.by_model.iter().map(|part| (part.sessions, part.bytes)).collect();
        assert_eq!(counts(&models), (5, 31));
        assert_eq!(stats.by_model[0].name.input_tokens, Some(10), "{:?}", stats.by_model[0].name.model);
        assert_eq!(stats.by_cwd.iter().map(|part| part.bytes).collect::<Vec<_>>(), [16, 12], "the two largest");
        assert_eq!(stats.growth.iter().map(|part| part.sessions).sum::<usize>(), 4, "one is older");
        assert_eq!(stats.largest.iter().map(|session| session.bytes).collect::<Vec<_>>(), [16, 8]);
    }
}
