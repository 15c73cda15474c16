//! `longhand sessions tail`: a session while it is written, by this machine's other processes, until interrupted or until nobody reads
//! standard output any more. What is shown is written, perhaps not yet durable.

use super::export::cannot_read;
use super::show::is_open;
use crate::app::App;
use crate::error::{CliError, Exit};
use crate::output::Stdout;
use crate::raw_lines::RawLines;
use crate::resolve::resolve;
use crate::transcript::{LivePrinter, Painter, Transcript};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use session_store::{FileStore, SessionId, SessionStore};
use std::collections::VecDeque;
use std::time::Duration;

/// How often the file and standard output are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct TailArgs {
    /// The session: its id, its exact name or the start of its id
    id: String,
    /// Begin with the last N messages and remarks, or lines with `--json` [default: 10; with `--json`: all]
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Print the lines of the log as they are
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: TailArgs) -> Result<Exit, CliError> {
    let store = app.file_store()?;
    let id = resolve(store.as_ref(), &args.id).await?;
    let mut out = Stdout::new();
    let followed = tokio::select! {
        followed = async {
            match args.json {
                true => follow_lines(&store, id, args.n, &mut out).await,
                false => follow(app, store.as_ref(), id, args.n.unwrap_or(10), &mut out).await,
            }
        } => followed,
        () = stdout_closed() => Err(CliError::StdoutClosed),
    };
    followed.map(|()| Exit::Done)
}

/// Prints the last `n` items of what there is, then what comes.
async fn follow(app: &App, store: &dyn SessionStore, id: SessionId, n: usize, out: &mut Stdout) -> Result<(), CliError> {
    let painter = Painter::new(app.colors_stdout());
    let (transcript, last) = read_so_far(store, id, painter, n).await?;
    last.iter().try_for_each(|item| out.raw(item.as_bytes()))?;
    let next = transcript.state().next_seq;
    let mut printer = LivePrinter::new(painter, transcript);
    out.raw(printer.catch_up().as_bytes())?;
    let is_live = is_open(&store.load(id).await?.holder);
    out.raw(printer.running(is_live).as_bytes())?;
    out.flush()?;
    let mut entries = store.follow(id, next).await?;
    while let Some(entry) = entries.next().await? {
        out.raw(printer.push(&entry).as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

async fn read_so_far(
    store: &dyn SessionStore,
    id: SessionId,
    mut painter: Painter,
    n: usize,
) -> Result<(Transcript, VecDeque<String>), CliError> {
    let mut transcript = Transcript::default();
    let mut last = VecDeque::new();
    let mut entries = store.read(id, 0).await?;
    while let Some(entry) = entries.next().await? {
        last.extend(transcript.push(&entry).iter().map(|item| painter.item(item)));
        last.drain(..last.len().saturating_sub(n));
    }
    Ok((transcript, last))
}

/// Prints the last `n` lines of the log (absent: all), then what comes, as they are. Where the log is replaced (compressed, archived,
/// repaired), it goes on behind the event that was printed last.
async fn follow_lines(store: &FileStore, id: SessionId, n: Option<usize>, out: &mut Stdout) -> Result<(), CliError> {
    let mut lines = RawLines::new(store.raw_log(id).await?);
    if let Some(n) = n {
        lines.skip_to_last(n).map_err(cannot_read(id))?;
    }
    loop {
        while let Some(line) = lines.next_line().map_err(cannot_read(id))? {
            out.raw(line)?;
        }
        out.flush()?;
        if lines.log().is_replaced()? {
            let last = lines.last_seq();
            lines = RawLines::new(store.raw_log(id).await?);
            if let Some(last) = last {
                lines.skip_past(last).map_err(cannot_read(id))?;
            }
        } else {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Returns when nobody can read standard output any more, also while nothing is printed.
async fn stdout_closed() {
    while !is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_closed() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0) && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}
