#![doc = include_str!("../README.md")]

mod accident;
mod broker;
mod chance;
mod check;
mod consumer;
mod end;
mod fault;
mod link;
mod node;
mod only;
mod owner;
mod plain;
mod poison;
pub mod ports;
mod profile;
mod published;
mod random;
mod report;
mod run;
mod service;
mod shrink;
mod world;

use std::{ops::Range, sync::Arc};

pub use fault::Fault;
pub use profile::Profile;
pub use random::Random;
pub use report::{Outcome, Summary};
pub use service::Service;

use only::Only;
use world::Plan;

/// Runs one seed: always the same story.
pub fn run<S: Service>(service: &Arc<S>, profile: Profile, seed: u64) -> Outcome {
    run::run(service, Plan { profile, seed, allowed: None })
}

/// Runs every seed, and panics at the first that breaks a rule: with the story, shortened to the
/// faults that are needed, and the command that runs it again.
///
/// With `CHAOS_SEED` set, just that seed is run; with `CHAOS_PROFILE`, just that profile.
pub fn explore<S: Service>(service: S, profile: Profile, seeds: Range<u64>) -> Summary {
    let service = Arc::new(service);
    let only = Only::from(|name| std::env::var(name).ok());
    let mut summary = Summary { is_part: only != Only::default(), ..Summary::default() };
    for seed in only.seeds(profile, seeds) {
        let outcome = run(&service, profile, seed);
        if !outcome.is_good() {
            let small = shrink::shrink(&service, &outcome);
            panic!("{}", report::failure(&outcome, &small));
        }
        summary.add(&outcome);
    }
    summary
}
