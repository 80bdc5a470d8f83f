//! The work on keys: which one and when, its callback and what that means, and how its run ends.

pub(crate) mod batch;
pub(crate) mod ending;
pub mod outcome;
pub mod queue;
pub(crate) mod reentry;
pub(crate) mod worker;
