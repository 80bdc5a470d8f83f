//! Faults that a port commits, or a table: whether they are found is shown in every run of the tests. For
//! those in the code itself, and for all profiles, there is `make mutants`.

use nudge_simulation::{Simulation, mutant::Mutant};

use super::thing::{self, Things};

/// Most seeds that one takes; see `docs/kill-matrix.md`.
const MAX_SEEDS: u64 = 1_000;

#[test]
fn each_fault_that_is_planted_from_outside_is_found_by_the_profile_meant_for_it() {
    let planted = Mutant::ALL.iter().copied().filter(|mutant| mutant.is_in_this_build());
    let planted: Vec<_> = planted.collect();
    assert!(planted.len() >= 20, "{planted:?}");
    for mutant in planted {
        let things = thing::planted(mutant);
        let found = (0..MAX_SEEDS).any(|seed| !things.run(mutant.meant(), seed).is_good());
        assert!(found, "{}: {}", mutant.name(), mutant.what());
    }
}

/// Seeds with which a fault that mixes up entities stays hidden.
const SOME_SEEDS: u64 = 20;

#[test]
fn what_mixes_up_entities_is_hidden_from_a_service_that_follows_one() {
    let mixing = Mutant::ALL.iter().filter(|mutant| mutant.mixes_up_entities());
    for mutant in mixing.copied() {
        let one = Simulation::of("subscriber", Things).planted(mutant);
        for seed in 0..SOME_SEEDS {
            let outcome = one.run(mutant.meant(), seed);
            assert!(outcome.is_good(), "{}\n{outcome}", mutant.name());
        }
    }
}
