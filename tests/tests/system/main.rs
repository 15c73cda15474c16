//! The whole program, as a person or another program meets it: real processes, real signals, real files, and a provider
//! that stalls, cuts and lies.
//!
//! Nothing in here uses the project's own libraries: requests are judged by the fault server, and logs are read by a small reader of their
//! own (`support/log.rs`), so that a mistake on both sides cannot hide itself. Each test has a home of its own and an empty environment.
//! There is no test of a clock that steps back: from outside, that needs the machine's own clock; the store's tests inject one.

mod batch;
mod chat;
mod exits;
mod faults;
mod garbage;
mod images;
mod kills;
mod message_id;
mod print;
mod readme;
mod rerun;
mod sharing;
mod signals;
mod standard_input;
mod storage;
mod structured;
mod support;

#[test]
fn every_file_of_tests_is_listed_above() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system");
    for file in std::fs::read_dir(folder).expect("the folder of this file").flatten() {
        let name = file.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        let listed = format!("\nmod {name};\n");
        assert!(name == "main" || include_str!("main.rs").contains(&listed), "`{name}` is compiled by nobody");
    }
}
