#![doc = include_str!("../README.md")]

mod accident;
mod broker;
mod check;
mod consumer;
mod fault;
mod link;
mod node;
mod owner;
mod plain;
mod poison;
pub mod ports;
mod published;
mod random;
mod report;
mod run;
mod service;
mod shrink;
mod world;

use std::{ops::Range, sync::Arc};

pub use fault::{Fault, Profile};
pub use random::Random;
pub use report::{Outcome, Summary};
pub use service::Service;

use world::Plan;

/// Runs one seed: always the same story.
pub fn run<S: Service>(service: &Arc<S>, profile: Profile, seed: u64) -> Outcome {
    run::run(service, Plan { profile, seed, allowed: None })
}

/// Runs every seed, and panics at the first that breaks a rule: with the story, shortened to the
/// faults that are needed, and the command that runs it again.
///
/// With `CHAOS_SEED` set, just that seed is run.
pub fn explore<S: Service>(service: S, profile: Profile, seeds: Range<u64>) -> Summary {
    let service = Arc::new(service);
    let one = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(seeds, |seed: u64| seed..seed + 1);
    let mut summary = Summary::default();
    for seed in seeds {
        let outcome = run(&service, profile, seed);
        if !outcome.is_good() {
            let small = shrink::shrink(&service, &outcome);
            let test = std::thread::current().name().unwrap_or("TEST").to_owned();
            panic!(
                "{small}\n{} of {} faults are needed. To run it again:\n    CHAOS_SEED={seed} cargo test {test}\n",
                small.faults.len(),
                outcome.faults.len(),
            );
        }
        summary.add(&outcome);
    }
    summary
}
