#![doc = include_str!("../README.md")]

mod check;
mod circle;
mod owner;
mod protocol;
mod rule;
mod scenario;
mod state;
mod subscriber;

pub use check::{Checked, Counterexample, MAX_STATES, check, endless};
pub use protocol::Action;
pub use rule::{Code, Rule};
pub use scenario::{Left, Scenario, WHOLE, without};
