//! Every program is a separate process here, and is killed, stopped and frozen in the middle of a stream of edits.
//! Whatever happens, in the end everyone agrees about every store.
//!
//! `make faults` runs these on both databases and prints the costs.

mod copies;
mod ends;
mod frozen;
mod replicas;

use nudge_tests::{
    Random, Service,
    processes::{Further, NATS, World},
};

/// The program of `tests/src/bin/program.rs`.
const PROGRAM: &str = env!("CARGO_BIN_EXE_program");

/// The programs that [`one_of_each`] starts.
const EVERYONE: [&str; 4] = [NATS, "store-info", "search", "review"];
/// How often each of them is hit by a fault.
const ROUNDS: usize = 5;

/// Each of them [`ROUNDS`] times, in random order.
fn in_any_order(random: &mut Random) -> Vec<&'static str> {
    let mut names = EVERYONE.repeat(ROUNDS);
    random.shuffle(&mut names);
    names
}

/// One of each.
async fn one_of_each() -> World {
    let mut world = World::new(PROGRAM).await;
    world.add("store-info", Service::StoreInfo, Further::default()).await;
    world.add("search", Service::Search, Further::default()).await;
    world.add("review", Service::Review, Further::default()).await;
    world
}
