//! `longhand models`: what is known of models, by the program and by the user's own file.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::models::model_table;
use crate::output::{self, Stdout};
use crate::safe_text::safe_line;
use crate::table::{Column, table};
use agent_runtime::{ModelFacts, ModelTable};
use serde::Serialize;

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ModelsArgs {
    /// Only names that hold this
    pub(crate) name: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
}

const HELP: &str = "\
A file `models.json` in the home adds models and corrects what is known. It is an object of facts by `provider/name`; a name that
ends in `*` means all that begin like it:

  {\"ollama/qwen3*\": {\"context_window\": 40960, \"max_output_tokens\": 8192},
   \"openai/my-gateway-model\": {\"price\": {\"input\": 0.5, \"cached_input\": 0.05, \"output\": 2}}}

The facts are `context_window`, `max_input_tokens`, `max_output_tokens`, `answer_tokens` (the longest answer that is asked for by itself),
`token_factor` (tokens for one of o200k), `refuses` (parameters that it does not take) and `price` in US dollars for a million tokens: `input`,
`cached_input`, `cache_write`, `output`, and `long` (`above`, `input_factor`, `output_factor`). What is not known is absent: such a model has a window
of 128,000 tokens, gives answers of 8,192, and its cost is not told.

With --json, an array of `name`, `own` (whether the file names it), and the facts.";

#[derive(Serialize)]
struct Known<'a> {
    name: &'a str,
    own: bool,
    #[serde(flatten)]
    facts: ModelFacts,
}

/// Lists them.
pub(crate) fn run(app: &App, args: &ModelsArgs) -> Result<Exit, CliError> {
    let models = model_table(app.home())?;
    let wanted = |name: &&str| args.name.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let known: Vec<Known<'_>> =
        models.names().filter(wanted).map(|name| Known { name, own: models.is_own(name), facts: facts(&models, name) }).collect();
    let mut out = Stdout::new();
    if args.json {
        let json = serde_json::to_string_pretty(&known).map_err(|error| CliError::failed(error.to_string()))?;
        out.raw(format!("{json}\n").as_bytes())?;
        out.flush()?;
        return Ok(Exit::Done);
    }
    let columns = [
        Column::Text("MODEL"),
        Column::Number("WINDOW"),
        Column::Number("OUTPUT"),
        Column::Number("INPUT $"),
        Column::Number("CACHED $"),
        Column::Number("WRITE $"),
        Column::Number("OUTPUT $"),
        Column::Text(""),
    ];
    let rows: Vec<_> = known.iter().map(row).collect();
    for line in table(columns, &rows) {
        out.raw(format!("{line}\n").as_bytes())?;
    }
    out.flush()?;
    output::stderr(
        "prices are US dollars for a million tokens; `models.json` in the home adds to this: `longhand models --help`\n",
    );
    Ok(Exit::Done)
}

/// What is known of a name, or of all that begin like it.
fn facts(models: &ModelTable, name: &str) -> ModelFacts {
    let (provider, model) = name.split_once('/').unwrap_or((name, ""));
    models.facts(provider, model)
}

fn row(known: &Known<'_>) -> [String; 8] {
    let tokens = |count: Option<u64>| count.map_or_else(String::new, |count| count.to_string());
    let dollars = |price: Option<f64>| price.map_or_else(String::new, |price| price.to_string());
    let price = known.facts.price;
    [
        safe_line(known.name).into_owned(),
        tokens(known.facts.context_window),
        tokens(known.facts.max_output_tokens.or(known.facts.answer_tokens)),
        dollars(price.map(|price| price.input)),
        dollars(price.and_then(|price| price.cached_input)),
        dollars(price.and_then(|price| price.cache_write)),
        dollars(price.map(|price| price.output)),
        if known.own { "models.json".to_owned() } else { String::new() },
    ]
}
