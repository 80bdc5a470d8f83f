//! What the watch adds up to.

use serde::Serialize;

/// Most lags that are kept of one subscriber; beyond this the oldest are replaced.
const MAX_LAGS: usize = 100_000;
/// How many of the latest lags the line at the bottom speaks of.
const RECENT_LAGS: usize = 1_000;

/// What one subscriber did while we watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// States committed to its read model.
    pub(crate) applied: u64,
    /// Times that it had the state already.
    pub(crate) ignored: u64,
    /// Failures that were tried again.
    pub(crate) retried: u64,
    /// Failures for good.
    pub(crate) dead_lettered: u64,
    lags: Vec<f64>,
    oldest: usize,
}

/// Percentiles of lags, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Lags {
    /// Half of them were shorter.
    pub(crate) p50: f64,
    /// 99 of 100 were shorter.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
}

impl Tally {
    /// Counts an applied state.
    pub(crate) fn applied(&mut self, lag_seconds: Option<f64>) {
        self.applied += 1;
        let Some(lag) = lag_seconds.filter(|lag| lag.is_finite()) else {
            return;
        };
        if self.lags.len() < MAX_LAGS {
            self.lags.push(lag);
        } else {
            self.lags[self.oldest] = lag;
            self.oldest = (self.oldest + 1) % MAX_LAGS;
        }
    }

    /// Percentiles of all lags.
    pub(crate) fn lags(&self) -> Option<Lags> {
        percentiles(self.lags.clone())
    }

    /// The latest lags, for percentiles that are cheap enough for every redraw.
    pub(crate) fn recent(&self) -> Vec<f64> {
        // Backwards from the newest, which stands before the oldest once the ring is full.
        let newest_first = self.lags[..self.oldest].iter().rev();
        let newest_first = newest_first.chain(self.lags[self.oldest..].iter().rev());
        newest_first.take(RECENT_LAGS).copied().collect()
    }
}

/// Percentiles by the nearest rank.
pub(crate) fn percentiles(mut lags: Vec<f64>) -> Option<Lags> {
    lags.sort_unstable_by(f64::total_cmp);
    let rank = |percent: usize| lags.get((lags.len() * percent).div_ceil(100).max(1) - 1).copied();
    Some(Lags { p50: rank(50)?, p99: rank(99)?, max: *lags.last()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentiles(hundred), Some(Lags { p50: 50.0, p99: 99.0, max: 100.0 }));
        assert_eq!(percentiles(vec![7.0]), Some(Lags { p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(percentiles(vec![2.0, 1.0]), Some(Lags { p50: 1.0, p99: 2.0, max: 2.0 }));
        assert_eq!(percentiles(vec![]), None);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_lags_stay() {
        let mut tally = Tally::default();
        for lag in 0..MAX_LAGS + 10 {
            tally.applied(Some(lag as f64));
        }
        assert_eq!(tally.lags.len(), MAX_LAGS);
        assert_eq!(tally.applied, (MAX_LAGS + 10) as u64);
        let recent = tally.recent();
        assert_eq!(recent.len(), RECENT_LAGS);
        assert_eq!(recent[0], (MAX_LAGS + 9) as f64);
        assert_eq!(recent[10], (MAX_LAGS - 1) as f64);
    }

    #[test]
    fn an_unknown_lag_counts_but_is_no_lag() {
        let mut tally = Tally::default();
        tally.applied(None);
        tally.applied(Some(f64::NAN));
        assert_eq!((tally.applied, tally.lags()), (2, None));
    }
}
