//! What is written of the simulation is so: the kill matrix is that of the faults there are, and the crate
//! page shows a test that runs.

use nudge_simulation::{Profile, mutant::Mutant};

const MATRIX: &str = include_str!("../../../docs/kill-matrix.md");

/// Most seeds of the profile that is meant to find a fault.
const MAX_SEEDS: u64 = 1_000;

#[test]
fn the_matrix_has_a_row_for_each_fault_and_the_profile_meant_for_it_finds_it() {
    let (matrix, _) = MATRIX.split_once("\n## ").expect("more below it");
    let rows: Vec<Vec<&str>> = matrix
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let planted: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    assert_eq!(names, planted, "`make mutants` writes it");
    for (row, mutant) in rows.iter().zip(Mutant::ALL) {
        assert_eq!(row[1], mutant.what());
        let at = Profile::ALL.iter().position(|profile| *profile == mutant.meant()).unwrap();
        let seeds = row[2 + at].strip_prefix("**").and_then(|cell| cell.strip_suffix("**"));
        let seeds: u64 = seeds.and_then(|seeds| seeds.parse().ok()).expect("a number of seeds");
        assert!((1..=MAX_SEEDS).contains(&seeds), "{mutant:?}: {seeds}");
    }
}

#[test]
fn the_page_shows_the_test_that_is_run() {
    let (page, test) = (include_str!("../README.md"), include_str!("names.rs"));
    assert!(page.contains(&format!("```no_run\n{test}```\n")), "the page shows another test");
}
