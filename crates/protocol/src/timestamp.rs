//! Instants.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

/// An instant in UTC with microseconds: RFC 3339 text in JSON, unix microseconds in databases.
///
/// ```
/// use nudge_protocol::Timestamp;
/// let t = Timestamp::from_unix_micros(1_767_225_600_000_001);
/// assert_eq!(t.to_string(), "2026-01-01T00:00:00.000001Z");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(
    value_type = String,
    format = DateTime,
    description = "An instant in UTC with microseconds, RFC 3339.",
    example = "2026-01-01T00:00:00.000001Z"
)]
pub struct Timestamp(i64);

/// The years 0000 to 9999.
const WRITABLE_MICROS: RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// Why a text is not a [`Timestamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time with an offset: {0:?}")]
pub struct InvalidTimestamp(String);

impl Timestamp {
    /// The instant this many microseconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// Seconds from `earlier` to `self`; negative if `earlier` is later.
    pub fn seconds_since(self, earlier: Timestamp) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        );
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .ok()
            .and_then(|t| t.format(format).ok())
            .ok_or(fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok();
        parsed
            .and_then(|t| i64::try_from(t.unix_timestamp_nanos() / 1000).ok())
            // An offset may lead outside the years that RFC 3339 can express.
            .filter(|micros| WRITABLE_MICROS.contains(micros))
            .map(Self)
            .ok_or_else(|| InvalidTimestamp(text.chars().take(64).collect()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back_keeps_the_microsecond() {
        for micros in [0, 1, 999_999, 1_767_225_600_123_456] {
            let t = Timestamp::from_unix_micros(micros);
            assert_eq!(t.to_string().parse(), Ok(t));
        }
    }

    #[test]
    fn whatever_is_read_can_be_written() {
        for text in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"] {
            let t: Timestamp = text.parse().unwrap();
            assert_eq!(t.to_string().parse(), Ok(t));
        }
        // In UTC these are of the years -1 and 10000.
        for text in ["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_offset_is_understood_and_nonsense_refused() {
        let t: Timestamp = "2026-01-01T09:00:00+09:00".parse().unwrap();
        assert_eq!(t.to_string(), "2026-01-01T00:00:00.000000Z");
        assert!("2026-01-01".parse::<Timestamp>().is_err());
    }
}
