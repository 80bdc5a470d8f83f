//! The work on keys: which one and when, its callback and what that means, and how its run ends.
//!
//! `run`, `queue`, `outcome` and `ending` are pure: what they decide follows from what they are given.

pub(crate) mod batch;
pub(crate) mod ending;
pub mod outcome;
pub(crate) mod queue;
pub(crate) mod reentry;
pub(crate) mod refill;
pub(crate) mod run;
pub(crate) mod settle;
pub(crate) mod worker;
