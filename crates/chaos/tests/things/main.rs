//! The simulation on a service that keeps whole things: the same seed gives the same story, every
//! profile holds, and every fault of it happens.

mod thing;

use std::sync::Arc;

use nudge_chaos::{Profile, explore, run};

use thing::Things;

/// Seeds of each profile in an ordinary run of the tests. `CHAOS_SEEDS` sets another number.
const SEEDS: u64 = 1_000;

fn every_seed_holds(profile: Profile) {
    let began = std::time::Instant::now();
    let seeds = std::env::var("CHAOS_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("CHAOS_SEEDS is a number"));
    let summary = explore(Things, profile, 0..seeds);
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
    if std::env::var("CHAOS_SEED").is_err() {
        assert_eq!(summary.never(profile), [], "each fault of the profile happens");
    }
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
fn the_same_seed_gives_the_same_story() {
    let service = Arc::new(Things);
    for profile in Profile::ALL {
        for seed in 0..5 {
            let (one, two) = (run(&service, profile, seed), run(&service, profile, seed));
            for (first, second) in one.story.iter().zip(&two.story) {
                assert_eq!(first, second, "{profile}, seed {seed}");
            }
            assert_eq!(one.hash, two.hash, "{profile}, seed {seed}");
            let other = run(&service, profile, seed + 1_000);
            assert_ne!(one.hash, other.hash, "another seed, another story");
        }
    }
}
