//! `longhand doctor`: what this machine gives longhand to work with, and what a promise costs here.
//!
//! It changes nothing: what it writes to measure the disk is a file without a name, gone with the process.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::models::Provider;
use crate::output::Stdout;
use crate::safe_text::safe_line;
use crate::transcript::count_words;
use crate::units::size_words;
use agent_runtime::session_store::{FileSystem, Quota, RealFs, SessionId};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How many syncs are measured.
const SYNCS: usize = 11;
/// As many bytes as a window of a streaming turn has, about.
const SYNC_BYTES: usize = 4_096;
/// How many foreign files are named.
const FOREIGN_FILES_MAX: usize = 20;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json, an object: `version`, `platform`; `home` with `path`, `exists`, `writable`, `why_not_writable`, `file_system`, `free_bytes`, `sync_ms` (the median of some syncs) and \
`locks_are_trusted`; `sessions` with `logs`, `bytes`, `archived`, `archive_bytes`, `index_bytes`, `repaired_bytes`, `leftovers`, `leftover_bytes`, `quota` (null, or `used_bytes` and `limit_bytes`) and `foreign_files`; \
`rescue` (null, or `path` and `files`); `terminal` with `stdin`, `stdout`, `stderr`, `term`, `size`, `color`; `keys`, an array of `variable` and `is_set`; and `problems`, in sentences. \
Exit code 1 where there are any.")]
pub(crate) struct DoctorArgs {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// All that was found.
#[derive(Serialize)]
struct Findings {
    version: &'static str,
    platform: String,
    home: Home,
    sessions: Sessions,
    /// The rescue folder; null where none is named.
    rescue: Option<Rescue>,
    terminal: Terminal,
    keys: Vec<Key>,
    /// What should be changed, in sentences; empty where all is well.
    problems: Vec<String>,
}

/// The home and the disk under it.
#[derive(Serialize)]
struct Home {
    path: PathBuf,
    exists: bool,
    writable: bool,
    /// Why not, where it is not.
    why_not_writable: Option<String>,
    file_system: Option<String>,
    free_bytes: Option<u64>,
    /// The median of some syncs of a small write, in milliseconds.
    sync_ms: Option<f64>,
    /// Whether a lock tells that another process is dead. Where not, a session that was not closed counts as perhaps in use.
    locks_are_trusted: bool,
}

/// What is stored.
#[derive(Default, Serialize)]
struct Sessions {
    logs: u64,
    bytes: u64,
    archived: u64,
    archive_bytes: u64,
    /// Indexes can be deleted at any time.
    index_bytes: u64,
    /// Logs as they were before a repair.
    repaired_bytes: u64,
    /// What a process left that ended in the middle of something, or is in the middle of it now.
    leftovers: Vec<PathBuf>,
    leftover_bytes: u64,
    /// How much of the quota is used, where there is one.
    quota: Option<Quota>,
    /// What lies between the logs and is none of ours.
    foreign_files: Vec<PathBuf>,
}

/// Another place for what the home's disk does not take.
#[derive(Serialize)]
struct Rescue {
    path: PathBuf,
    /// Lines of sessions that are not in their logs, unless a process is at it now.
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Terminal {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    term: Option<String>,
    size: Option<(u16, u16)>,
    color: bool,
}

/// Whether a key is set. Its value is shown to nobody.
#[derive(Serialize)]
struct Key {
    variable: &'static str,
    is_set: bool,
}

/// Looks, and prints. Exit 1 where something should be changed.
pub(crate) fn run(app: &App, args: &DoctorArgs) -> Result<Exit, CliError> {
    let findings = Findings::look(app);
    let mut out = Stdout::new();
    if args.json {
        let json = serde_json::to_string_pretty(&findings).map_err(|error| CliError::failed(error.to_string()))?;
        out.raw(format!("{json}\n").as_bytes())?;
    } else {
        findings.print(&mut out)?;
    }
    out.flush()?;
    Ok(if findings.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

impl Findings {
    fn look(app: &App) -> Self {
        let home = Home::look(app.home());
        let sessions = Sessions::look(app);
        let rescue = app.rescue_dir().map(Rescue::look);
        let mut problems = problems(&home, &sessions);
        problems.extend(rescue.iter().flat_map(Rescue::problems));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            home,
            sessions,
            rescue,
            terminal: Terminal::look(app),
            keys: keys(app),
            problems,
        }
    }

    fn print(&self, out: &mut Stdout) -> Result<(), CliError> {
        let mut row = |name: &str, value: &str| out.raw(format!("{name:<13}{}\n", safe_line(value)).as_bytes());
        row("longhand", &format!("{} ({})", self.version, self.platform))?;
        let Home { path, exists, writable, file_system, free_bytes, sync_ms, locks_are_trusted, .. } = &self.home;
        row("home", &format!("{}{}", path.display(), if *exists { "" } else { " (will be made)" }))?;
        let free = free_bytes.map(|bytes| format!(", {} free", size_words(bytes))).unwrap_or_default();
        row(
            "disk",
            &format!("{}{free}{}", file_system.as_deref().unwrap_or("unknown"), if *writable { "" } else { ", not writable" }),
        )?;
        if let Some(ms) = sync_ms {
            row("sync", &format!("{ms:.2} ms{}", if *ms < 0.5 { " (so fast that a cache of the host answers)" } else { "" }))?;
        }
        row("locks", if *locks_are_trusted { "tell whether another process lives" } else { "cannot be trusted here" })?;
        let sessions = &self.sessions;
        row("sessions", &format!("{}, {}", sessions.logs, size_words(sessions.bytes)))?;
        let others = sessions.others();
        if !others.is_empty() {
            row("beside them", &others.join("; "))?;
        }
        if !sessions.leftovers.is_empty() {
            let names: Vec<_> = sessions.leftovers.iter().map(|path| path.display().to_string()).collect();
            row(
                "leftovers",
                &format!("{}, unless a process is at it now: {}", size_words(sessions.leftover_bytes), names.join(", ")),
            )?;
        }
        if let Some(quota) = &sessions.quota {
            row("quota", &format!("{}% of {} used", quota.percent(), size_words(quota.limit_bytes)))?;
        }
        if let Some(Rescue { path, files }) = &self.rescue {
            row("rescue", &format!("{}, {}", path.display(), count_words(files.len() as u64, "file")))?;
        }
        row("terminal", &self.terminal.words())?;
        for key in &self.keys {
            row("key", &format!("{} {}", key.variable, if key.is_set { "is set" } else { "is not set" }))?;
        }
        for problem in &self.problems {
            out.raw(format!("\nproblem: {}\n", safe_line(problem)).as_bytes())?;
        }
        Ok(())
    }
}

fn problems(home: &Home, sessions: &Sessions) -> Vec<String> {
    let mut problems = Vec::new();
    let path = home.path.display();
    if let Some(why) = &home.why_not_writable {
        problems.push(format!("`{path}` cannot be written: {why}; stored sessions can be read, new ones not kept"));
    }
    if home.free_bytes.is_some_and(|bytes| bytes < 100 << 20) {
        problems.push(format!("there is little room on the disk of `{path}`"));
    }
    if !home.locks_are_trusted {
        problems.push(format!(
            "locks on the file system of `{path}` may not be seen by other machines: a session that was not closed counts as perhaps in use"
        ));
    }
    if sessions.quota.is_some_and(|quota| quota.is_near()) {
        problems.push("the quota is nearly used up, or more: `longhand sessions prune` makes room".to_owned());
    }
    if !sessions.foreign_files.is_empty() {
        let names: Vec<_> = sessions.foreign_files.iter().map(|path| format!("`{}`", path.display())).collect();
        problems.push(format!("among the sessions lie files that are none of longhand's: {}", names.join(", ")));
    }
    problems
}

impl Home {
    fn look(home: &Path) -> Self {
        // Where the home will be made, its disk is that of the nearest folder that is there.
        let place = home.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let sync = measure_sync(place);
        Self {
            path: home.to_path_buf(),
            exists: home.is_dir(),
            writable: sync.is_ok(),
            why_not_writable: sync.as_ref().err().map(ToString::to_string),
            file_system: file_system(place),
            free_bytes: rustix::fs::statvfs(place).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            sync_ms: sync.ok(),
            locks_are_trusted: locks_are_trusted(place),
        }
    }
}

/// The median of some syncs, in milliseconds; the file has no name and is gone with the process.
fn measure_sync(folder: &Path) -> io::Result<f64> {
    let mut file: File = tempfile::tempfile_in(folder)?;
    let mut samples = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[b'\n'; SYNC_BYTES])?;
        let start = Instant::now();
        file.sync_data()?;
        samples.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[SYNCS / 2])
}

impl Sessions {
    /// What cannot be read is not counted.
    fn look(app: &App) -> Self {
        let store = app.file_store();
        let space = store.and_then(|store| app.block_on(async move { Ok(store.space().await?) })?).unwrap_or_default();
        let mut foreign_files = space.foreign.clone();
        foreign_files.truncate(FOREIGN_FILES_MAX);
        Self {
            logs: space.sessions.len() as u64,
            bytes: space.session_bytes(),
            archived: space.archived.len() as u64,
            archive_bytes: space.archive_bytes(),
            index_bytes: space.index_bytes,
            repaired_bytes: space.repaired_bytes,
            leftover_bytes: space.leftover_bytes,
            quota: app.quota_bytes().map(|limit| Quota::new(space.total(), limit)),
            leftovers: space.leftovers,
            foreign_files,
        }
    }

    /// What lies beside the sessions.
    fn others(&self) -> Vec<String> {
        let sizes = [("index", self.index_bytes), ("kept by repairs", self.repaired_bytes)];
        let sizes = sizes.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| format!("{name} {}", size_words(*bytes)));
        let archive = (self.archived > 0).then(|| format!("archive {}, {}", self.archived, size_words(self.archive_bytes)));
        archive.into_iter().chain(sizes).collect()
    }
}

impl Rescue {
    fn look(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = entries.filter(|path| session_of(path).is_some()).collect();
        files.sort();
        Self { path: folder.to_path_buf(), files }
    }

    fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.files.iter().filter_map(|path| {
            let id = session_of(path)?;
            Some(format!(
                "`{}` holds events that are not in their log; they are taken in when the session is opened with this rescue folder: `longhand -r {id}`",
                path.display()
            ))
        })
    }
}

/// The session whose rescue file `path` is: `<id>.<epoch>.jsonl`.
fn session_of(path: &Path) -> Option<SessionId> {
    path.file_name()?.to_str()?.strip_suffix(".jsonl")?.split('.').next()?.parse().ok()
}

impl Terminal {
    fn look(app: &App) -> Self {
        Self {
            stdin: io::stdin().is_terminal(),
            stdout: io::stdout().is_terminal(),
            stderr: io::stderr().is_terminal(),
            term: app.env("TERM").map(str::to_owned),
            size: rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok().map(|size| (size.ws_col, size.ws_row)),
            color: app.colors_stdout(),
        }
    }

    fn words(&self) -> String {
        if !self.stdin || !self.stdout {
            return "none to chat in".to_owned();
        }
        let size = self.size.map(|(columns, rows)| format!(", {columns} x {rows}")).unwrap_or_default();
        format!("{}{size}, {}", self.term.as_deref().unwrap_or("unknown"), if self.color { "colour" } else { "no colour" })
    }
}

fn keys(app: &App) -> Vec<Key> {
    let variables = [Provider::Anthropic, Provider::OpenAi].into_iter().filter_map(Provider::key_variable);
    variables.map(|variable| Key { variable, is_set: app.env(variable).is_some() }).collect()
}

/// The file system by its magic number, where it has one of those that are met most.
#[cfg(target_os = "linux")]
fn file_system(path: &Path) -> Option<String> {
    const NAMES: [(u64, &str); 13] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794c_7630, "overlayfs"),
        (0x2fc1_2fc1, "zfs"),
        (0xf2f5_2010, "f2fs"),
        (0xca45_1a4e, "bcachefs"),
        (0x6969, "nfs"),
        (0x0102_1997, "9p"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb2"),
        (0x6573_5546, "fuse"),
    ];
    let magic = u64::try_from(rustix::fs::statfs(path).ok()?.f_type).ok()?;
    let name = NAMES.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned());
    Some(name.unwrap_or_else(|| format!("type {magic:#x}")))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_path: &Path) -> Option<String> {
    None
}

fn locks_are_trusted(path: &Path) -> bool {
    RealFs.locks_are_trusted(path)
}
