//! The file store from outside: what it promises, on a simulated disk and on the real one.

mod crash;
mod failures;
mod ownership;
mod reading;
mod recovery;
mod sim;
mod writing;
