//! The file store from outside: what it promises, on a simulated disk and on the real one.

#![expect(clippy::disallowed_methods, reason = "what is measured and checked is the real disk")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps, in its helpers too")]

mod cold;
mod crash;
mod disks;
mod failures;
mod forks;
mod handoff;
mod house;
mod importing;
mod ownership;
mod reading;
mod recovery;
mod repairs;
mod rescue;
mod resume;
mod scale;
mod sim;
mod stalls;
mod writing;
