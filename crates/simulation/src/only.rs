//! Repeating one seed: the command that a failure prints, and reading its variables.

use std::{ops::Range, str::FromStr, thread};

use crate::profile::Profile;

const SEED: &str = "SIMULATION_SEED";
const SEEDS: &str = "SIMULATION_SEEDS";
const PROFILE: &str = "SIMULATION_PROFILE";

/// The seeds of an ordinary run of a test; or others, if `SIMULATION_SEEDS` is set: so many, as `5000`, or
/// those of a range, as `5000..9000`.
///
/// # Panics
///
/// If it is set to something else.
pub fn seeds(ordinary: Range<u64>) -> Range<u64> {
    std::env::var(SEEDS).map_or(ordinary, |set| seeds_of(&set))
}

fn seeds_of(set: &str) -> Range<u64> {
    let (from, to) = set.split_once("..").unwrap_or(("0", set));
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{SEEDS}={set}"));
    number(from)..number(to)
}

/// What to run, if not everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Only {
    seed: Option<u64>,
    profile: Option<Profile>,
}

impl Only {
    /// Reads the variables. Panics at invalid ones: otherwise everything would be run, and look like a
    /// successful replay.
    pub(crate) fn from(set: impl Fn(&str) -> Option<String>) -> Self {
        fn read<T: FromStr<Err: std::fmt::Display>>(name: &str, text: Option<String>) -> Option<T> {
            let read =
                |text: String| text.parse().map_err(|error| format!("{name}={text}: {error}"));
            text.map(|text| read(text).unwrap_or_else(|error| panic!("{error}")))
        }
        Self { seed: read(SEED, set(SEED)), profile: read(PROFILE, set(PROFILE)) }
    }

    pub(crate) fn seeds(self, profile: Profile, all: Range<u64>) -> Range<u64> {
        match (self.profile, self.seed) {
            (Some(only), _) if only != profile => 0..0,
            (_, Some(seed)) => seed..seed + 1,
            _ => all,
        }
    }
}

/// The command that repeats a seed in the test that this thread runs.
pub(crate) fn command(profile: Profile, seed: u64) -> String {
    let package = std::env::var("CARGO_PKG_NAME").ok();
    let thread = thread::current();
    // What is not named after a test: a program's first thread, and threads that a test has made.
    let test = thread.name().filter(|name| *name != "main");
    command_of(profile, seed, package.as_deref(), !cfg!(debug_assertions), test)
}

fn command_of(
    profile: Profile,
    seed: u64,
    package: Option<&str>,
    release: bool,
    test: Option<&str>,
) -> String {
    let mut command = format!("{PROFILE}={profile} {SEED}={seed} cargo test");
    if release {
        command += " --release";
    }
    if let Some(package) = package {
        command = command + " -p " + package;
    }
    if let Some(test) = test {
        command = command + " " + test + " -- --exact";
    }
    command
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    fn read(seed: Option<&str>, profile: Option<&str>) -> Only {
        let set = |name: &str| if name == SEED { seed } else { profile };
        Only::from(|name| set(name).map(str::to_owned))
    }

    #[test]
    fn without_anything_set_everything_is_run() {
        assert_eq!(read(None, None).seeds(Profile::Lossy, 3..7), 3..7);
    }

    #[test]
    fn what_is_set_is_all_that_is_run() {
        let only = read(Some("17"), Some("lossy"));
        assert_eq!(only.seeds(Profile::Lossy, 0..3), 17..18);
        assert!(only.seeds(Profile::Benign, 0..3).is_empty());
        assert_eq!(read(Some("17"), None).seeds(Profile::Benign, 0..3), 17..18);
    }

    #[test]
    fn what_cannot_be_read_is_not_run_as_if_it_were_not_there() {
        for (seed, profile) in [(Some("abc"), None), (Some(""), None), (None, Some("lossless"))] {
            assert!(catch_unwind(|| read(seed, profile)).is_err(), "{seed:?} {profile:?}");
        }
    }

    #[test]
    fn other_seeds_are_so_many_or_a_range() {
        assert_eq!((seeds_of("50"), seeds_of("50..90")), (0..50, 50..90));
        for wrong in ["", "many", "1...", "..5"] {
            assert!(catch_unwind(|| seeds_of(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_command_names_what_it_takes_and_nothing_that_is_not_known() {
        let lossy = |package, release, test| command_of(Profile::Lossy, 17, package, release, test);
        let whole = "SIMULATION_PROFILE=lossy SIMULATION_SEED=17 cargo test --release -p mine a::b -- --exact";
        assert_eq!(lossy(Some("mine"), true, Some("a::b")), whole);
        assert_eq!(
            lossy(None, false, None),
            "SIMULATION_PROFILE=lossy SIMULATION_SEED=17 cargo test"
        );
    }
}
