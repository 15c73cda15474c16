//! What the clients of all protocols have in common: an endpoint, what was learned of it, and the call.

use super::endpoint::{Endpoint, EndpointError};
use super::failure::{Learnable, Learned, Peer};
use super::http::{Decoder, HttpClient, Refusal, Request, is_local, send};
use crate::clocks::Clocks;
use crate::model::{Body, FailureKind, ModelFailure, ModelStream};
use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use session_store::Origin;
use std::fmt;
use std::sync::Arc;

pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) origin: Origin,
    pub(crate) learned: Learned,
    peer: Arc<Peer>,
    url: Url,
    headers: HeaderMap,
    http: HttpClient,
}

impl Client {
    /// A client that posts to `path` below the endpoint's base URL, with `headers` and those that every request has.
    pub(crate) fn new(
        endpoint: Endpoint,
        http: HttpClient,
        path: &[&str],
        mut headers: HeaderMap,
    ) -> Result<Self, EndpointError> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        Ok(Self {
            origin: endpoint.origin()?,
            learned: Learned::new(endpoint.learned.iter().cloned()),
            peer: Arc::new(Peer { name: endpoint.name()?, secret: endpoint.api_key.clone() }),
            url: endpoint.url(path)?,
            headers,
            http,
            endpoint,
        })
    }

    pub(crate) async fn warm(&self) {
        if !is_local(&self.url) {
            self.http.warm().await;
        }
    }

    /// Sends `body`. A refusal that names one of its parameters is learned from: the next body does without it.
    pub(crate) async fn call<D: Decoder>(
        &self,
        body: Body,
        protocol: Protocol<D>,
        clocks: &Clocks,
    ) -> Result<ModelStream, ModelFailure> {
        let mut headers = self.headers.clone();
        headers.extend(protocol.headers);
        let request = Request { peer: Arc::clone(&self.peer), url: self.url.clone(), headers, body: body.clone() };
        send(&self.http, request, clocks, protocol.decoder).await.map_err(|Refusal { failure, error }| {
            let refused = matches!(failure.kind, FailureKind::BadRequest | FailureKind::ImageRefused);
            let refused = refused && matches!(failure.status, Some(400 | 422));
            match error {
                Some(error) if refused && self.learned.learn(protocol.learnable, &body, &error) => {
                    ModelFailure { kind: FailureKind::Learned, ..failure }
                }
                _ => failure,
            }
        })
    }
}

/// What one protocol has of its own in a call.
pub(crate) struct Protocol<D> {
    /// Headers beside the endpoint's.
    pub(crate) headers: HeaderMap,
    pub(crate) decoder: D,
    /// The parameters that a server may refuse.
    pub(crate) learnable: &'static [Learnable],
}

impl fmt::Debug for Client {
    /// Who is asked. The URL may hold a password, and the headers hold the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("origin", &self.origin).finish_non_exhaustive()
    }
}
