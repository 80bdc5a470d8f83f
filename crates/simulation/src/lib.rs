#![doc = include_str!("../README.md")]

mod broker;
mod cast;
mod chance;
mod contents;
mod fate;
mod fault;
mod followed;
mod follower;
mod history;
mod link;
mod mirrored;
#[doc(hidden)]
pub mod mutant;
mod node;
mod only;
mod owner;
mod plain;
mod plan;
pub mod ports;
mod processor;
mod profile;
mod read_model;
mod report;
mod run;
mod service;
mod shrink;
mod simulation;
mod story;
mod world;

use std::ops::Range;

pub use fault::Fault;
pub use mirrored::Mirrored;
pub use nudge_chance::Random;
pub use only::seeds;
pub use plan::IDS;
pub use profile::Profile;
pub use report::{Outcome, Summary};
pub use service::{Service, State, States};
pub use simulation::Simulation;

/// Runs every seed with one service, as [`Simulation::explore`] does.
///
/// # Panics
///
/// At the first seed that breaks a rule, with its story.
pub fn explore(service: impl Service, profile: Profile, seeds: Range<u64>) -> Summary {
    Simulation::only(service).explore(profile, seeds)
}
