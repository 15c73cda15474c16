//! Which model answers: names as typed (`provider/name`), endpoints and keys from the environment.
//!
//! A key belongs to one provider and goes to that provider's endpoint only: the one that the person named (`--base-url`, the provider's
//! variable) or the provider's own. An endpoint that only a session's log names is asked without a key.

use crate::app::App;
use crate::error::CliError;
use crate::learned::Learned;
use agent_runtime::providers::{Anthropic, Endpoint, HttpClient, OpenAi, OpenAiResponses, Secret};
use agent_runtime::{Model, ModelTable, OfflineModel};
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::task::JoinHandle;

/// What answers in a new session where a key is there and no model was named, in this order.
const DEFAULTS: [(Provider, &str); 2] = [(Provider::Anthropic, "claude-sonnet-5"), (Provider::OpenAi, "gpt-5.5")];

/// Who can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// The Messages API.
    Anthropic,
    /// Chat Completions, and what speaks it.
    OpenAi,
    /// OpenAI's Responses API.
    OpenAiResponses,
    /// Chat Completions on this machine.
    Ollama,
    /// The built-in model: no key, no network.
    Offline,
}

impl Provider {
    const ALL: [Self; 5] = [Self::Anthropic, Self::OpenAi, Self::OpenAiResponses, Self::Ollama, Self::Offline];

    fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::OpenAiResponses => "openai-responses",
            Self::Ollama => "ollama",
            Self::Offline => "offline",
        }
    }

    /// The variable that holds its key.
    pub(crate) fn key_variable(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => Some("ANTHROPIC_API_KEY"),
            Self::OpenAi | Self::OpenAiResponses => Some("OPENAI_API_KEY"),
            Self::Ollama | Self::Offline => None,
        }
    }

    /// The variable that names its endpoint.
    pub(crate) fn url_variable(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => Some("ANTHROPIC_BASE_URL"),
            Self::OpenAi | Self::OpenAiResponses => Some("OPENAI_BASE_URL"),
            Self::Ollama => Some("OLLAMA_HOST"),
            Self::Offline => None,
        }
    }
}

/// A model's name: `anthropic/claude-...`, `offline`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName {
    pub(crate) provider: Provider,
    /// Its name at the provider; empty for the offline model.
    pub(crate) name: String,
}

impl ModelName {
    pub(crate) fn offline() -> Self {
        Self { provider: Provider::Offline, name: String::new() }
    }

    /// Reads a name as typed.
    ///
    /// # Errors
    /// An unknown provider, or no name.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let (provider, name) = text.split_once('/').unwrap_or((text, ""));
        let found = Provider::ALL.into_iter().find(|known| known.name() == provider);
        match found {
            Some(Provider::Offline) if matches!(name, "" | "offline") => Ok(Self::offline()),
            Some(provider) if provider != Provider::Offline && !name.is_empty() => Ok(Self { provider, name: name.to_owned() }),
            _ => Err(CliError::usage(format!("`{text}` is no model that can be asked"))
                .hint("models are named `anthropic/NAME`, `openai/NAME`, `openai-responses/NAME`, `ollama/NAME` or `offline`")),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            Provider::Offline => f.write_str("offline"),
            provider => write!(f, "{}/{}", provider.name(), self.name),
        }
    }
}

/// Makes models. All of them share one HTTP client, which is built when it is first needed.
pub(crate) struct Models {
    http: HttpClient,
    table: ModelTable,
    /// The build of the client that was begun; [`Models::finish`] waits for it.
    warming: Mutex<Option<JoinHandle<()>>>,
    base_url: Option<String>,
    /// Whose endpoint the base URL is: the provider that is asked first. No other provider's key goes there.
    base_url_of: OnceLock<Provider>,
    learned: Learned,
    /// The models that were made, with their URLs and what was known of them: [`Models::finish`] looks what they learned.
    made: Mutex<Vec<Made>>,
    /// Keys and endpoints of the environment, by provider.
    found: Vec<(Provider, Found)>,
}

/// A model that was made.
struct Made {
    url: String,
    known: Vec<String>,
    model: Arc<dyn Model>,
}

/// What the environment says of a provider.
#[derive(Clone, Debug, Default)]
struct Found {
    key: Option<Secret>,
    url: Option<String>,
}

impl Models {
    /// Reads keys and endpoints, and what was learned of them from `home`. `base_url` is the person's own word for the endpoint, and beats the
    /// environment.
    ///
    /// # Errors
    /// As of [`model_table`].
    pub(crate) fn new(app: &App, home: &Path, base_url: Option<String>) -> Result<Self, CliError> {
        let found = |provider: Provider| Found {
            key: provider.key_variable().and_then(|name| app.env(name)).map(Secret::new),
            url: provider.url_variable().and_then(|name| app.env(name)).map(|url| match provider {
                Provider::Ollama => ollama_url(url),
                _ => url.to_owned(),
            }),
        };
        Ok(Self {
            http: HttpClient::with_system_proxy(),
            table: model_table(app.home())?,
            warming: Mutex::new(None),
            base_url,
            base_url_of: OnceLock::new(),
            learned: Learned::new(home),
            made: Mutex::default(),
            found: Provider::ALL.map(|provider| (provider, found(provider))).to_vec(),
        })
    }

    /// What is known of models.
    pub(crate) fn table(&self) -> &ModelTable {
        &self.table
    }

    /// The model of a new session where none was named; nothing where there is no key.
    pub(crate) fn default(&self) -> Option<ModelName> {
        let with_key = |(provider, _): &(Provider, &str)| self.found(*provider).key.is_some();
        let (provider, name) = DEFAULTS.into_iter().find(with_key)?;
        Some(ModelName { provider, name: name.to_owned() })
    }

    /// The model `name`. Where it is asked over TLS, the HTTP client begins to be built, beside what else happens. `before` is the
    /// endpoint where a stored session was answered: it is asked again, without a key, where neither the person nor the environment names
    /// one. Must be called inside the tokio runtime.
    ///
    /// # Errors
    /// As [`Models::endpoint`]; a bad URL or key.
    pub(crate) fn make(&self, name: &ModelName, before: Option<&str>) -> Result<Arc<dyn Model>, CliError> {
        let Some(mut endpoint) = self.endpoint(name, before)? else { return Ok(Arc::new(OfflineModel::new())) };
        if endpoint.base_url.starts_with("https:") {
            self.warm();
        }
        let refuses = self.table.facts(name.provider.name(), &name.name).refuses;
        endpoint.learned = self.learned.of(&endpoint.base_url, &endpoint.model);
        endpoint.learned.extend(refuses);
        let (url, known) = (endpoint.base_url.clone(), endpoint.learned.clone());
        let http = self.http.clone();
        let bad = |error| CliError::usage(format!("`{name}` cannot be asked: {error}"));
        let model: Arc<dyn Model> = match name.provider {
            Provider::Anthropic => Arc::new(Anthropic::new(endpoint, http).map_err(bad)?),
            Provider::OpenAiResponses => Arc::new(OpenAiResponses::new(endpoint, http).map_err(bad)?),
            _ => Arc::new(OpenAi::new(endpoint, http).map_err(bad)?),
        };
        lock(&self.made).push(Made { url, known, model: Arc::clone(&model) });
        Ok(model)
    }

    /// Where `name` is asked; nothing for the offline model.
    ///
    /// # Errors
    /// No key where one is needed.
    pub(crate) fn endpoint(&self, name: &ModelName, before: Option<&str>) -> Result<Option<Endpoint>, CliError> {
        let Some(own_url) = own_url(name.provider) else { return Ok(None) };
        let Found { key, url } = self.found(name.provider);
        let is_first = *self.base_url_of.get_or_init(|| name.provider) == name.provider;
        let base_url = self.base_url.clone().filter(|_| is_first);
        let (url, key) = match (base_url.or(url), before) {
            (Some(url), _) => (url, key),
            (None, Some(before)) if before != own_url => (before.to_owned(), None),
            (None, _) => (own_url.to_owned(), key),
        };
        if let (Some(variable), true, None) = (name.provider.key_variable(), url == own_url, &key) {
            return Err(CliError::usage(format!("there is no key for `{name}`"))
                .hint(format!("set `{variable}`, or try everything without a key: `-m offline`")));
        }
        let mut endpoint = Endpoint::new(name.provider.name(), url, name.name.as_str());
        endpoint.api_key = key;
        endpoint.limits = self.table.limits(name.provider.name(), &name.name);
        Ok(Some(endpoint))
    }

    /// Waits for what was begun, and keeps what the models learned for the next process.
    pub(crate) async fn finish(&self) {
        let task = lock(&self.warming).take();
        if let Some(task) = task {
            // Building a client that was never needed may fail; who needed it was told.
            let _ = task.await;
        }
        for Made { url, known, model } in std::mem::take(&mut *lock(&self.made)) {
            let learned = model.learned();
            if learned != known {
                self.learned.remember(&url, &model.origin().model, learned);
            }
        }
    }

    fn warm(&self) {
        let http = self.http.clone();
        lock(&self.warming).get_or_insert_with(|| tokio::spawn(async move { http.warm().await }));
    }

    fn found(&self, provider: Provider) -> Found {
        self.found.iter().find(|(known, _)| *known == provider).map(|(_, found)| found.clone()).unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere does not make the data wrong: each critical section leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The provider's own endpoint; nothing for the built-in model.
fn own_url(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Anthropic => Some("https://api.anthropic.com"),
        Provider::OpenAi | Provider::OpenAiResponses => Some("https://api.openai.com/v1"),
        Provider::Ollama => Some("http://127.0.0.1:11434/v1"),
        Provider::Offline => None,
    }
}

/// The endpoint in `OLLAMA_HOST`, which may leave out the scheme and the port, and may be the address that a server binds.
fn ollama_url(host: &str) -> String {
    let (scheme, rest) = host.trim().split_once("://").unwrap_or(("http", host.trim()));
    let rest = rest.trim_end_matches('/');
    let rest = rest.strip_prefix("0.0.0.0").map_or_else(|| rest.to_owned(), |port| format!("127.0.0.1{port}"));
    let (authority, path) = rest.split_once('/').map_or((rest.as_str(), ""), |(authority, path)| (authority, path));
    let has_port =
        authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = if has_port || scheme == "https" { "" } else { ":11434" };
    let path = path.trim_end_matches("v1").trim_end_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{scheme}://{authority}{port}{slash}{path}/v1")
}

/// The user's own file of models.
const FILE: &str = "models.json";

/// What is known of models: by the program, and by `models.json` in `home`, which need not be there.
///
/// # Errors
/// Where that file cannot be read.
pub(crate) fn model_table(home: &Path) -> Result<ModelTable, CliError> {
    let mut table = ModelTable::built_in();
    let path = home.join(FILE);
    match std::fs::read(&path) {
        Ok(json) => table.extend(&json).map_err(|error| {
            CliError::usage(format!("`{}` cannot be read: {error}", path.display()))
                .hint("`longhand models --help` shows what it may hold")
        })?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(CliError::io("read", path)(error)),
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for name in
            ["anthropic/claude-sonnet-5", "openai/org/model:tag", "openai-responses/gpt-5.5", "ollama/llama3.3", "offline"]
        {
            assert_eq!(ModelName::parse(name).expect(name).to_string(), name);
        }
        assert_eq!(ModelName::parse("offline/offline").expect("the stored form"), ModelName::offline());
        for bad in ["", "gpt-5", "anthropic", "anthropic/", "offline/x", "Offline", "nobody/x"] {
            assert_eq!(ModelName::parse(bad).expect_err(bad).exit(), crate::error::Exit::Usage);
        }
    }

    #[test]
    fn ollama_hosts_are_read_as_ollama_reads_them() {
        for (host, url) in [
            ("127.0.0.1", "http://127.0.0.1:11434/v1"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080/v1"),
            ("http://box:1234/", "http://box:1234/v1"),
            ("http://box:1234/v1", "http://box:1234/v1"),
            ("https://ollama.example/sub", "https://ollama.example/sub/v1"),
        ] {
            assert_eq!(ollama_url(host), url);
        }
    }
}
