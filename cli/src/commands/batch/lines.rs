//! The lines of a batch: what each asks for, and the names that make it findable again.

use crate::args::{RunArgs, SetupArgs};
use crate::commands::sessions::checked_name;
use crate::error::CliError;
use crate::images;
use crate::setup::Plan;
use agent_runtime::session_store::sha256_hex;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// How many bad lines are told of at once.
const BAD_LINES_MAX: usize = 5;
/// The longest prompt, as of a prompt on standard input.
const PROMPT_BYTES_MAX: usize = 10 << 20;

/// A line of the file.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its number in the file, from 1.
    number: usize,
    /// What it is called in the results.
    pub(super) id: String,
    /// What to say.
    pub(super) prompt: String,
    /// The files of the images that go with it.
    pub(super) images: Vec<PathBuf>,
    /// How its turn runs.
    pub(super) setup: SetupArgs,
    /// The key of its message, and of its session: made from the batch's name and all that the line says, and from how many equal lines
    /// stand before it. What the line does not say itself (the model that the command names, say) is no part of it, so that the rest of a
    /// batch can be answered by another model.
    pub(super) key: String,
    /// The name of its session.
    pub(super) session_name: String,
}

/// Reads all lines; blank ones are skipped.
///
/// # Errors
/// The first bad lines, each with its number and what is wrong.
pub(super) fn read(bytes: &[u8], file: &str, batch: &str, setup: &SetupArgs) -> Result<Vec<Line>, CliError> {
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    let (mut ids, mut equal) = (HashSet::new(), HashMap::new());
    for (index, bytes) in bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).split(|byte| *byte == b'\n').enumerate() {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let number = index + 1;
        let line = Fields::read(bytes).and_then(|fields| fields.line(number, batch, setup, &mut equal));
        match line {
            Ok(line) if ids.insert(line.id.clone()) => lines.push(line),
            Ok(line) => bad.push((number, format!("another line has the id `{}`", line.id))),
            Err(why) => bad.push((number, why)),
        }
    }
    refuse(file, &bad)?;
    Ok(lines)
}

/// Looks whether each line can be asked: its model, its directory, its name, its images. Nothing is written.
///
/// # Errors
/// The first lines that cannot.
pub(super) async fn check(plan: &Plan, lines: &[Line], file: &str) -> Result<(), CliError> {
    let (mut known, mut bad) = (HashSet::new(), Vec::new());
    for line in lines {
        if let Err(error) = checked_name(&line.session_name) {
            bad.push((line.number, error.to_string()));
        } else if let Err(error) = images::read_all(line.images.clone()).await {
            bad.push((line.number, error.to_string()));
        } else if known.insert((line.setup.model.clone(), line.setup.cd.clone())) {
            let typed = RunArgs { print: true, setup: line.setup.clone(), ..RunArgs::default() };
            if let Err(error) = plan.beside(typed).await {
                bad.push((line.number, error.to_string()));
            }
        }
    }
    refuse(file, &bad)
}

fn refuse(file: &str, bad: &[(usize, String)]) -> Result<(), CliError> {
    let Some(((number, why), rest)) = bad.split_first() else { return Ok(()) };
    let mut message = format!("line {number} of `{file}` cannot be used: {why}");
    for (number, why) in rest.iter().take(BAD_LINES_MAX - 1) {
        message.push_str(&format!("\n       line {number}: {why}"));
    }
    if let Some(more) = bad.len().checked_sub(BAD_LINES_MAX).filter(|more| *more > 0) {
        message.push_str(&format!("\n       and {more} more"));
    }
    Err(CliError::usage(message).hint("nothing was asked; `longhand batch --help` says what a line may hold"))
}

/// What a line says.
struct Fields {
    prompt: String,
    images: Vec<String>,
    id: Option<String>,
    model: Option<String>,
    system: Option<String>,
    cwd: Option<String>,
}

impl Fields {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
        let Value::Object(mut object) = value else { return Err("it is no JSON object".to_owned()) };
        let id = match object.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if !id.trim().is_empty() => Some(id),
            Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Some(id.to_string()),
            Some(_) => return Err("`id` is neither a text nor a whole number".to_owned()),
        };
        let fields = Self {
            prompt: text(&mut object, "prompt")?.ok_or("it has no `prompt`")?,
            images: texts(&mut object, "images")?,
            id,
            model: text(&mut object, "model")?,
            system: text(&mut object, "system")?,
            cwd: text(&mut object, "cwd")?,
        };
        match object.keys().next() {
            Some(unknown) => Err(format!("there is no key `{unknown}`")),
            None if fields.prompt.trim().is_empty() => Err("its `prompt` is empty".to_owned()),
            None if fields.prompt.len() > PROMPT_BYTES_MAX => Err("its `prompt` has more than 10 MB".to_owned()),
            None => Ok(fields),
        }
    }

    fn line(self, number: usize, batch: &str, setup: &SetupArgs, equal: &mut HashMap<String, usize>) -> Result<Line, String> {
        let Self { prompt, images, id, model, system, cwd } = self;
        let mut setup = setup.clone();
        let cwd = cwd.map(PathBuf::from).or(setup.cd.take()).unwrap_or_else(|| PathBuf::from("."));
        let cwd = cwd.canonicalize().map_err(|error| format!("cannot work in `{}`: {error}", cwd.display()))?;
        let mut said = json!(["batch", batch, id, prompt, model, system, cwd.to_string_lossy()]);
        said.as_array_mut().into_iter().for_each(|said| said.extend(images.iter().map(|image| image.as_str().into())));
        let said = said.to_string();
        let images = images.iter().map(|image| cwd.join(image)).collect();
        let before = equal.entry(said.clone()).or_default();
        let key = format!("batch-{}", sha256_hex(format!("{said}{before}").as_bytes()));
        *before += 1;
        setup.cd = Some(cwd);
        setup.model = model.or(setup.model);
        setup.system_prompt = system.or(setup.system_prompt);
        let id = id.unwrap_or_else(|| number.to_string());
        let session_name = format!("{batch}/{id}");
        Ok(Line { number, id, prompt, images, setup, key, session_name })
    }
}

/// The texts in the array at `key`, taken out of `object`; null counts as none.
fn texts(object: &mut Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    let value = object.remove(key).unwrap_or_default();
    if value.is_null() {
        return Ok(Vec::new());
    }
    serde_json::from_value(value).map_err(|_| format!("`{key}` is no array of texts"))
}

/// The text at `key`, taken out of `object`; null counts as absent.
fn text(object: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{key}` is no text")),
    }
}
