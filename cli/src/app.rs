//! [`App`]: the surroundings of a command (home, environment, colour), read once at the start.

use crate::args::{ColorWhen, Globals};
use crate::error::CliError;
use agent_runtime::session_store::{FileStore, FileStoreOptions};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a command knows of its surroundings. Nothing else in this program reads the environment.
pub(crate) struct App {
    home: PathBuf,
    rescue_dir: Option<PathBuf>,
    quota_bytes: Option<u64>,
    env: Vec<(String, String)>,
    color: ColorWhen,
    verbose: u8,
}

impl App {
    /// Reads the environment.
    ///
    /// # Errors
    /// Where no home can be found.
    pub(crate) fn new(globals: &Globals) -> Result<Self, CliError> {
        // Names and values that are no UTF-8 cannot be given to a model's tools and name no setting of ours.
        let env: Vec<(String, String)> =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        let home = match &globals.home {
            Some(home) if !home.as_os_str().is_empty() => home.clone(),
            _ => default_home().ok_or_else(|| {
                CliError::usage("no home directory is known").hint("say where sessions are kept with `--home DIR`")
            })?,
        };
        let home = std::path::absolute(&home).map_err(CliError::io("find", home))?;
        let rescue_dir = globals.rescue_dir.as_ref().filter(|path| !path.as_os_str().is_empty());
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(CliError::io("find", path));
        let rescue_dir = rescue_dir.map(absolute).transpose()?;
        if rescue_dir.as_ref().is_some_and(|path| path.starts_with(&home)) {
            return Err(CliError::usage("the rescue folder is inside the home").hint("it has to be on another disk"));
        }
        Ok(Self { home, rescue_dir, quota_bytes: globals.quota, env, color: globals.color, verbose: globals.verbose })
    }

    /// Where sessions are kept, absolute. Perhaps it does not exist yet.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Where what the home's disk does not take is kept, absolute.
    pub(crate) fn rescue_dir(&self) -> Option<&Path> {
        self.rescue_dir.as_deref()
    }

    /// What all sessions together should take at most.
    pub(crate) fn quota_bytes(&self) -> Option<u64> {
        self.quota_bytes
    }

    /// A variable of the environment; absent where it is empty, too.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The whole environment.
    pub(crate) fn envs(&self) -> &[(String, String)] {
        &self.env
    }

    /// Whether more should be said.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Whether what is written to standard output may be coloured.
    pub(crate) fn colors_stdout(&self) -> bool {
        self.colors(std::io::stdout().is_terminal())
    }

    fn colors(&self, is_terminal: bool) -> bool {
        match self.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => is_terminal && self.env("NO_COLOR").is_none() && self.env("TERM") != Some("dumb"),
        }
    }

    /// The store in the home. Reading works where the home cannot be written.
    ///
    /// # Errors
    /// Where the home is a file.
    pub(crate) fn file_store(&self) -> Result<Arc<FileStore>, CliError> {
        open_store(&self.home, |options| {
            options.rescue_dir.clone_from(&self.rescue_dir);
            options.quota_bytes = self.quota_bytes;
        })
    }

    /// Runs a command. One thread serves it all: a turn waits more than it works, and what works runs on the blocking
    /// pool. What still blocks at the end (a read of standard input) is not waited for.
    ///
    /// # Errors
    /// Where the machine gives no more descriptors.
    pub(crate) fn block_on<T>(&self, command: impl Future<Output = T>) -> Result<T, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))?;
        let output = runtime.block_on(command);
        runtime.shutdown_background();
        Ok(output)
    }
}

/// A store in `home`, with what `choose` chooses. Makes nothing: what is not there is made when it is needed.
///
/// # Errors
/// Where the home is a file.
pub(crate) fn open_store(home: &Path, choose: impl FnOnce(&mut FileStoreOptions)) -> Result<Arc<FileStore>, CliError> {
    let mut options = FileStoreOptions::new(home);
    options.program = concat!("longhand ", env!("CARGO_PKG_VERSION")).to_owned();
    choose(&mut options);
    Ok(Arc::new(FileStore::open(options)?))
}

/// The platform's folder for a program's data.
fn default_home() -> Option<PathBuf> {
    let data = if cfg!(target_os = "macos") {
        std::env::home_dir()?.join("Library/Application Support")
    } else {
        let given = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        match given {
            Some(data) => data,
            None => std::env::home_dir().filter(|home| !home.as_os_str().is_empty())?.join(".local/share"),
        }
    };
    Some(data.join("longhand"))
}
