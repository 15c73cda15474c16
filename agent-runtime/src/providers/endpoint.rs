//! Where a model is asked, as whom, and what is known of it beforehand.

use crate::model::ModelLimits;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use session_store::{Origin, sha256_hex};
use std::fmt;
use std::sync::Arc;

/// A credential. It shows itself to nobody who prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The credential itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The first 8 hexadecimal digits of its SHA-256: tells two credentials apart and gives neither away.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut digits = sha256_hex(self.0.as_bytes());
        digits.truncate(8);
        digits
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A model at a server.
#[derive(Clone)]
pub struct Endpoint {
    /// The provider's name: `anthropic`, `openai`, `ollama`, ...
    pub provider: String,
    /// Where the server is, `http` or `https`. As the providers' own SDKs read it: OpenAI's ends in `/v1`, Anthropic's does not.
    pub base_url: String,
    /// The model's name at that server.
    pub model: String,
    /// Sent to this endpoint and to no other.
    pub api_key: Option<Secret>,
    /// What the model can take.
    pub limits: ModelLimits,
    /// The header `anthropic-version`; only the Messages API has it.
    pub anthropic_version: String,
    /// What an earlier process learned of this endpoint and model: [`Model::learned`](crate::Model::learned).
    pub learned: Vec<String>,
}

impl Endpoint {
    /// An endpoint with no key, the limits of an unknown model, and nothing learned.
    pub fn new(provider: impl Into<String>, base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            base_url: base_url.into(),
            model: model.into(),
            api_key: None,
            limits: ModelLimits::default(),
            anthropic_version: "2023-06-01".to_owned(),
            learned: Vec::new(),
        }
    }

    /// The base URL with `path` after its own.
    pub(crate) fn url(&self, path: &[&str]) -> Result<Url, EndpointError> {
        let bad = |why: &str| EndpointError::BaseUrl { why: why.to_owned() };
        let mut url: Url = self.base_url.trim().parse().map_err(|error| bad(&format!("{error}")))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(bad("it has to begin with `http://` or `https://` and name a host"));
        }
        url.set_fragment(None);
        url.path_segments_mut().map_err(|()| bad("it cannot have a path"))?.pop_if_empty().extend(path);
        Ok(url)
    }

    /// Who answers, without anything secret.
    pub(crate) fn origin(&self) -> Result<Origin, EndpointError> {
        let mut url = self.url(&[])?;
        // An http URL has a host, so that taking the user away cannot fail.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        Ok(Origin {
            provider: self.provider.clone(),
            endpoint: url.as_str().trim_end_matches('/').to_owned(),
            model: self.model.clone(),
            credential: self.api_key.as_ref().map(Secret::fingerprint).unwrap_or_default(),
        })
    }

    /// As an error names it: `anthropic at api.anthropic.com`.
    pub(crate) fn name(&self) -> Result<String, EndpointError> {
        let url = self.url(&[])?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(format!("{} at {}{port}", self.provider, url.host_str().unwrap_or_default()))
    }
}

impl fmt::Debug for Endpoint {
    /// Who is asked, without the key and without a password in the URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("origin", &self.origin()).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Adds a header whose value must not be printed.
pub(crate) fn secret_header(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), EndpointError> {
    let mut value = header_value(name, value)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

pub(crate) fn header_value(name: &'static str, value: &str) -> Result<HeaderValue, EndpointError> {
    HeaderValue::from_str(value).map_err(|_| EndpointError::Header { name })
}

/// An endpoint that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The base URL is none. It is not repeated, as it may hold a password.
    #[error("the base URL of the model cannot be used: {why}")]
    BaseUrl {
        /// Why not.
        why: String,
    },
    /// A value has characters that no HTTP header can hold, such as a line break at the end of a key. It is not repeated.
    #[error("the value for the header `{name}` has characters that a header cannot hold (a line break at its end?)")]
    Header {
        /// The header.
        name: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_gets_the_path_after_its_own() {
        let url = |base| Endpoint::new("x", base, "m").url(&["chat", "completions"]).map(|url| url.to_string());
        assert_eq!(url("https://api.openai.com/v1").as_deref(), Ok("https://api.openai.com/v1/chat/completions"));
        assert_eq!(url("http://localhost:8080/v1/").as_deref(), Ok("http://localhost:8080/v1/chat/completions"));
        assert_eq!(
            url("https://x.example/v1?api-version=2").as_deref(),
            Ok("https://x.example/v1/chat/completions?api-version=2")
        );
        for bad in ["", "api.openai.com", "ftp://x.example", "file:///tmp/x", "http://"] {
            assert!(matches!(url(bad), Err(EndpointError::BaseUrl { .. })), "{bad}");
        }
    }

    #[test]
    fn an_origin_tells_credentials_apart_and_gives_none_away() {
        let mut endpoint = Endpoint::new("openai", "https://me:pass@api.example/v1/", "m");
        endpoint.api_key = Some(Secret::new("sk-one"));
        let origin = endpoint.origin().expect("a good URL");
        assert_eq!(origin.endpoint, "https://api.example/v1");
        assert_eq!(origin.credential.len(), 8);
        let shown = format!("{endpoint:?}");
        assert!(!shown.contains("sk-one") && !shown.contains("pass"), "{shown}");
        endpoint.api_key = Some(Secret::new("sk-two"));
        assert_ne!(endpoint.origin().expect("a good URL").credential, origin.credential);
    }
}
