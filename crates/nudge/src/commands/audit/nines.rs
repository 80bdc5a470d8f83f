//! How many nines can be stated, from so many comparisons of which so many differed.

use std::fmt::Write;

/// Such as `none differed for 10 s: consistent to 5 nines within 10 s (99.999 %)`.
pub(super) fn within(age: &str, compared: u64, differed: u64) -> String {
    let mut said = match differed {
        0 => format!("  none differed for {age}"),
        1 => format!("  1 differed for {age}"),
        many => format!("  {many} differed for {age}"),
    };
    let _ = match nines(compared, differed) {
        0 => write!(said, ": too few comparisons to state more"),
        nines => {
            let share = 100.0 * (1.0 - 0.1_f64.powi(nines.cast_signed()));
            let places = nines.saturating_sub(2) as usize;
            let noun = if nines == 1 { "nine" } else { "nines" };
            write!(said, ": consistent to {nines} {noun} within {age} ({share:.places$} %)")
        }
    };
    said
}

/// The nines of a share that is at least that high, with a confidence of 95 %.
///
/// At most `3` of so many comparisons would have differed if none did (the rule of three: J. Hanley and A. Lippman-Hand,
/// "If nothing goes wrong, is everything all right?", 1983); `differed + 3 + 1.7 √differed` is above the upper limit of a
/// Poisson distribution for every other number.
fn nines(compared: u64, differed: u64) -> u32 {
    let differed = differed as f64;
    let most = differed + 3.0 + 1.7 * differed.sqrt();
    let share = most / compared.max(1) as f64;
    if share >= 1.0 { 0 } else { (-share.log10()).floor() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_stated_than_the_comparisons_show() {
        for (compared, differed, expected) in [
            (0, 0, 0),
            (1, 0, 0),
            (29, 0, 0),
            (300, 0, 2),
            (299, 0, 1),
            (3_000_000, 0, 6),
            (3_000_000, 1, 5),
            (1_000_000, 100, 3),
            (10, 10, 0),
        ] {
            assert_eq!(nines(compared, differed), expected, "{differed} of {compared}");
        }
    }

    #[test]
    fn it_is_said_in_plain_words() {
        let said = within("1 s", 3_000_000, 0);
        assert_eq!(said, "  none differed for 1 s: consistent to 6 nines within 1 s (99.9999 %)");
        let said = within("10 s", 100, 1);
        assert_eq!(said, "  1 differed for 10 s: consistent to 1 nine within 10 s (90 %)");
        assert!(within("1 min", 5, 0).ends_with("too few comparisons to state more"));
    }

    /// The upper limits of a Poisson distribution at 95 %, from any table.
    #[test]
    fn the_limit_is_never_below_the_exact_one() {
        for (differed, exact) in
            [(0, 2.996), (1, 4.744), (2, 6.296), (5, 10.513), (10, 16.962), (100, 118.07)]
        {
            let differed = f64::from(differed);
            assert!(differed + 3.0 + 1.7 * differed.sqrt() + 0.01 > exact, "{differed}");
        }
    }
}
