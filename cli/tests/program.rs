//! The program as its users meet it: real processes, each with a home of its own.

#[path = "program/common.rs"]
mod common;
#[path = "program/exchange.rs"]
mod exchange;
#[path = "program/house.rs"]
mod house;
#[path = "program/print.rs"]
mod print;
#[path = "program/sessions.rs"]
mod sessions;
#[path = "program/stdin.rs"]
mod stdin;
#[path = "program/usage.rs"]
mod usage;
