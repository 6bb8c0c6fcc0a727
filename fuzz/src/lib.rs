//! What the fuzzer runs: one function for each machine that takes bytes from strangers.
//!
//! Each takes any bytes and panics if a promise is broken. They are plain functions: `fuzz_targets/` hands
//! them to libFuzzer, `tests/fuzz.rs` replays the corpus through them and mutates it for a while, with the
//! stable toolchain.

pub mod admin;
pub mod config;
pub mod glob;
pub mod hub;
mod input;
pub mod pipe;
pub mod replies;
pub mod requests;
pub mod session;
pub mod tracked;

/// What a target does with one input; it panics where something is wrong.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 9] = [
    ("requests", requests::run),
    ("replies", replies::run),
    ("session", session::run),
    ("pipe", pipe::run),
    ("hub", hub::run),
    ("tracked", tracked::run),
    ("config", config::run),
    ("admin", admin::run),
    ("glob", glob::run),
];
