//! Who may run which tool: the mode, the lists, and somebody to ask.

use crate::tool::Approver;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What happens to a tool call that no list names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PermissionMode {
    /// Calls that need approval are asked about; where there is nobody to ask they are denied.
    #[default]
    Ask,
    /// Calls that need approval are denied.
    ReadOnly,
    /// Every call runs.
    Allow,
}

/// The permissions of a session. They are not part of what the model sees, so that changing them changes no request.
#[derive(Clone, Default)]
pub struct Permissions {
    /// What happens to a call that no list names.
    pub mode: PermissionMode,
    /// Tools that run without asking, in every mode.
    pub allowed: BTreeSet<String>,
    /// Tools that never run; beats `allowed` and the mode.
    pub disallowed: BTreeSet<String>,
    /// Who is asked in [`PermissionMode::Ask`].
    pub approver: Option<Arc<dyn Approver>>,
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permissions")
            .field("mode", &self.mode)
            .field("allowed", &self.allowed)
            .field("disallowed", &self.disallowed)
            .field("approver", &self.approver.is_some())
            .finish()
    }
}
