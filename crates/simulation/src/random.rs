//! Pseudo-random numbers: the same seed, the same numbers, on every machine.

pub use nudge_chance::Random;
