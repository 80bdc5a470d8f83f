//! The simulation on a service that keeps whole things: the same seed gives the same story, every
//! profile holds, and every fault of it happens.

mod failing;
mod joined;
mod planted;
mod several;
mod thing;

use std::{collections::BTreeSet, ops::Range, process::Command};

use nudge_simulation::{Fault, Profile, Simulation, explore};

use thing::Things;

/// Seeds of each profile in an ordinary run of the tests.
const SEEDS: Range<u64> = 0..1_000;

fn seeds() -> Range<u64> {
    nudge_simulation::seeds(SEEDS)
}

/// One service, by the name that the stories of [`explore`] use: so its seeds are the same.
fn things() -> Simulation {
    Simulation::of("subscriber", Things)
}

fn every_seed_holds(profile: Profile) {
    let began = std::time::Instant::now();
    let summary = explore(Things, profile, seeds());
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "figure | {profile} | {} seeds | {:.1} seeds/s | {:.1} virtual hours | {} callbacks | {} crashes \
         | in the read model {:.1} s after the commit at the latest | {:?}",
        summary.runs,
        summary.runs as f64 / seconds,
        summary.elapsed.as_secs_f64() / 3600.0,
        summary.calls,
        summary.crashes(),
        summary.latest.as_secs_f64(),
        summary.faults
    );
    assert_eq!(summary.never(profile), [], "each fault of the profile happens");
}

#[test]
fn benign() {
    every_seed_holds(Profile::Benign);
}

#[test]
fn hints_only() {
    every_seed_holds(Profile::HintsOnly);
}

#[test]
fn lossy() {
    every_seed_holds(Profile::Lossy);
}

#[test]
fn crash_points() {
    every_seed_holds(Profile::CrashPoints);
}

#[test]
fn two_replicas() {
    every_seed_holds(Profile::TwoReplicas);
}

#[test]
fn liveness() {
    every_seed_holds(Profile::Liveness);
}

#[test]
fn unannounced() {
    every_seed_holds(Profile::Unannounced);
}

/// What the simulation found in Nudge: a seed that finds it, should it come back, and the test that holds
/// it by itself. What a seed does changes with the code; the test stays.
const FOUND: &[(Profile, u64, &str)] = &[
    (
        Profile::Lossy,
        452,
        "a_backup_from_before_the_first_relay_is_as_good_as_any in tests/tests/publisher/restored.rs",
    ),
    (
        Profile::Lossy,
        2869,
        "a_read_model_put_back_below_a_position_that_stands_still_catches_up in tests/tests/read_model.rs",
    ),
    (
        Profile::Liveness,
        4531,
        "a_broker_that_went_back_and_was_filled_up_by_others_is_brought_up_to_date in \
         tests/tests/publisher/repair.rs",
    ),
    (
        Profile::Unannounced,
        648,
        "contents_that_somebody_altered_deleted_or_added_are_found_and_repaired in \
         tests/tests/resync/contents.rs",
    ),
    (Profile::Unannounced, 737, "the same"),
    (
        Profile::Unannounced,
        16,
        "a stray row must not be taken for applied in a version that no owner has given",
    ),
    (Profile::Liveness, 24_994, "the same: one of the last messages was written over, too"),
    (
        Profile::Lossy,
        1116,
        "a_log_that_is_put_back_while_the_relay_looks_at_its_stream_is_compared_with_all_of_it in \
         tests/tests/publisher/restored.rs",
    ),
    (
        Profile::Lossy,
        2373,
        "the same, while there are versions to read that the log lost: only here",
    ),
    (
        Profile::Unannounced,
        4,
        "what_waits_for_something_that_the_owner_denies_comes_to_an_end in tests/tests/resync.rs",
    ),
    (
        Profile::Unannounced,
        119,
        "what is to be removed was reported several times at once: only here",
    ),
    (
        Profile::Unannounced,
        671,
        "what the owner lost was left to the retries of a parked key: only here",
    ),
];

#[test]
fn what_was_found_does_not_come_back() {
    for (profile, seed, test) in FOUND {
        let outcome = things().run(*profile, *seed);
        assert!(outcome.is_good(), "see also {test}\n{outcome}");
    }
}

/// Seeds that are run twice. Where programs end in the middle of database work, a thread has its part.
fn repeated(profile: Profile) -> u64 {
    if profile == Profile::CrashPoints { 200 } else { 5 }
}

#[test]
fn the_same_seed_gives_the_same_story() {
    for profile in Profile::ALL {
        for seed in 0..repeated(profile) {
            let (one, two) = (things().run(profile, seed), things().run(profile, seed));
            for (first, second) in one.story.iter().zip(&two.story) {
                assert_eq!(first, second, "{profile}, seed {seed}");
            }
            assert_eq!(one.hash, two.hash, "{profile}, seed {seed}");
        }
        let hashes = (0..5).map(|seed| things().run(profile, seed).hash);
        assert_eq!(BTreeSet::from_iter(hashes).len(), 5, "another seed, another story");
    }
}

/// What a story is told by must not depend on the process, such as the order of a hash map.
#[test]
fn the_same_seed_gives_the_same_story_in_another_process() {
    let this = std::env::current_exe().expect("a program");
    let args = ["things::hashes_of_some_stories", "--exact", "--nocapture"];
    let other = Command::new(this).args(args).output().expect("it runs");
    let other = String::from_utf8(other.stdout).expect("a text");
    for line in hashes() {
        assert!(other.lines().any(|said| said == line), "{line} is not in {other}");
    }
}

#[test]
fn hashes_of_some_stories() {
    println!();
    hashes().for_each(|line| println!("{line}"));
}

fn hashes() -> impl Iterator<Item = String> {
    let all = Profile::ALL.into_iter().flat_map(|profile| (0..3).map(move |seed| (profile, seed)));
    all.map(move |(profile, seed)| {
        format!("hash | {profile} | {seed} | {:016x}", things().run(profile, seed).hash)
    })
}

#[test]
fn every_fault_belongs_to_a_profile() {
    let of = |profile: Profile| {
        let faults = profile.faults().iter().map(|(fault, _)| *fault);
        faults.chain(profile.consequences().iter().copied()).collect::<Vec<_>>()
    };
    let some = BTreeSet::from_iter(Profile::ALL.into_iter().flat_map(of));
    assert_eq!(Vec::from_iter(some), Fault::ALL);
}
