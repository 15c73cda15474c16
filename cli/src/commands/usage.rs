//! `longhand usage`: tokens used and what they cost, from the logs alone.
//!
//! A cost is worked out by the prices that are known now: a log says what was used, and never what it cost.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::models::model_table;
use crate::output::{self, Stdout};
use crate::resolve::resolve;
use crate::safe_text::safe_line;
use crate::table::{Column, table};
use crate::units::{When, parse_when};
use agent_runtime::{ModelTable, Spent};
use serde::Serialize;
use session_store::{AssistantMessage, ContextSummarized, Event, SessionId, SessionStore, Timestamp, UserKind};
use std::collections::BTreeMap;

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct UsageArgs {
    /// The sessions: their ids, exact names or the starts of their ids [default: all but those in the archive]
    pub(crate) ids: Vec<String>,
    /// What is summed up
    #[arg(long, value_name = "WHAT", default_value = "session")]
    pub(crate) by: By,
    /// Only calls since this date (like `2026-01-31`) or age (like `7d`)
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    pub(crate) since: Option<When>,
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
}

const HELP: &str = "\
Costs are in US dollars, by the prices that `longhand models` knows now; calls whose price is not known are counted apart. Days are
UTC. What a fork has from its parent counts for the parent.

With --json, one object: `by`, `total` and `rows`; each has `calls`, `input_tokens` (cached ones included), `output_tokens`, `cache_read_tokens`, `cache_write_tokens`,
`reasoning_tokens` (null or absent where no provider told), `cost_usd`, `unpriced_calls`, and a row `key`: a session's id, a day, a model, or for turns the
id and the `seq` of the message, as `ID:SEQ`.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    Turn,
    Session,
    Day,
    Model,
}

#[derive(Serialize)]
struct Usage {
    by: By,
    total: Spent,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    key: String,
    #[serde(flatten)]
    spent: Spent,
}

/// Sums up and tells.
pub(crate) async fn run(app: &App, args: UsageArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let models = model_table(app.home())?;
    let since = args.since.map(|when| when.first);
    let mut ids = Vec::new();
    if args.ids.is_empty() {
        let listed = store.list().await?;
        // What was not written since then has no call since then.
        ids.extend(
            listed.iter().filter(|session| since.is_none_or(|since| session.updated_at >= since)).map(|session| session.id),
        );
    }
    for id in &args.ids {
        ids.push(resolve(&store, id).await?);
    }
    let mut rows = BTreeMap::new();
    for id in ids {
        add_session(store.as_ref(), id, &args, since, &models, &mut rows).await?;
    }
    let mut total = Spent::default();
    rows.values().for_each(|spent| total.add_all(spent));
    let rows: Vec<Row> = rows.into_iter().map(|(key, spent)| Row { key, spent }).collect();
    print(&Usage { by: args.by, total, rows }, args.json)?;
    Ok(Exit::Done)
}

/// Adds the calls of a session to the rows that they belong to.
async fn add_session(
    store: &dyn SessionStore,
    id: SessionId,
    args: &UsageArgs,
    since: Option<Timestamp>,
    models: &ModelTable,
    rows: &mut BTreeMap<String, Spent>,
) -> Result<(), CliError> {
    let mut own: BTreeMap<String, Spent> = BTreeMap::new();
    let mut turn = 0;
    let mut entries = store.read(id, 0).await?;
    while let Some(entry) = entries.next().await? {
        match &entry.event {
            Event::SessionForked(_) => own.clear(),
            Event::UserMessage(user) if user.kind != UserKind::Steer => turn = entry.seq,
            Event::AssistantMessage(AssistantMessage { origin, .. })
            | Event::ContextSummarized(ContextSummarized { origin, .. })
                if since.is_none_or(|since| entry.at >= since) =>
            {
                let key = match args.by {
                    By::Turn => format!("{id}:{turn}"),
                    By::Session => id.to_string(),
                    By::Day => entry.at.to_string().chars().take(10).collect(),
                    By::Model if origin.provider == origin.model => origin.model.clone(),
                    By::Model => format!("{}/{}", origin.provider, origin.model),
                };
                own.entry(key).or_default().take_in(&entry.event, models);
            }
            _ => {}
        }
    }
    for (key, spent) in own {
        rows.entry(key).or_default().add_all(&spent);
    }
    Ok(())
}

fn print(usage: &Usage, json: bool) -> Result<(), CliError> {
    let mut out = Stdout::new();
    if json {
        let json = serde_json::to_string_pretty(usage).map_err(|error| CliError::failed(error.to_string()))?;
        out.raw(format!("{json}\n").as_bytes())?;
        return out.flush();
    }
    let title = match usage.by {
        By::Turn => "TURN",
        By::Session => "SESSION",
        By::Day => "DAY",
        By::Model => "MODEL",
    };
    let columns = [
        Column::Text(title),
        Column::Number("CALLS"),
        Column::Number("INPUT"),
        Column::Number("CACHED"),
        Column::Number("OUTPUT"),
        Column::Number("COST $"),
    ];
    let all = usage.rows.iter().map(|row| (row.key.as_str(), &row.spent)).chain([("total", &usage.total)]);
    let rows: Vec<_> = all.map(|(key, spent)| row(key, spent)).collect();
    for line in table(columns, &rows) {
        out.raw(format!("{line}\n").as_bytes())?;
    }
    out.flush()?;
    if usage.total.unpriced_calls > 0 {
        output::stderr(&format!(
            "{} of {} calls have no known cost; `longhand models` lists the prices that are known\n",
            usage.total.unpriced_calls, usage.total.calls
        ));
    }
    Ok(())
}

fn row(key: &str, spent: &Spent) -> [String; 6] {
    let tokens = |count: Option<u64>| count.map_or_else(String::new, |count| count.to_string());
    [
        safe_line(key).into_owned(),
        spent.calls.to_string(),
        tokens(spent.usage.input_tokens),
        tokens(spent.usage.cache_read_tokens),
        tokens(spent.usage.output_tokens),
        cost_words(spent),
    ]
}

/// What is known of a cost: `0.0123`, `0.0123+` where calls without a known price are in it, nothing where all are.
pub(crate) fn cost_words(spent: &Spent) -> String {
    match spent.unpriced_calls {
        0 => format!("{:.4}", spent.cost_usd),
        unpriced if unpriced == spent.calls => String::new(),
        _ => format!("{:.4}+", spent.cost_usd),
    }
}
