//! The owner's number for a state of an entity.

use std::{fmt, num::ParseIntError, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::timestamp::Timestamp;

/// A version: a whole number that rises with every change of an entity, through delete and
/// re-creation, and keeps rising after a restore from backup.
///
/// The owner derives it from the clock (`max(previous + 1, now in unix microseconds)`), so there is
/// no counter to maintain or lose. Always below 2^53, so that it survives JSON readers that
/// store numbers as doubles.
///
/// Versions of *different* entities say nothing about each other.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema,
)]
#[serde(transparent)]
#[schema(
    description = "Rises with every change of an entity, through delete and re-creation.",
    minimum = 0,
    maximum = 9007199254740991u64,
    example = 1767225600000001u64
)]
pub struct Version(u64);

/// Versions are below this bound, 2^53.
pub const VERSION_LIMIT: u64 = 1 << 53;
/// How far ahead of the clock a version in a message may be and still be believed to come from
/// its owner. Versions are microseconds: without a limit, a single foreign message could use them
/// all up.
pub const MAX_VERSION_AHEAD: Duration = Duration::from_secs(24 * 3600);
/// Most digits of a version as text.
pub const MAX_VERSION_DIGITS: usize = 16;

/// Why a text or number is not a [`Version`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVersion {
    /// The number is 2^53 or more, or negative, or its text is too long.
    #[error("a version must be a whole number from 0 to 2^53 - 1")]
    OutOfRange,
    /// The text is not a whole number.
    #[error("a version must be a whole number")]
    NotANumber(#[source] ParseIntError),
}

impl Version {
    /// No version: means "nothing applied yet". Every real version is higher.
    pub const NONE: Version = Version(0);

    /// The highest possible version.
    pub const MAX: Version = Version(VERSION_LIMIT - 1);

    /// A version from a number below [`VERSION_LIMIT`].
    pub const fn new(number: u64) -> Result<Self, InvalidVersion> {
        if number < VERSION_LIMIT { Ok(Self(number)) } else { Err(InvalidVersion::OutOfRange) }
    }

    /// The version as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The highest version that is believed at `now`: see [`MAX_VERSION_AHEAD`].
    pub const fn highest_believed(now: Timestamp) -> Self {
        let ahead = MAX_VERSION_AHEAD.as_micros() as i64;
        let highest = now.unix_micros().saturating_add(ahead);
        match highest {
            ..=0 => Self::NONE,
            _ if highest as u64 >= VERSION_LIMIT => Self::MAX,
            _ => Self(highest as u64),
        }
    }

    /// The version as stored in databases.
    pub const fn to_i64(self) -> i64 {
        // Below 2^53, so it always fits.
        self.0 as i64
    }
}

impl TryFrom<i64> for Version {
    type Error = InvalidVersion;
    fn try_from(number: i64) -> Result<Self, InvalidVersion> {
        u64::try_from(number).map_err(|_| InvalidVersion::OutOfRange).and_then(Self::new)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        // `u64::from_str` accepts a leading '+', and any number of zeros. The documents allow neither.
        if text.starts_with('+') || text.len() > MAX_VERSION_DIGITS {
            return Err(InvalidVersion::OutOfRange);
        }
        text.parse().map_err(InvalidVersion::NotANumber).and_then(Self::new)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_number() {
        let version = Version::new(17).unwrap();
        assert_eq!((version.get(), version.to_i64()), (17, 17));
    }

    #[test]
    fn a_version_is_believed_a_day_ahead_of_the_clock_and_no_further() {
        let day = MAX_VERSION_AHEAD.as_micros() as u64;
        let at = |micros| Version::highest_believed(Timestamp::from_unix_micros(micros)).get();
        assert_eq!(at(1_767_225_600_000_000), 1_767_225_600_000_000 + day);
        assert_eq!((at(0), at(i64::MIN), at(i64::MAX)), (day, 0, VERSION_LIMIT - 1));
    }

    #[test]
    fn versions_compare_as_numbers_not_as_text() {
        let (nine, ten): (Version, Version) = ("9".parse().unwrap(), "10".parse().unwrap());
        assert!(nine < ten);
    }

    #[test]
    fn the_bound_is_exact_in_every_way_in() {
        let (last, over) = (VERSION_LIMIT - 1, VERSION_LIMIT);
        assert!(Version::new(last).is_ok() && Version::new(over).is_err());
        assert!(last.to_string().parse::<Version>().is_ok());
        assert!(over.to_string().parse::<Version>().is_err());
        assert!(serde_json::from_str::<Version>(&over.to_string()).is_err());
        assert!(Version::try_from(-1).is_err());
        assert!("+1".parse::<Version>().is_err());
        assert_eq!("0000000000000017".parse(), Version::new(17));
        assert!("00000000000000017".parse::<Version>().is_err());
        assert!(serde_json::from_str::<Version>("1.5").is_err());
    }
}
