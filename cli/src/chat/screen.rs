//! The terminal: raw mode, and a thread that writes to it.
//!
//! Promises: the terminal's own mode comes back however the chat ends (a return, an error, a panic; a signal ends it by a return), and while it is stopped.
//! A terminal that takes nothing (Ctrl-S, a dead connection) stops the thread of this file and nothing else: while a painting is on its way, no other is
//! made, and what is to be printed waits in the state machine.
//!
//! Panics of tasks are caught and told by the runtime; their message would end in the middle of the live area, so it is kept and printed when the terminal
//! has its own mode again.

use super::live_area::{OnResize, Painter, Size};
use super::ui::Ui;
use crate::app::App;
use crossterm::terminal;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long leaving waits for a terminal that takes nothing.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);
/// Bracketed paste, off while other programs have the terminal.
const ENTER: &str = "\x1b[?2004h";
const LEAVE: &str = "\x1b[?2004l\x1b[?2026l\x1b[?25h";

/// What the writing thread and the chat share.
#[derive(Default)]
struct Shared {
    is_writing: AtomicBool,
    has_failed: AtomicBool,
    written: Notify,
}

/// The terminal in raw mode.
pub(super) struct Screen {
    painter: Painter,
    shared: Arc<Shared>,
    /// To the writing thread; at most one painting is on its way.
    paintings: Option<SyncSender<String>>,
    thread: Option<JoinHandle<()>>,
    is_raw: bool,
    panics: Panics,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// Where standard input is no terminal.
    pub(super) fn take(app: &App) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (paintings, queue) = sync_channel(1);
        let thread = std::thread::Builder::new().name("terminal".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || write_all(&queue, &shared)
        })?;
        let mut screen = Self {
            painter: Painter::new(app.colors_stdout(), on_resize(app)),
            shared,
            paintings: Some(paintings),
            thread: Some(thread),
            is_raw: false,
            panics: Panics::keep(),
        };
        screen.enter()?;
        Ok(screen)
    }

    /// Draws what has changed, unless a painting is still on its way; then [`Screen::written`] tells when to try again.
    pub(super) fn paint(&mut self, ui: &mut Ui, now: Instant) {
        if self.shared.is_writing.load(Ordering::Acquire) {
            return;
        }
        let frame = ui.frame(now);
        let painting = self.painter.paint(&ui.above.take(), frame, ui.size);
        if !painting.is_empty() {
            self.send(painting);
        }
    }

    /// Returns when a painting has reached the terminal. Cancel-safe.
    pub(super) async fn written(&self) {
        self.shared.written.notified().await;
    }

    /// Whether the terminal is gone.
    pub(super) fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Acquire)
    }

    /// Gives the terminal to another program, or to a shell: its own mode, and no live area.
    pub(super) async fn give(&mut self, ui: &mut Ui) {
        self.idle().await;
        // What is final stays, above.
        let painting = self.painter.paint(&ui.above.take(), super::live_area::Frame::default(), ui.size);
        let painting = painting + &self.painter.clear(ui.size) + LEAVE;
        if !self.shared.is_writing.load(Ordering::Acquire) {
            self.send(painting);
        }
        self.idle().await;
        self.cook();
    }

    /// Takes it back, wherever the cursor is now.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn take_back(&mut self) -> io::Result<()> {
        self.cook();
        self.painter.forget();
        self.enter()
    }

    /// Draws all anew, as Ctrl-L asks for.
    pub(super) fn redraw(&mut self, size: Size) {
        if self.shared.is_writing.load(Ordering::Acquire) {
            return;
        }
        // The screen's text goes to the scrollback, then all below the cursor is ours again.
        let painting = self.painter.clear(size) + &"\r\n".repeat(size.rows.saturating_sub(1)) + "\x1b[H";
        self.send(painting);
    }

    fn enter(&mut self) -> io::Result<()> {
        terminal::enable_raw_mode()?;
        self.is_raw = true;
        self.send(ENTER.to_owned());
        Ok(())
    }

    fn cook(&mut self) {
        if std::mem::take(&mut self.is_raw) {
            // Nothing can be done about a terminal that is gone.
            let _ = terminal::disable_raw_mode();
        }
    }

    fn send(&self, painting: String) {
        self.shared.is_writing.store(true, Ordering::Release);
        if self.paintings.as_ref().is_none_or(|paintings| paintings.try_send(painting).is_err()) {
            self.shared.is_writing.store(false, Ordering::Release);
        }
    }

    async fn idle(&self) {
        let idle = async {
            while self.shared.is_writing.load(Ordering::Acquire) {
                self.written().await;
            }
        };
        // Whatever the terminal took by then has to do.
        let _ = tokio::time::timeout(LAST_WORDS_WITHIN, idle).await;
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let was_raw = self.is_raw;
        self.paintings = None;
        if !self.shared.is_writing.load(Ordering::Acquire) {
            if let Some(thread) = self.thread.take() {
                // Its queue is closed and nothing is being written, so that it ends at once.
                let _ = thread.join();
            }
            if was_raw {
                let _ = write_now(&format!("\r\n{LEAVE}"));
            }
        }
        self.cook();
        self.panics.print();
    }
}

fn write_all(queue: &Receiver<String>, shared: &Shared) {
    while let Ok(painting) = queue.recv() {
        if write_now(&painting).is_err() {
            shared.has_failed.store(true, Ordering::Release);
        }
        shared.is_writing.store(false, Ordering::Release);
        shared.written.notify_one();
    }
}

fn write_now(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The size of the terminal now.
pub(super) fn size() -> Size {
    let (columns, rows) = terminal::size().unwrap_or((80, 24));
    // Some terminals say 0 before they know.
    let or = |value: u16, default| if value == 0 { default } else { usize::from(value) };
    Size { columns: or(columns, 80), rows: or(rows, 24) }
}

fn on_resize(app: &App) -> OnResize {
    let term = app.env("TERM").unwrap_or_default();
    let is_screen = term.starts_with("screen") && app.env("TMUX").is_none();
    let is_xterm = app.env("XTERM_VERSION").is_some();
    if term == "linux" || is_screen || is_xterm { OnResize::Cuts } else { OnResize::Reflows }
}

type Hook = dyn Fn(&std::panic::PanicHookInfo<'_>) + Send + Sync;

/// The messages of panics while the terminal is ours.
struct Panics {
    messages: Arc<Mutex<Vec<String>>>,
    before: Arc<Hook>,
}

impl Panics {
    fn keep() -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let before: Arc<Hook> = std::panic::take_hook().into();
        let kept = Arc::clone(&messages);
        std::panic::set_hook(Box::new(move |panic| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
        }));
        Self { messages, before }
    }

    fn print(&self) {
        if !std::thread::panicking() {
            let before = Arc::clone(&self.before);
            std::panic::set_hook(Box::new(move |panic| before(panic)));
        }
        for message in self.messages.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            crate::output::stderr(&format!("a defect of longhand: {message}\n"));
        }
    }
}
