//! How many files a process may have open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Most files that a program asks for, however many it may have.
pub const MAX_OPEN_FILES: u64 = 65_536;
/// What macOS allows at most, also where it says that there is no limit.
const MACOS_OPEN_FILES: u64 = 10_240;

/// Lets this process, and those that it starts from now on, have as many files open as the system allows, up to
/// [`MAX_OPEN_FILES`]. Without it the soft limit counts, often 1,024: a default for programs that cannot have more. For the
/// start of a program: a listener's limits follow from it.
pub fn allow_many() {
    let limit = getrlimit(Resource::Nofile);
    let Some(before) = limit.current else { return };
    let asked = asked(before, limit.maximum);
    let now = asked.into_iter().find(|files| {
        let wanted = Rlimit { current: Some(*files), maximum: limit.maximum };
        setrlimit(Resource::Nofile, wanted).is_ok()
    });
    // A start that fails says why in one line, and nothing else.
    tracing::debug!(before, now = now.unwrap_or(before), "files that may be open at a time");
}

/// What to ask for, one after the other; never less than there is. Pure.
fn asked(current: u64, maximum: Option<u64>) -> Vec<u64> {
    let most = maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
    let mut asked = vec![most, most.min(MACOS_OPEN_FILES)];
    asked.dedup();
    asked.retain(|files| *files > current);
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_asked_for_than_there_may_be_and_never_less_than_there_is() {
        for (current, maximum, expected) in [
            (1_024, Some(4_096), &[4_096][..]),
            (1_024, Some(1 << 20), &[MAX_OPEN_FILES, MACOS_OPEN_FILES][..]),
            (256, None, &[MAX_OPEN_FILES, MACOS_OPEN_FILES][..]),
            (20_000, None, &[MAX_OPEN_FILES][..]),
            (1_024, Some(1_024), &[][..]),
            (1 << 20, Some(1 << 20), &[][..]),
        ] {
            assert_eq!(asked(current, maximum), expected, "{current} of {maximum:?}");
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let limit = getrlimit(Resource::Nofile);
        let low = Rlimit { current: Some(200), ..limit };
        setrlimit(Resource::Nofile, low).unwrap();
        allow_many();
        let now = getrlimit(Resource::Nofile);
        // As far as the machine on which it runs allows.
        let most = limit.maximum.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES);
        assert!(now.current.is_none_or(|now| now >= most.min(MACOS_OPEN_FILES)), "{now:?}");
        assert_eq!(now.maximum, limit.maximum);
    }
}
