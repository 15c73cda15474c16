//! A tool that only looks, for tests in which it does not matter at what.

use agent_runtime::session_store::ToolSpec;
use agent_runtime::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use serde_json::{Value, json};

pub(crate) struct Look;

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        ToolSpec { name: "look".into(), description: "Looks.".into(), parameters: json!({"type": "object"}) }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, _arguments: &Value) -> String {
        "look".to_owned()
    }

    async fn run(&self, _arguments: Value, _context: ToolContext) -> Result<ToolOutput, ToolError> {
        tokio::task::yield_now().await;
        Ok(ToolOutput::text("what was seen"))
    }
}
