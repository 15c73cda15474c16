//! `todo`: the session's todo list, replaced whole.

use super::text;
use crate::tool::{Tool, ToolContext, ToolError, ToolOutput};
use async_trait::async_trait;
use serde_json::{Value, json};
use session_store::{Todo, TodoStatus, ToolSpec};

/// Replaces the todo list. The list lives in the session's log, so this changes nothing outside of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TodoTool;

#[async_trait]
impl Tool for TodoTool {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "todo".into(),
            description: "Replace the todo list of this session. Use it for work of three steps or more: write all steps down \
                          first, keep one `in_progress`, and mark each `completed` as soon as it is done. Always give the whole list."
                .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "todos": {
                        "type": "array",
                        "maxItems": 200,
                        "items": {
                            "type": "object",
                            "properties": {
                                "content": {"type": "string", "minLength": 1, "maxLength": 1000, "description": "What is to be done."},
                                "status": {"type": "string", "enum": ["pending", "in_progress", "completed"]}
                            },
                            "required": ["content", "status"],
                            "additionalProperties": false
                        }
                    }
                },
                "required": ["todos"],
                "additionalProperties": false
            }),
        }
    }

    fn side_effects(&self) -> bool {
        false
    }

    fn describe(&self, arguments: &Value) -> String {
        format!("todo ({} items)", arguments["todos"].as_array().map_or(0, Vec::len))
    }

    async fn run(&self, arguments: Value, _context: ToolContext) -> Result<ToolOutput, ToolError> {
        let items = arguments["todos"].as_array().map_or(&[][..], Vec::as_slice);
        let todos: Vec<Todo> =
            items.iter().map(|item| Todo { content: text(item, "content").to_owned(), status: status(item) }).collect();
        let text = told(&todos);
        Ok(ToolOutput { todos: Some(todos), ..ToolOutput::text(text) })
    }
}

fn status(item: &Value) -> TodoStatus {
    match text(item, "status") {
        "completed" => TodoStatus::Completed,
        "in_progress" => TodoStatus::InProgress,
        _ => TodoStatus::Pending,
    }
}

fn told(todos: &[Todo]) -> String {
    let done = todos.iter().filter(|todo| todo.status == TodoStatus::Completed).count();
    let mut out = format!("{done} of {} done\n", todos.len());
    for todo in todos {
        let mark = match todo.status {
            TodoStatus::Completed => 'x',
            TodoStatus::InProgress => '>',
            TodoStatus::Pending => ' ',
        };
        out.push_str(&format!("[{mark}] {}\n", todo.content));
    }
    out
}
