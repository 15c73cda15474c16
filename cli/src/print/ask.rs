//! Asking on the terminal whether a tool may run, while standard input and output may be pipes.

use crate::safe_text::{safe, safe_line};
use agent_runtime::{Approval, ApprovalRequest, Approver};
use async_trait::async_trait;
use rustix::termios::{QueueSelector, tcflush};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The process's terminal, as somebody to ask.
pub(super) struct OnTerminal {
    terminal: Arc<File>,
    /// One question at a time.
    turn: Mutex<()>,
}

impl OnTerminal {
    /// The terminal, where there is one.
    pub(super) fn open() -> Option<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { terminal: Arc::new(terminal), turn: Mutex::new(()) })
    }
}

#[async_trait]
impl Approver for OnTerminal {
    async fn ask(&self, request: ApprovalRequest) -> Approval {
        let _turn = self.turn.lock().await;
        let terminal = Arc::clone(&self.terminal);
        // The thread stays in its read where the turn is stopped meanwhile; the process does not wait for it.
        let answer = tokio::task::spawn_blocking(move || ask(&terminal, &request)).await;
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Approval::Deny(format!("nobody could be asked: {error}")),
            Err(_) => Approval::Deny("nobody could be asked".to_owned()),
        }
    }
}

fn ask(terminal: &File, request: &ApprovalRequest) -> io::Result<Approval> {
    let mut out = terminal;
    write!(out, "\n{}\n{}\n", safe_line(&request.description), safe(&request.arguments))?;
    // What was typed before the question was there is no answer to it.
    tcflush(terminal, QueueSelector::IFlush)?;
    write!(out, "run `{}`? [y]es, [a]lways in this session, [n]o (a reason may follow): ", safe_line(&request.tool))?;
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line)?;
    Ok(meaning(&line))
}

/// Only a clear yes is one.
fn meaning(line: &str) -> Approval {
    let line = line.trim();
    match line.to_ascii_lowercase().as_str() {
        "y" | "yes" => Approval::Approve,
        "a" | "always" => Approval::ApproveAlways,
        _ => {
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let is_no = matches!(word.to_ascii_lowercase().as_str(), "" | "n" | "no");
            Approval::Deny(if is_no { rest.trim() } else { line }.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_approves() {
        assert_eq!(meaning("y\n"), Approval::Approve);
        assert_eq!(meaning(" YES \n"), Approval::Approve);
        assert_eq!(meaning("always\n"), Approval::ApproveAlways);
        assert_eq!(meaning(""), Approval::Deny(String::new()));
        assert_eq!(meaning("no, rather read it\n"), Approval::Deny("no, rather read it".to_owned()));
        assert_eq!(meaning("n rather read it\n"), Approval::Deny("rather read it".to_owned()));
        assert_eq!(meaning("yesterday\n"), Approval::Deny("yesterday".to_owned()));
    }
}
