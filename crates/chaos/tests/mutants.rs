//! Plants each fault in turn and counts the seeds until the simulation finds it, profile by profile.
//!
//! ```sh
//! make mutants    # writes docs/kill-matrix.md
//! ```

#[path = "things/thing.rs"]
mod thing;

use std::{panic::catch_unwind, sync::Arc, time::Instant};

use nudge_chaos::{Profile, run};
use nudge_runtime::mutant;

use thing::Things;

/// Most seeds of the profile that finds a fault first.
const MAX_SEEDS: u64 = 1_000;
/// Seeds of each profile at first.
const SOME_SEEDS: u64 = 25;

/// Seeds until the planted fault is found.
fn seeds_until_found(
    service: &Arc<Things>,
    profile: Profile,
    seeds: std::ops::Range<u64>,
) -> Option<u64> {
    seeds.into_iter().find(|seed| {
        // Some faults end in a panic or in a story without end: found, too.
        let outcome = catch_unwind(|| run(service, profile, *seed));
        !outcome.is_ok_and(|outcome| outcome.is_good())
    })
}

fn main() {
    let only = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    std::panic::set_hook(Box::new(|_| {}));
    let (service, began) = (Arc::new(Things), Instant::now());
    let mut table = String::new();
    let mut survivors = Vec::new();
    for (name, what) in mutant::ALL {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        mutant::plant(Some(name));
        let look = |profile| seeds_until_found(&service, profile, 0..SOME_SEEDS);
        let mut found: Vec<_> = Profile::ALL.iter().map(|profile| look(*profile)).collect();
        if found.iter().all(Option::is_none) {
            // Rare: one after the other, for longer.
            for (at, profile) in Profile::ALL.into_iter().enumerate().skip(1) {
                found[at] = seeds_until_found(&service, profile, SOME_SEEDS..MAX_SEEDS);
                if found[at].is_some() {
                    break;
                }
            }
        }
        let cell = |found: &Option<u64>| match found {
            Some(seed) => format!("{}", seed + 1),
            None => "·".to_owned(),
        };
        let cells: Vec<_> = found.iter().map(cell).collect();
        let row = format!("| `{name}` | {what} | {} |\n", cells.join(" | "));
        eprint!("{row}");
        table.push_str(&row);
        if found.iter().all(Option::is_none) {
            survivors.push(*name);
        }
    }
    mutant::plant(None);
    if only.is_none() {
        write(&table);
    }
    eprintln!("{} mutants in {:.0} s", mutant::ALL.len(), began.elapsed().as_secs_f64());
    assert!(survivors.is_empty(), "not found within {MAX_SEEDS} seeds: {survivors:?}");
}

fn write(table: &str) {
    let profiles: Vec<_> = Profile::ALL.iter().map(ToString::to_string).collect();
    let head = format!(
        "# Kill matrix\n\n\
         Faults planted on purpose in the publisher and the kit, and how many seeds of the simulation each\n\
         profile takes to find them; `·` is: not within the first {SOME_SEEDS}. Every fault is found by some profile within\n\
         {MAX_SEEDS} seeds, or the command fails. Written by `make mutants`; the faults are in\n\
         `crates/runtime/src/mutant.rs`.\n\n\
         | fault | what it is | {} |\n|---|---|{}\n",
        profiles.join(" | "),
        "---:|".repeat(profiles.len())
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kill-matrix.md");
    std::fs::write(path, head + table).expect("docs/kill-matrix.md is written");
}
