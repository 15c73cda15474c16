//! A real terminal for the program, so that tests press keys and read what a person sees.

use crate::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::error::Error;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Longer than anything on a terminal takes.
const TOO_LONG: Duration = Duration::from_secs(30);

/// A process on a terminal of its own, 80 columns wide. Dropping it kills the process.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// Starts `command`, and says how long it took until `prompt` was on the terminal.
    ///
    /// # Errors
    /// There is no terminal to be had, or no such command, or it does not show the prompt.
    pub fn start(mut command: Command, prompt: &str) -> Outcome<(Self, Duration)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        rustix::termios::tcsetwinsize(&master, rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })?;
        let slave = PathBuf::from(OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes()));
        let slave = OpenOptions::new().read(true).write(true).open(slave)?;
        let master = File::from(master);
        let mut reader = master.try_clone()?;
        let (sender, output) = channel();
        // It ends when the last process on the terminal has: the read fails then.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut piece) {
                if sender.send(piece[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let start = Instant::now();
        let child = command.spawn()?;
        // The command holds the terminal open: the end of the child would not be seen.
        drop(command);
        let mut terminal = Self { child, master, output, seen: String::new() };
        terminal.wait_for(prompt)?;
        Ok((terminal, start.elapsed()))
    }

    /// Waits until `text` was shown after what was waited for before.
    ///
    /// # Errors
    /// It was not, for long; what was shown instead.
    pub fn wait_for(&mut self, text: &str) -> Outcome<()> {
        self.wait_for_any(&[text]).map(drop)
    }

    /// Waits until one of `texts` was shown after what was waited for before: which one, the first that was.
    ///
    /// # Errors
    /// None was, for long; what was shown instead.
    pub fn wait_for_any(&mut self, texts: &[&str]) -> Outcome<usize> {
        loop {
            let found =
                texts.iter().enumerate().filter_map(|(which, text)| Some((self.seen.find(text)? + text.len(), which))).min();
            if let Some((end, which)) = found {
                self.seen.drain(..end);
                return Ok(which);
            }
            match self.output.recv_timeout(TOO_LONG) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(format!("waited for {texts:?} in vain: {:?}", self.seen).into());
                }
            }
        }
    }

    /// Types `keys`.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_keys(&mut self, keys: &str) -> Outcome<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    /// The process.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Ends it as a closed window does.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(&mut self) -> Outcome<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).ok_or("a process id")?;
        kill_process(pid, Signal::HUP)?;
        let ended = wait_until(TOO_LONG, || self.child.try_wait().is_ok_and(|status| status.is_some()));
        if ended { Ok(()) } else { Err("it does not end".into()) }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
