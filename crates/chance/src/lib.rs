//! Random numbers from a seed: the same seed gives the same numbers, on every machine and in every version.
//!
//! A failure of the simulation or of `nudge chaos` can therefore be repeated from its seed.
//!
//! ```
//! use nudge_chance::Random;
//!
//! let (mut one, mut same) = (Random::new(7), Random::new(7));
//! assert_eq!(one.any(), same.any());
//! ```

use std::time::Duration;

/// The distance between the streams of one seed: see [`Random::stream`].
const STREAM_STEP: u64 = 0xD6E8_FEB8_6659_FD93;

/// SplitMix64, by Sebastiano Vigna (<https://prng.di.unimi.it/splitmix64.c>): one word of state, and good
/// enough for any schedule. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of `stream` within `seed`: what one part draws must not move another's numbers.
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(STREAM_STEP));
        random.any();
        random
    }

    /// Any number.
    #[inline]
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is above 0.
    #[inline]
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit
    }

    /// From `low` to `high`, both included. `high` is not below `low`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// A length of time up to `max`, at least a microsecond.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        let micros = u64::try_from(max.as_micros()).unwrap_or(u64::MAX).max(2);
        Duration::from_micros(1 + self.below(micros))
    }

    /// True `permille` times in a thousand.
    #[inline]
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }

    /// An index into a list of this length, which is above 0.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// One of these, of which there is at least one.
    pub fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.index(things.len())]
    }

    /// Shuffles things.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_algorithm() {
        let mut random = Random::new(1_234_567);
        let drawn = [random.any(), random.any(), random.any()];
        let published =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, published);
    }

    #[test]
    fn streams_of_a_seed_have_nothing_in_common_and_bounds_are_kept() {
        let (mut one, mut other) = (Random::stream(1, 1), Random::stream(1, 2));
        assert!((0..100).all(|_| one.any() != other.any()));
        for _ in 0..100 {
            assert!((3..=5).contains(&one.between(3, 5)) && one.index(2) < 2);
        }
        let mut things: Vec<_> = (0..50).collect();
        one.shuffle(&mut things);
        assert!(!things.is_sorted());
        things.sort_unstable();
        assert_eq!(things, (0..50).collect::<Vec<_>>());
    }
}
