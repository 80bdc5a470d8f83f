//! The inputs of a run, which determine it completely.

use std::collections::BTreeSet;

use crate::{chance::Draw, mutant::Mutant, profile::Profile};

/// The IDs of a run: the same for each entity, so that nothing can tell entities apart by ID alone.
pub const IDS: [&str; 4] = ["key-0", "key-1", "key-2", "key-3"];
/// The prefix of IDs.
pub(crate) const KEY: &str = "key-";
/// The name of the owner's relays in stories, or how it ends.
pub(crate) const RELAY: &str = "relay";

/// See the module documentation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) profile: Profile,
    pub(crate) seed: u64,
    /// The drawn faults that may happen; `None` means all. For shrinking.
    pub(crate) allowed: Option<BTreeSet<Draw>>,
    /// A fault in the code, or where it meets the world.
    pub(crate) mutant: Option<Mutant>,
}

impl Plan {
    pub(crate) fn new(profile: Profile, seed: u64) -> Self {
        Self { profile, seed, allowed: None, mutant: None }
    }
}
