//! One file per subcommand: what can be typed for it, and what it does.

pub(crate) mod batch;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod models;
pub(crate) mod replay;
pub(crate) mod sessions;
pub(crate) mod usage;
