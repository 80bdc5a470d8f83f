//! Every program is a process of its own here, and is killed, stopped and frozen in the middle of a
//! stream of edits. Whatever happens, in the end everyone says the same of every store.
//!
//! `make faults` runs these on both databases, and shows how fast it went.

mod ends;

use nudge_tests::processes::{Further, World, roster::Service};

/// The program of `tests/src/bin/program.rs`.
const PROGRAM: &str = env!("CARGO_BIN_EXE_program");

/// One of each.
async fn one_of_each() -> World {
    let mut world = World::new(PROGRAM).await;
    world.add("store-info", Service::StoreInfo, Further::default()).await;
    world.add("search", Service::Search, Further::default()).await;
    world.add("review", Service::Review, Further::default()).await;
    world
}
