//! Plants each fault in turn and counts the seeds until the simulation finds it, profile by profile.
//!
//! ```sh
//! make mutants    # writes docs/kill-matrix.md
//! ```

#[path = "things/thing.rs"]
mod thing;

use std::{ops::Range, time::Instant};

use nudge_simulation::{Profile, Simulation, mutant::Mutant};

use thing::planted;

/// Most seeds of the profile that is meant to find a fault.
const MAX_SEEDS: u64 = 1_000;
/// Seeds of each other profile.
const SOME_SEEDS: u64 = 25;

/// Seeds until the planted fault is found.
fn seeds_until_found(things: &Simulation, profile: Profile, seeds: Range<u64>) -> Option<u64> {
    seeds.into_iter().find(|seed| !things.run(profile, *seed).is_good())
}

/// How many seeds each profile takes: the one that is meant to find it many, the others some.
fn look(mutant: Mutant) -> Vec<Option<u64>> {
    let things = planted(mutant);
    let seeds = |profile| if profile == mutant.meant() { MAX_SEEDS } else { SOME_SEEDS };
    let look = |profile| seeds_until_found(&things, profile, 0..seeds(profile));
    Profile::ALL.map(look).to_vec()
}

/// A row of the matrix: what the profile takes that is meant to find it stands out.
fn row(mutant: Mutant, found: &[Option<u64>]) -> String {
    let cell = |(profile, found): (Profile, &Option<u64>)| {
        let seeds = found.map_or("·".to_owned(), |seed| (seed + 1).to_string());
        if profile == mutant.meant() { format!("**{seeds}**") } else { seeds }
    };
    let cells: Vec<_> = Profile::ALL.into_iter().zip(found).map(cell).collect();
    format!("| `{}` | {} | {} |\n", mutant.name(), mutant.what(), cells.join(" | "))
}

fn main() {
    // A test runner that asks what is in here must not have to wait until all of it has run.
    if std::env::args().any(|word| word == "--list") {
        return;
    }
    let only = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let mut table = String::new();
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL.iter().copied() {
        if only.as_ref().is_some_and(|only| *only != mutant.name()) {
            continue;
        }
        let row = row(mutant, &look(mutant));
        eprint!("{row}");
        table.push_str(&row);
        if row.contains("**·**") {
            survivors.push(mutant.name());
        }
    }
    if only.is_none() {
        write(&table);
    }
    eprintln!("{} mutants in {:.0} s", Mutant::ALL.len(), began.elapsed().as_secs_f64());
    assert!(
        survivors.is_empty(),
        "not found within {MAX_SEEDS} seeds of the profile meant for it: {survivors:?}"
    );
}

fn write(table: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kill-matrix.md");
    let old = std::fs::read_to_string(path).expect("docs/kill-matrix.md");
    // What people wrote below the table stays.
    let rest = old.split_once("\n\n## ").map(|(_, rest)| format!("\n## {rest}"));
    let profiles = Profile::ALL.map(|profile| profile.to_string());
    let head = format!(
        "# Kill matrix\n\n\
         Faults planted on purpose in the publisher and the kit, one at a time, and how many seeds each profile of\n\
         the simulation takes to find them. The number of the profile that is meant to find a fault is **bold**: it\n\
         is at most {MAX_SEEDS}, or the command fails. For the others, `·` means not within the first {SOME_SEEDS}.\n\
         What mixes up entities is planted in a service that follows two of them. Written by `make mutants`; the\n\
         faults are in `crates/simulation/src/mutant.rs`.\n\n\
         | fault | what it is | {} |\n|---|---|{}\n",
        profiles.join(" | "),
        "---:|".repeat(profiles.len())
    );
    std::fs::write(path, head + table + &rest.unwrap_or_default()).expect("it is written");
}
