//! The fault server, to be run by hand: `fault-server [--port PORT] [--lenient] SCRIPT`.
//!
//! SCRIPT is a JSON array of answers, or a file that holds one; they are used in order, and the last one is used again and
//! again. Each request is printed as it comes. Example:
//!
//! ```text
//! fault-server '[{"status": {"status": 529}}, {"reply": {"parts": [{"text": "Hello there."}], "pace_ms": 100}}]'
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program to be run by hand talks on stdout and stderr")]

use fault_server::{Answer, FaultServer, Script};
use std::collections::VecDeque;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("fault-server: {why}\n\nusage: fault-server [--port PORT] [--lenient] SCRIPT");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (mut port, mut strict, mut script) = (0_u16, true, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--port" => port = arguments.next().ok_or("--port needs a number")?.parse()?,
            "--lenient" => strict = false,
            _ => script = Some(argument),
        }
    }
    let script = script.ok_or("a script is needed")?;
    let json = if script.trim_start().starts_with('[') { script } else { std::fs::read_to_string(script)? };
    let mut answers: VecDeque<Answer> = serde_json::from_str(&json)?;
    let server = FaultServer::start_at(
        &format!("127.0.0.1:{port}"),
        strict,
        Script::by(move |request| {
            println!("{} {} {} bytes", request.method, request.path, request.raw.len());
            let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            next.unwrap_or_else(|| Answer::error(400, "fault server: the script is empty"))
        }),
    )?;
    println!("ANTHROPIC_BASE_URL={}", server.url());
    println!("OPENAI_BASE_URL={}", server.openai_url());
    loop {
        std::thread::park();
    }
}
