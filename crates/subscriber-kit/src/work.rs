//! The work on keys: which one and when, its callback and what the answer means, and how its run ends.
//!
//! `run`, `queue`, `outcome` and `ending` are pure: their decisions depend on their arguments alone.

pub(crate) mod batch;
pub(crate) mod ending;
pub(crate) mod look;
pub mod outcome;
pub(crate) mod queue;
pub(crate) mod reentry;
pub(crate) mod refill;
pub(crate) mod run;
pub(crate) mod settle;
pub(crate) mod waiting;
pub(crate) mod worker;
