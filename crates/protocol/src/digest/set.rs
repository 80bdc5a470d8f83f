//! The digest of a set, in no order: it grows row by row, and whoever has the same rows gets the same digest.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::{RangeRow, write_line};

/// Number of bytes of a SHA-256.
const BYTES: usize = 32;

/// The sum, modulo 2^256, of the SHA-256 of each row's line (see [`Digest`](super::Digest) for the line), as 64
/// hexadecimal digits, the highest first. (An additive hash: M. Bellare and D. Micciancio, "A New Paradigm for
/// Collision-Free Hashing", 1997.)
///
/// Whoever chooses the rows can make two sets have the same digest: it proves that nothing went wrong, not that nobody
/// cheated.
///
/// ```
/// use nudge_protocol::{EntityId, Version, digest::{RangeRow, SetDigest}};
/// let row = |id| Ok::<_, Box<dyn std::error::Error>>(RangeRow { id: EntityId::new(id)?, version: Version::new(7)?, deleted: false });
/// let (mut one, mut other) = (SetDigest::default(), SetDigest::default());
/// one.add(&row("1")?);
/// one.add(&row("2")?);
/// other.add(&row("2")?);
/// other.add(&row("1")?);
/// assert_eq!(one, other);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct SetDigest([u8; BYTES]);

impl SetDigest {
    /// Adds a row.
    pub fn add(&mut self, row: &RangeRow) {
        let mut line = String::new();
        write_line(&mut line, row);
        let mut carry = 0;
        for (sum, byte) in self.0.iter_mut().zip(Sha256::digest(&line)).rev() {
            let added = u16::from(*sum) + u16::from(byte) + carry;
            *sum = added.to_be_bytes()[1];
            carry = added >> 8;
        }
    }
}

impl std::fmt::Display for SetDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for SetDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SetDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let invalid = || D::Error::custom("a digest has 64 hexadecimal digits");
        if text.len() != 2 * BYTES || !text.is_ascii() {
            return Err(invalid());
        }
        let mut bytes = [0; BYTES];
        for (place, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * place..2 * place + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntityId, Version};

    fn digest(ids: &[&str]) -> SetDigest {
        let mut digest = SetDigest::default();
        for id in ids {
            let version = Version::new(7).unwrap();
            digest.add(&RangeRow { id: EntityId::new(id).unwrap(), version, deleted: false });
        }
        digest
    }

    /// `printf '2:42 7 0\n' | sha256sum`, and the sum of that and of the line of 43, by Python.
    #[test]
    fn it_is_the_sum_of_the_hashes_of_all_lines() {
        let one = "638a3b9fa0293c1326658b5362429c70";
        assert!(digest(&["42"]).to_string().starts_with(one));
        assert_eq!(digest(&["42", "43"]), digest(&["43", "42"]));
        assert_ne!(digest(&["42", "43"]), digest(&["42"]));
        assert_eq!(digest(&[]).to_string(), "0".repeat(64));
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        let digest = digest(&["42", "43", "44"]);
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<SetDigest>(&text).unwrap(), digest);
        for wrong in ["\"\"", "\"zz\"", &format!("\"{}\"", "é".repeat(32))] {
            assert!(serde_json::from_str::<SetDigest>(wrong).is_err(), "{wrong}");
        }
    }
}
