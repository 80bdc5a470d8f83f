//! Random decisions. Each purpose has its own random numbers, so that leaving out a fault changes
//! nothing else: neither the owner's edits, nor the other faults, nor their durations.

use std::collections::BTreeSet;

use nudge_chance::Random;

use crate::{fault::Fault, profile::Profile};

/// One draw for a fault: which fault, and the number of the draw.
pub(crate) type Draw = (Fault, u64);

/// Out of this many of the profile's faults, two do not happen in a run, and one happens often.
const MOODS: u64 = 8;
/// How much more often that is; and the limit, in a thousand.
const OFTEN: u64 = 4;
const MAX_PERMILLE: u64 = 500;

/// See the module documentation.
pub(crate) struct Chance {
    seed: u64,
    /// What the owner does and when, and what happens to everyone.
    pub(crate) script: Random,
    /// How often each fault happens, in a thousand.
    permille: Vec<u64>,
    /// How often it was asked for.
    drawn: Vec<u64>,
    /// The random numbers for each fault that happened last.
    last: Vec<Random>,
    /// Happens the next time, whatever is drawn.
    forced: BTreeSet<Fault>,
}

impl Chance {
    pub(crate) fn new(profile: Profile, seed: u64) -> Self {
        let seed = Random::new(seed ^ ((profile as u64) << 56)).any();
        let mut permille = vec![0; Fault::ALL.len()];
        let mut moods = Random::new(seed ^ 1);
        for (fault, rate) in profile.faults() {
            permille[*fault as usize] = match moods.below(MOODS) {
                0 | 1 => 0,
                2 => (rate * OFTEN).min(MAX_PERMILLE),
                _ => *rate,
            };
        }
        Self {
            seed,
            script: Random::new(seed),
            permille,
            drawn: vec![0; Fault::ALL.len()],
            last: vec![Random::new(0); Fault::ALL.len()],
            forced: BTreeSet::new(),
        }
    }

    /// Whether this fault may happen in this run at all.
    pub(crate) fn may(&self, fault: Fault) -> bool {
        self.permille[fault as usize] > 0
    }

    /// Random numbers for one user alone.
    pub(crate) fn of(&self, name: &str) -> Random {
        let letters = name.bytes().map(u64::from);
        Random::new(letters.fold(self.seed, |mixed, letter| Random::new(mixed ^ letter).any()))
    }

    /// Draws for a fault once more. `None` if it does not happen.
    pub(crate) fn draw(&mut self, fault: Fault) -> Option<Draw> {
        let at = fault as usize;
        let forced = self.forced.remove(&fault);
        if self.permille[at] == 0 && !forced {
            return None;
        }
        self.drawn[at] += 1;
        let number = self.drawn[at];
        let mut random = Random::new(Random::new(self.seed ^ (number << 8) ^ at as u64).any());
        let happens = random.chance(self.permille[at]) || forced;
        self.last[at] = random;
        happens.then_some((fault, number))
    }

    /// The random numbers for the fault that just happened.
    pub(crate) fn about(&mut self, fault: Fault) -> &mut Random {
        &mut self.last[fault as usize]
    }

    /// Makes this fault happen when it next can.
    pub(crate) fn force(&mut self, fault: Fault) {
        self.forced.insert(fault);
    }
}
