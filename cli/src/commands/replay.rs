//! `longhand replay ID`: a session as it happened, paced by the times of its events. It only reads, so it works beside the process that
//! writes the session, on a damaged log and on a read-only disk.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::models::model_table;
use crate::output::{self, Stdout};
use crate::resolve::resolve;
use crate::safe_text::safe;
use crate::transcript::{LivePrinter, Painter, Transcript, count_words, duration_words};
use agent_runtime::rerun::{Cause, LeftOut, Present, Rerun, rerun};
use agent_runtime::{Runtime, tools};
use session_store::{Entry, Event, FileStore, Holder, Seq, SessionId, SessionStore, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// The longest that a replay waits between two events: people think longer than others want to watch.
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ReplayArgs {
    /// The session: its id, its exact name or the start of its id
    pub(crate) id: String,
    /// So many times as fast as it happened
    #[arg(long, value_name = "X", conflicts_with = "instant", value_parser = speed)]
    pub(crate) speed: Option<f64>,
    /// All at once
    #[arg(long)]
    pub(crate) instant: bool,
    /// Only up to and with this event, completed to a whole step
    #[arg(long, value_name = "SEQ")]
    pub(crate) at: Option<Seq>,
    /// Show nothing, and run it again instead: build each request from the log, and tell where this program would send another
    #[arg(long, conflicts_with_all = ["speed", "instant", "at"])]
    pub(crate) verify: bool,
    /// With `--verify`: as if the system prompt were this one
    #[arg(long, value_name = "TEXT", requires = "verify")]
    pub(crate) system_prompt: Option<String>,
    /// With `--verify`: print JSON for programs
    #[arg(long, requires = "verify")]
    pub(crate) json: bool,
}

const HELP: &str = "\
--verify asks no model and runs no tool. It builds the body of each request again from the log alone, and compares it with the recorded hash.
Then it runs the loop of this program over the session, with the recorded answers and results in their place, and stops at the first request that would be
another one, which it tells as a diff (`-` as recorded, `+` as it would be now), with what made the difference: the code, the profile (a tool), or the table of models.
The exit is 0 where nothing differs, and 1 where something does.

With --json, one object: `session`, `requests`, `rebuilt`, `not_recorded` (of older builds, which did not write the limits of a request), `unknown_models`, `changed` (an array of
`seq`), `resent`, `turns`, `left_out` (`seq`, `why`), and `difference` (null, or `seq`, `request`, `what`, `causes`, `diff`).";

/// Replays a session.
pub(crate) async fn run(app: &App, args: ReplayArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    if args.verify {
        return verify(app, store, id, args).await;
    }
    let loaded = store.load(id).await?;
    let is_open = !matches!(loaded.holder, Holder::Nobody);
    let mut pace = Pace { speed: if args.instant { None } else { Some(args.speed.unwrap_or(1.0)) }, last: None };
    if !args.instant {
        output::stderr(&format!("pauses of more than {} are cut to that\n", duration_words(PAUSE_MAX.as_millis() as u64)));
    }

    let upto = match args.at {
        Some(at) => Some(Runtime::new(Arc::clone(&store) as Arc<dyn SessionStore>).end_of_step(id, at).await?),
        None => None,
    };
    let mut out = Stdout::new();
    let mut printer = LivePrinter::new(Painter::new(app.colors_stdout()), Transcript::default());
    let mut entries = store.read(id, 0).await?;
    while let Some(entry) = entries.next().await? {
        if upto.is_some_and(|upto| entry.seq > upto) {
            break;
        }
        let pause = pace.before(&entry);
        if !pause.is_zero() {
            out.flush()?;
            tokio::time::sleep(pause).await;
        }
        out.raw(printer.push(&entry).as_bytes())?;
    }
    let ends_here = upto.is_none_or(|upto| upto >= loaded.state.next_seq.saturating_sub(1));
    out.raw(printer.finish(is_open && ends_here).as_bytes())?;
    out.flush()?;

    if is_open && ends_here {
        output::stderr(&format!("the session is still being written; `longhand sessions tail {id}` follows it\n"));
    }
    if !loaded.problems.is_empty() {
        let problems = count_words(loaded.problems.len() as u64, "problem");
        output::stderr(&format!("warning: its log has {problems}; `longhand sessions verify {id}` lists them\n"));
    }
    Ok(Exit::Done)
}

/// Runs the session again, and tells what differs.
async fn verify(app: &App, store: Arc<FileStore>, id: SessionId, args: ReplayArgs) -> Result<Exit, CliError> {
    let mut present = Present::with_clients(model_table(app.home())?, tools::builtin());
    present.tools_are_chosen = true;
    present.system = args.system_prompt;
    let again = rerun(store, id, present).await?;
    let mut out = Stdout::new();
    if args.json {
        let json = serde_json::to_string_pretty(&again).map_err(|error| CliError::failed(error.to_string()))?;
        out.raw(format!("{json}\n").as_bytes())?;
    } else {
        out.raw(safe(&words(&again)).as_bytes())?;
    }
    out.flush()?;
    Ok(if again.is_same() { Exit::Done } else { Exit::Failed })
}

fn words(again: &Rerun) -> String {
    let requests = count_words(again.requests, "request");
    let mut words = format!("{} of {requests} built again from the log, byte for byte\n", again.rebuilt);
    for (count, why) in [
        (again.not_recorded, "not recorded: an older build did not write their limits"),
        (again.unknown_models, "of models that this program does not know how to ask"),
        (again.changed.len() as u64, "built otherwise than they were"),
    ] {
        if count > 0 {
            words.push_str(&format!("  {count} {why}\n"));
        }
    }
    if !again.changed.is_empty() {
        words.push_str(&format!("  the first of these is event {}\n", again.changed[0]));
    }
    let turns = count_words(again.turns, "turn");
    words.push_str(&format!("{} sent again by this program, the same, in {turns}\n", count_words(again.resent, "request")));
    for LeftOut { seq, why } in &again.left_out {
        words.push_str(&format!("  the turn of event {seq} was not run to its end: {why}\n"));
    }
    match &again.difference {
        None if again.is_same() => words.push_str("nothing differs\n"),
        None => {}
        Some(difference) => {
            words.push_str(&format!("event {}, request {}: {}\n", difference.seq, difference.request, difference.what));
            for cause in &difference.causes {
                words.push_str(&match cause {
                    Cause::Code(what) => format!("  code: {what}\n"),
                    Cause::Profile(what) => format!("  profile: {what}\n"),
                    Cause::Models(what) => format!("  models: {what}\n"),
                    _ => String::new(),
                });
            }
            words.push_str(&difference.diff);
        }
    }
    words
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|speed: &f64| speed.is_finite() && *speed > 0.0).ok_or_else(|| "must be a number above 0".to_owned())
}

/// When to show what.
struct Pace {
    /// How many times as fast as it happened; absent: at once.
    speed: Option<f64>,
    /// When what is on the screen happened.
    last: Option<Timestamp>,
}

impl Pace {
    /// How long to wait before `entry` is shown. What nobody sees does not count as something happening, so the time
    /// before it belongs to what is seen next; between two owners nothing happened at all.
    fn before(&mut self, entry: &Entry) -> Duration {
        let Some(speed) = self.speed else { return Duration::ZERO };
        let last = self.last.replace(entry.at);
        if matches!(entry.event, Event::Opened(_)) {
            return Duration::ZERO;
        }
        // A clock that stepped back makes no pause.
        let ms = last.map_or(0, |last| (entry.at.as_ms() - last.as_ms()).max(0));
        Duration::from_secs_f64(ms as f64 / 1000.0 / speed).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use session_store::Note;

    fn pauses(speed: Option<f64>, times_ms: &[i64]) -> Vec<u128> {
        let mut pace = Pace { speed, last: None };
        let entry = |ms: &i64| Entry::new(0, Timestamp::from_ms(*ms), Note { text: String::new() });
        times_ms.iter().map(|ms| pace.before(&entry(ms)).as_millis()).collect()
    }

    #[test]
    fn pauses_are_those_that_were_but_never_long_or_negative() {
        assert_eq!(pauses(Some(1.0), &[1_000, 1_500, 900_000, 800_000, 800_250]), [0, 500, 2_000, 0, 250]);
    }

    #[test]
    fn speed_divides_and_instant_waits_for_nothing() {
        assert_eq!(pauses(Some(10.0), &[0, 5_000, 5_100]), [0, 500, 10]);
        assert_eq!(pauses(None, &[0, 5_000]), [0, 0]);
    }

    #[test]
    fn a_speed_is_a_number_above_nothing() {
        assert!(speed("2.5").is_ok());
        for text in ["0", "-1", "nan", "inf", "fast"] {
            assert!(speed(text).is_err(), "{text}");
        }
    }
}
