//! What the program itself costs, as whole processes: starting, one turn with `-p`, and a chat that waits.
//!
//! `cargo bench -p longhand-tests --bench program`; an argument names the folder to work in (default: a temporary one), because a turn
//! waits for the disk. The program is the one that `LONGHAND_BIN` names, else it is built for release first. Ours and the references take turns, so that a
//! busy machine slows all of them. Linux only: sizes and times are read from `/proc`. The peak of the memory is taken in runs of their own, which are not timed.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use fault_server::{Answer, FaultServer, Script, Terminal};
use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs of each kind.
const RUNS: usize = 41;
/// Runs in which the peak of the memory is looked at.
const MEMORY_RUNS: usize = 9;
/// How long the chat is watched while it waits.
const IDLE: Duration = Duration::from_secs(5);
/// How long it may take to settle before that.
const SETTLING: Duration = Duration::from_secs(1);
/// What the mock answers, as a short answer of a model.
const ANSWER: &str = "The tide turns twice a day, and nobody has asked it why.";
const KEY: &str = "key-of-the-benchmarks";
/// The end of the first painting of the chat.
const PROMPT: &str = "> ";
/// A clock tick of `/proc/PID/stat`, on every Linux of today.
const TICK: Duration = Duration::from_millis(10);

fn main() -> Outcome<()> {
    let temporary = tempfile::tempdir()?;
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = named.map_or_else(|| temporary.path().to_path_buf(), PathBuf::from);
    let server = FaultServer::start(Script::repeating(Answer::text(ANSWER)))?;
    let bench = Bench { program: program()?, folder, server };
    std::fs::create_dir_all(bench.folder.join("person"))?;
    println!("{} bytes: {}", std::fs::metadata(&bench.program)?.len(), bench.program.display());
    println!("{:<34} {:>9} {:>9}   reference", "", "median", "p99");
    bench.version()?;
    for (model, path) in [("anthropic/mock", "/v1/messages"), ("openai/mock", "/v1/chat/completions")] {
        bench.one_turn(model, path)?;
    }
    bench.chat()?;
    bench.idle_chat()
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
    server: FaultServer,
}

impl Bench {
    /// The program in an environment of its own.
    fn longhand<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = bare(&self.program);
        command.args(arguments).current_dir(&self.folder);
        command.env("HOME", self.folder.join("person")).env("LONGHAND_HOME", self.folder.join("home"));
        command.env("ANTHROPIC_API_KEY", KEY).env("ANTHROPIC_BASE_URL", self.server.url());
        command.env("OPENAI_API_KEY", KEY).env("OPENAI_BASE_URL", self.server.openai_url());
        command.env("TERM", "xterm-256color").env("NO_COLOR", "1").env("LANG", "C.UTF-8");
        command
    }

    /// `--version`, beside the smallest program and the smallest script.
    fn version(&self) -> Outcome<()> {
        let (mut ours, mut smallest, mut shell) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (took, printed) = run(&mut self.longhand(&["--version"]))?;
            assert!(printed.starts_with("longhand "), "{printed}");
            ours.push(took);
            smallest.push(run(&mut bare("/bin/true"))?.0);
            shell.push(run(bare("/bin/sh").args(["-c", ":"]))?.0);
        }
        row("--version (bound 4 ms)", &mut ours, "/bin/true", &mut smallest);
        row("", &mut ours, "sh -c :", &mut shell);
        Ok(())
    }

    /// One turn from start to exit against the mock in this process, beside what no client can save: to start a process, to ask
    /// the mock, and to make a new file durable with a question and an answer in it.
    fn one_turn(&self, model: &str, path: &str) -> Outcome<()> {
        let arguments = ["-p", "-m", model, "What does the tide do?"];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..RUNS {
            let (took, printed) = run(&mut self.longhand(&arguments))?;
            assert_eq!(printed, format!("{ANSWER}\n"));
            ours.push(took);
            let start = run(&mut bare("/bin/true"))?.0;
            theirs.push(start + self.ask(path)? + self.two_syncs(number)?);
        }
        assert_eq!(self.server.refusals(), Vec::<String>::new(), "the server took every request");
        row(&format!("-p, {model} (bound 40 ms)"), &mut ours, "start, ask, sync twice", &mut theirs);
        memory("  its peak memory (bound 25 MB)", &mut self.peaks(&arguments)?);
        Ok(())
    }

    /// Sends the program's last request to the mock over a bare connection, and reads the answer to its end.
    fn ask(&self, path: &str) -> Outcome<Duration> {
        let last = self.server.requests().into_iter().rfind(|request| request.path == path).ok_or("the program asked before")?;
        let start = Instant::now();
        let mut connection = TcpStream::connect(self.server.address())?;
        let length = last.raw.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: mock\r\nx-api-key: {KEY}\r\nauthorization: Bearer {KEY}\r\nanthropic-version: 2023-06-01\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        connection.write_all(head.as_bytes())?;
        connection.write_all(&last.raw)?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"0\r\n\r\n") {
            let n = connection.read(&mut piece)?;
            assert!(n > 0, "the answer is cut: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..n]);
        }
        Ok(start.elapsed())
    }

    /// A new file that is durable in its folder, and then once more with more in it.
    fn two_syncs(&self, number: usize) -> Outcome<Duration> {
        let path = self.folder.join(format!("bare-{number}"));
        let start = Instant::now();
        let mut file = File::create(&path)?;
        file.write_all(&[b'x'; 600])?;
        file.sync_data()?;
        File::open(&self.folder)?.sync_all()?;
        file.write_all(&[b'x'; 600])?;
        file.sync_data()?;
        let took = start.elapsed();
        std::fs::remove_file(path)?;
        Ok(took)
    }

    /// The peaks of the resident memory, in bytes, of the runs in which the process was seen before it ended.
    fn peaks(&self, arguments: &[&str]) -> Outcome<Vec<u64>> {
        let mut peaks = Vec::new();
        for _ in 0..MEMORY_RUNS {
            let mut child = self.longhand(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            let mut peak = None;
            while child.try_wait()?.is_none() {
                peak = peak.max(status_of(&child, "VmHWM"));
            }
            assert!(child.wait()?.success(), "{arguments:?} fails");
            peaks.extend(peak);
        }
        if peaks.is_empty() { Err("the machine is too busy to look at a process".into()) } else { Ok(peaks) }
    }

    /// From the start to the first prompt on a terminal, beside a shell that prints one there.
    fn chat(&self) -> Outcome<()> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (mut chat, took) = Terminal::start(self.longhand(&["-m", "offline"]), PROMPT)?;
            ours.push(took);
            chat.type_keys("q7")?;
            chat.wait_for("q7")?;
            chat.end()?;
            let mut shell = bare("/bin/sh");
            shell.args(["-c", "printf '> '; read line"]);
            let (mut shell, took) = Terminal::start(shell, PROMPT)?;
            theirs.push(took);
            shell.end()?;
        }
        row("first prompt (bound 15 ms)", &mut ours, "a shell that prints one", &mut theirs);
        Ok(())
    }

    /// A chat in which nothing happens, beside a shell that waits for a line.
    fn idle_chat(&self) -> Outcome<()> {
        let (mut chat, _) = Terminal::start(self.longhand(&["-m", "offline"]), PROMPT)?;
        let mut shell = bare("/bin/sh");
        shell.args(["-c", "printf '> '; read line"]);
        let (mut shell, _) = Terminal::start(shell, PROMPT)?;
        pause(SETTLING);
        let before = (Usage::of(chat.child())?, Usage::of(shell.child())?);
        pause(IDLE);
        let after = (Usage::of(chat.child())?, Usage::of(shell.child())?);
        for (name, before, after) in
            [("idle chat (bound 20 MB, 0 CPU)", before.0, after.0), ("  a shell that waits", before.1, after.1)]
        {
            let (cpu, switches) = (after.cpu - before.cpu, after.switches - before.switches);
            println!("{name:<34} {:>9}   {cpu:?} of CPU and {switches} wake-ups in {IDLE:?}", megabytes(after.resident));
        }
        chat.type_keys("q7")?;
        chat.wait_for("q7")?;
        chat.end()?;
        shell.end()
    }
}

/// What a process has used up.
#[derive(Clone, Copy)]
struct Usage {
    resident: u64,
    cpu: Duration,
    switches: u64,
}

impl Usage {
    fn of(child: &Child) -> Outcome<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        // The name, in parentheses, may hold anything; after it come fields 3 and on, of which 14 and 15 are the times.
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("a name")?.1.split_whitespace().collect();
        let ticks = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
        let mut switches = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", child.id()))? {
            let status = std::fs::read_to_string(thread?.path().join("status"))?;
            switches += number_in(&status, "voluntary_ctxt_switches").unwrap_or(0);
        }
        Ok(Self { resident: status_of(child, "VmRSS").ok_or("a size")?, cpu: TICK * ticks, switches })
    }
}

/// A size in `/proc/PID/status`, in bytes; nothing once the process has ended, nor before it has become what it is started as: until then
/// it shares the memory of this process.
fn status_of(child: &Child, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let own = std::fs::read_to_string("/proc/self/status").ok()?;
    let has_become = status.lines().next() != own.lines().next();
    number_in(&status, name).filter(|kilobytes| has_become && *kilobytes > 0).map(|kilobytes| kilobytes * 1024)
}

fn number_in(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A command with an empty environment but for where programs are.
fn bare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

/// Runs it to its end: how long that took, and what it printed.
fn run(command: &mut Command) -> Outcome<(Duration, String)> {
    let start = Instant::now();
    let output = command.output()?;
    let took = start.elapsed();
    if !output.status.success() {
        return Err(format!("{command:?}: {} {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok((took, String::from_utf8(output.stdout)?))
}

/// The program to measure.
fn program() -> Outcome<PathBuf> {
    if let Some(named) = std::env::var_os("LONGHAND_BIN") {
        return Ok(std::path::absolute(PathBuf::from(named))?);
    }
    // target/release/deps/<this>
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).ok_or_else(|| std::io::Error::from(ErrorKind::NotFound))?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--package", "longhand", "--bin", "longhand", "--target-dir"]).arg(target);
    let status = cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status()?;
    if status.success() { Ok(target.join("release/longhand")) } else { Err("the program does not build".into()) }
}

#[expect(clippy::disallowed_methods, reason = "to watch a process that waits, one has to wait")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn quantile<T: Ord + Copy>(samples: &mut [T], q: f64) -> T {
    samples.sort_unstable();
    samples[((samples.len() - 1) as f64 * q) as usize]
}

fn row(name: &str, ours: &mut [Duration], reference: &str, theirs: &mut [Duration]) {
    let (p50, p99) = (quantile(ours, 0.5), quantile(ours, 0.99));
    let (their_p50, their_p99) = (quantile(theirs, 0.5), quantile(theirs, 0.99));
    let ratio = p50.as_secs_f64() / their_p50.as_secs_f64();
    let [p50, p99, their_p50, their_p99] =
        [p50, p99, their_p50, their_p99].map(|time| format!("{:.2} ms", time.as_secs_f64() * 1e3));
    println!("{name:<34} {p50:>9} {p99:>9}   {reference} {their_p50}, p99 {their_p99}; ratio {ratio:.2}");
}

fn memory(name: &str, peaks: &mut [u64]) {
    println!(
        "{name:<34} {:>9} {:>9}   (the second is the largest)",
        megabytes(quantile(peaks, 0.5)),
        megabytes(quantile(peaks, 1.0))
    );
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
