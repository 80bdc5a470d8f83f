//! What one run is: everything that it follows from.

use std::collections::BTreeSet;

use crate::{chance::Draw, mutant::Mutant, profile::Profile};

/// What ids begin with.
pub(crate) const KEY: &str = "key-";
/// What the story calls the owner's relays.
pub(crate) const RELAY: &str = "relay";

/// See the module's description.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) profile: Profile,
    pub(crate) seed: u64,
    /// Which of the faults that chance would bring do happen; none means all. For shrinking.
    pub(crate) allowed: Option<BTreeSet<Draw>>,
    /// A fault in the code, or where it meets the world.
    pub(crate) mutant: Option<Mutant>,
}

impl Plan {
    pub(crate) fn new(profile: Profile, seed: u64) -> Self {
        Self { profile, seed, allowed: None, mutant: None }
    }
}
