//! `longhand replay ID`: a session as it happened, paced by the times of its events. It only reads, so it works beside the process that
//! writes the session, on a damaged log and on a read-only disk.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::{self, Stdout};
use crate::resolve::resolve;
use crate::transcript::{LivePrinter, Painter, Transcript, count_words, duration_words};
use agent_runtime::Runtime;
use session_store::{Entry, Event, Holder, Seq, SessionStore, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// The longest that a replay waits between two events: people think longer than others want to watch.
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
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
}

/// Replays a session.
pub(crate) async fn run(app: &App, args: ReplayArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
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
