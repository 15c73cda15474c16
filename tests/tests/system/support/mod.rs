//! What the tests stand on: a machine with an empty home, runs of the program, and a reader of its logs.

mod log;
mod machine;
mod run;

pub(crate) use log::Log;
pub(crate) use machine::{KEY, Machine, Protocol};
pub(crate) use run::{Finished, Input, Run, Running};

use std::time::Duration;

/// How long any run may take before it counts as hung. Machines under test are slow and busy; no test waits this long when all is well.
pub(crate) const HUNG: Duration = Duration::from_secs(180);
