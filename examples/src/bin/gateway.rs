//! A small HTTP gateway in front of the runtime: one endpoint, which answers a message with server-sent events.
//!
//! ```text
//! cargo run -p longhand-examples --bin gateway -- 127.0.0.1:8080
//! curl -N 127.0.0.1:8080/messages -d '{"text": "What is in this folder?"}'
//! curl -N 127.0.0.1:8080/messages -d '{"text": "And what did I ask first?", "session": "<id from the first event>"}'
//! ```
//!
//! A client that goes away does not stop its turn: the answer is in the session's log when it comes back. A second
//! message for a session that is busy is refused with 409.

use agent_runtime::session_store::{FileStore, FileStoreOptions, SessionId};
use agent_runtime::{OfflineModel, Runtime, SendError, Session, Setup, Turn, TurnEvent, tools};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_stream::{Stream, StreamExt};

#[derive(Deserialize)]
struct Message {
    text: String,
    session: Option<SessionId>,
}

struct Gateway {
    runtime: Runtime,
    setup: Setup,
    /// The sessions that are open here. A real gateway would close those that are idle for long.
    open: Mutex<HashMap<SessionId, Session>>,
}

impl Gateway {
    async fn session(&self, id: Option<SessionId>) -> Result<Session, SendError> {
        let mut open = self.open.lock().await;
        if let Some(session) = id.and_then(|id| open.get(&id)) {
            return Ok(session.clone());
        }
        let session = match id {
            Some(id) => self.runtime.resume(id, self.setup.clone()).await?,
            None => self.runtime.create(self.setup.clone()).await?,
        };
        open.insert(session.id(), session.clone());
        Ok(session)
    }
}

async fn messages(
    State(gateway): State<Arc<Gateway>>,
    Json(message): Json<Message>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, (StatusCode, String)> {
    let session = gateway.session(message.session).await.map_err(|error| refusal(&error))?;
    let turn = session.send(&message.text).await.map_err(|error| refusal(&error))?;
    let first = Event::default().event("session").data(session.id().to_string());
    let events = tokio_stream::once(first).chain(shown(turn)).map(Ok);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// The turn as the client sees it: text as it comes, and how it ended.
fn shown(turn: Turn) -> impl Stream<Item = Event> {
    turn.filter_map(|event| match event {
        TurnEvent::Delta(delta) => Some(Event::default().event("delta").data(json!({"text": delta.text}).to_string())),
        TurnEvent::Entry(entry) => match &entry.event {
            agent_runtime::session_store::Event::TurnEnded(ended) => {
                Some(Event::default().event("ended").data(json!({"reason": ended.reason, "error": ended.error}).to_string()))
            }
            _ => None,
        },
        _ => None,
    })
}

fn refusal(error: &SendError) -> (StatusCode, String) {
    let status = match error {
        SendError::Busy => StatusCode::CONFLICT,
        SendError::Empty | SendError::TooLong { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, error.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let home = arguments.next().map_or_else(|| std::env::temp_dir().join("longhand-gateway"), Into::into);
    let runtime = Runtime::new(Arc::new(FileStore::open(FileStoreOptions::new(home))?));
    let mut setup = Setup::new(Arc::new(OfflineModel::new()), std::env::current_dir()?);
    setup.tools = tools::builtin();
    let gateway = Arc::new(Gateway { runtime: runtime.clone(), setup, open: Mutex::default() });
    let listener = tokio::net::TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    let app = Router::new().route("/messages", post(messages)).with_state(gateway);
    let stop = async {
        // Without a signal to wait for, the gateway serves until it is killed, which costs its sessions one window at most.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
