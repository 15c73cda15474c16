//! What can be typed. What it means is decided elsewhere: `setup.rs` for a run, each command's own file for the rest.

use crate::commands::batch::BatchArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::models::ModelsArgs;
use crate::commands::replay::ReplayArgs;
use crate::commands::sessions::SessionsArgs;
use crate::commands::usage::UsageArgs;
use crate::error::CliError;
use crate::units::parse_size;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Chat with an agent in this terminal. Sessions are written down as they happen and can be resumed after any crash.
#[derive(Debug, Parser)]
#[command(name = "longhand", version, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Globals {
    /// Where sessions are kept [default: the platform's data folder]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LONGHAND_HOME",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) home: Option<PathBuf>,
    /// A folder on another disk, for what the disk of the home does not take; it is taken in when that works again
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LONGHAND_RESCUE_DIR",
        hide_env_values = true,
        hide_short_help = true,
        help_heading = "Global options"
    )]
    pub(crate) rescue_dir: Option<PathBuf>,
    /// What all sessions together should take at most, like `5GB`: a warning comes at 80% of it
    #[arg(
        long,
        global = true,
        value_name = "SIZE",
        value_parser = parse_size,
        env = "LONGHAND_QUOTA",
        hide_env_values = true,
        hide_short_help = true,
        help_heading = "Global options"
    )]
    pub(crate) quota: Option<u64>,
    /// Say more about what happens, on standard error
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub(crate) color: ColorWhen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List, show, search, check, mend, archive, import and export sessions
    Sessions(SessionsArgs),
    /// Answer many prompts from a file, several at once
    Batch(Box<BatchArgs>),
    /// Show a session as it happened
    Replay(ReplayArgs),
    /// List the models that are known: their windows, limits and prices
    Models(ModelsArgs),
    /// Sum up tokens used and what they cost, by session, turn, day or model
    Usage(UsageArgs),
    /// Check the home, its file system, the terminal and the keys
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// A chat, or one turn with `-p`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RunArgs {
    /// What to say first; `-` reads it from standard input
    pub(crate) prompt: Option<String>,
    /// One turn (with its tool calls), the answer on standard output, exit
    #[arg(short, long)]
    pub(crate) print: bool,

    /// Go on with this directory's newest session
    #[arg(short = 'c', long = "continue", conflicts_with = "resume", help_heading = "Session")]
    pub(crate) go_on: bool,
    /// Go on with a session: its id, its exact name or the start of its id; without: choose one
    #[arg(short, long, value_name = "ID", num_args = 0..=1, help_heading = "Session")]
    pub(crate) resume: Option<Option<String>>,
    /// With `-c` or `-r`: go on in a copy
    #[arg(long, help_heading = "Session")]
    pub(crate) fork_session: bool,
    /// With `-c` or `-r`: ask the process that holds the session to let go of it
    #[arg(long, conflicts_with = "fork_session", hide_short_help = true, help_heading = "Session")]
    pub(crate) take_over: bool,
    /// With `--fork-session`: copy up to and with this event
    #[arg(long, value_name = "SEQ", help_heading = "Session")]
    pub(crate) at: Option<u64>,
    /// Name the session
    #[arg(short, long, value_name = "NAME", help_heading = "Session")]
    pub(crate) name: Option<String>,
    /// A name of your own for the message: sent twice with the same one, it is answered once
    #[arg(long, value_name = "KEY", conflicts_with = "no_session", help_heading = "Session")]
    pub(crate) message_id: Option<String>,
    /// An image that goes with the message: png, jpeg, gif or webp (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Session")]
    pub(crate) image: Vec<PathBuf>,
    /// Keep nothing
    #[arg(long, conflicts_with_all = ["go_on", "resume", "name"], help_heading = "Session")]
    pub(crate) no_session: bool,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,

    /// How `-p` prints
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) output_format: Option<OutputFormat>,
    /// The same as `--output-format stream-json`
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// How turns run: what a chat, `-p` and a batch have in common.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SetupArgs {
    /// Work in this directory
    #[arg(short = 'C', long = "cd", value_name = "DIR", help_heading = "Session")]
    pub(crate) cd: Option<PathBuf>,
    /// Another directory that tools may use without asking (repeatable)
    #[arg(long, value_name = "DIR", help_heading = "Session")]
    pub(crate) add_dir: Vec<PathBuf>,

    /// Who answers: `anthropic/...`, `openai/...` (Chat Completions), `openai-responses/...`, `ollama/...`, or `offline`
    #[arg(short, long, value_name = "PROVIDER/NAME", help_heading = "Model")]
    pub(crate) model: Option<String>,
    /// Asked in this order where the model cannot answer
    #[arg(long, value_name = "A,B", value_delimiter = ',', help_heading = "Model")]
    pub(crate) fallback_model: Vec<String>,
    /// Another endpoint that speaks the protocol of the provider of `--model`
    #[arg(long, value_name = "URL", help_heading = "Model")]
    pub(crate) base_url: Option<String>,
    /// How much the model may reason
    #[arg(long, value_name = "EFFORT", help_heading = "Model")]
    pub(crate) effort: Option<Effort>,
    /// Instead of the built-in system prompt
    #[arg(long, value_name = "TEXT", help_heading = "Model")]
    pub(crate) system_prompt: Option<String>,
    /// After the system prompt
    #[arg(long, value_name = "TEXT", help_heading = "Model")]
    pub(crate) append_system_prompt: Option<String>,

    /// What happens to a tool call that needs approval [default: ask; read-only with `-p`]
    #[arg(long, value_name = "MODE", help_heading = "Tools")]
    pub(crate) permission_mode: Option<PermissionMode>,
    /// The tools that the model sees, separated by commas [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',', conflicts_with = "no_tools", help_heading = "Tools")]
    pub(crate) tools: Vec<String>,
    /// The model sees no tools
    #[arg(long, conflicts_with = "allowed_tools", help_heading = "Tools")]
    pub(crate) no_tools: bool,
    /// Tools that run without asking, in every mode
    #[arg(long, value_name = "A,B", value_delimiter = ',', help_heading = "Tools")]
    pub(crate) allowed_tools: Vec<String>,
    /// Tools that never run
    #[arg(long, value_name = "A,B", value_delimiter = ',', help_heading = "Tools")]
    pub(crate) disallowed_tools: Vec<String>,

    /// The last answer has to be JSON that fits this JSON Schema: a file, or the schema itself
    #[arg(long, visible_alias = "json-schema", value_name = "FILE|JSON", help_heading = "Output")]
    pub(crate) output_schema: Option<String>,

    /// Model calls before the turn ends
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    pub(crate) max_turns: Option<u64>,
    /// Tokens that the session may use altogether, sent and answered, before its turn ends
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    pub(crate) max_tokens_total: Option<u64>,
    /// US dollars that the session may cost altogether before its turn ends
    #[arg(long, value_name = "USD", value_parser = dollars, help_heading = "Limits")]
    pub(crate) budget: Option<f64>,
    /// The longest answer, in tokens
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    pub(crate) max_output_tokens: Option<u64>,
    /// Tokens that the context may take, the answer included [default: the model's window]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Limits")]
    pub(crate) context_window: Option<u64>,
    /// Let the model sum up what leaves the context window
    #[arg(long, help_heading = "Limits")]
    pub(crate) summarize: bool,
    /// Wait for as long as a server asks; with `-c`: go on waiting
    #[arg(long, help_heading = "Limits")]
    pub(crate) wait: bool,
    /// Seconds until there is a connection [default: 10]
    #[arg(long, value_name = "SECS", value_parser = seconds, help_heading = "Limits")]
    pub(crate) connect_timeout: Option<Duration>,
    /// Seconds until the head of the answer is there [default: 120]
    #[arg(long, value_name = "SECS", value_parser = seconds, help_heading = "Limits")]
    pub(crate) first_byte_timeout: Option<Duration>,
    /// Seconds without a byte [default: 60]
    #[arg(long, value_name = "SECS", value_parser = seconds, help_heading = "Limits")]
    pub(crate) idle_timeout: Option<Duration>,
    /// Seconds without progress [default: 300]
    #[arg(long, value_name = "SECS", value_parser = seconds, help_heading = "Limits")]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Effort {
    Off,
    Low,
    Medium,
    High,
}

impl Effort {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// The final answer
    #[default]
    Text,
    /// One JSON object at the end
    Json,
    /// One JSON object a line, as it happens
    StreamJson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PermissionMode {
    /// Ask
    Ask,
    /// Refuse
    ReadOnly,
    /// Run
    Allow,
}

impl Args {
    /// What was typed, or nothing where help or the version was asked for and printed.
    ///
    /// # Errors
    /// Wrong usage.
    pub(crate) fn typed() -> Result<Option<Self>, CliError> {
        match Self::command().try_get_matches() {
            Ok(matches) => {
                refuse_what_a_command_ignores(&matches)?;
                Self::from_arg_matches(&matches).map_err(|error| wrong_usage(&error))?.checked().map(Some)
            }
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                // A closed standard output is no failure, and there is nothing else to do here.
                let _ = error.print();
                Ok(None)
            }
            Err(error) => Err(wrong_usage(&error)),
        }
    }

    fn checked(self) -> Result<Self, CliError> {
        let run = &self.run;
        if run.fork_session && !run.go_on && run.resume.is_none() {
            return Err(CliError::usage("`--fork-session` needs a session to fork").hint("add `-c` or `-r ID`"));
        }
        if run.take_over && !run.go_on && run.resume.is_none() {
            return Err(CliError::usage("`--take-over` needs a session to take").hint("add `-c` or `-r ID`"));
        }
        if run.at.is_some() && !run.fork_session {
            return Err(CliError::usage("`--at` needs `--fork-session`")
                .hint("a session goes on at its end; a copy of it can go on from any place: `-r ID --fork-session --at SEQ`"));
        }
        if run.json && run.output_format.is_some_and(|format| format != OutputFormat::StreamJson) {
            return Err(
                CliError::usage("`--json` and `--output-format` say different things").hint("`--json` means `stream-json`")
            );
        }
        Ok(self)
    }
}

/// Options of a chat before a command would have no effect, so they are refused.
fn refuse_what_a_command_ignores(matches: &ArgMatches) -> Result<(), CliError> {
    let Some(command) = matches.subcommand_name() else { return Ok(()) };
    let program = Args::command();
    let is_typed = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let Some(ignored) = program.get_arguments().filter(|arg| !arg.is_global_set()).find(is_typed) else { return Ok(()) };
    let name = ignored.get_long().map_or_else(|| "a prompt".to_owned(), |long| format!("`--{long}`"));
    Err(CliError::usage(format!("{name} has no meaning before the command `{command}`"))
        .hint(format!("`longhand {command} --help` lists what can be typed after it")))
}

/// What clap says, in our own form: one sentence with names in backticks, then what to do.
fn wrong_usage(error: &clap::Error) -> CliError {
    let rendered = error.to_string().replace('\'', "`");
    let mut lines = rendered.lines().map(str::trim);
    let message = bare_names(lines.next().unwrap_or_default().trim_start_matches("error: "));
    let message = message.replace("invalid digit found in string", "not a whole number");
    let rest: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
    let tips = rest.iter().filter_map(|line| line.strip_prefix("tip: "));
    let choices = rest.iter().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
    let hints: Vec<&str> = choices.chain(tips).collect();
    let command = command_of(&rendered);
    match error.kind() {
        ErrorKind::MissingSubcommand => {
            CliError::usage(format!("`{command}` needs a command after it")).hint(format!("`{command} --help` lists them"))
        }
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<&str> = rest.iter().copied().filter(|line| !line.is_empty()).collect();
            CliError::usage(format!("{} is missing", missing.join(", "))).hint(format!("`{command} --help` says what it is"))
        }
        _ if hints.is_empty() => CliError::usage(message).hint(format!("`{command} --help` lists what can be typed")),
        _ => CliError::usage(message).hint(hints.join("; ")),
    }
}

/// The words of the command, as `longhand sessions list`: from the usage that clap prints, else from what was typed.
fn command_of(rendered: &str) -> String {
    let is_word = |word: &&str| word.starts_with(|first: char| first.is_ascii_lowercase());
    if let Some(usage) = rendered.lines().find_map(|line| line.strip_prefix("Usage: ")) {
        return usage.split(' ').take_while(is_word).collect::<Vec<_>>().join(" ");
    }
    let (mut words, mut command) = ("longhand".to_owned(), Args::command());
    for typed in std::env::args_os().skip(1) {
        if let Some(found) = command.find_subcommand(&typed).cloned() {
            words = format!("{words} {}", found.get_name());
            command = found;
        }
    }
    words
}

/// `--name <NAME>` in backticks becomes `--name`.
fn bare_names(message: &str) -> String {
    let bare = |(place, part): (usize, &str)| match part.split_once(' ') {
        Some((name, _)) if place % 2 == 1 && name.starts_with("--") => name.to_owned(),
        _ => part.to_owned(),
    };
    message.split('`').enumerate().map(bare).collect::<Vec<_>>().join("`")
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a whole number, 1 or more".to_owned())
}

fn dollars(text: &str) -> Result<f64, String> {
    let amount = text.strip_prefix('$').unwrap_or(text).parse::<f64>().ok();
    amount.filter(|amount| amount.is_finite() && *amount > 0.0).ok_or_else(|| "must be a number above 0".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|limit| !limit.is_zero())
        .ok_or_else(|| "must be more than 0 seconds".to_owned())
}
