//! The interactive chat.

use crate::app::App;
use crate::error::{CliError, Exit};
use crate::setup::Plan;

/// Chats in this terminal until the person leaves.
pub(crate) async fn run(app: &App, plan: Plan) -> Result<Exit, CliError> {
    let _ = (app, plan);
    Err(CliError::failed("not built yet"))
}
