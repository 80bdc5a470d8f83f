//! `Nudge-Token`: a write returns it so that a later read can ask to see that write.

use std::{fmt, str::FromStr};

use crate::{EntityId, EntityName, Version, subject};

/// Name of the header, on an owner's answer to a write and on a reader's request.
pub const WRITE_TOKEN_HEADER: &str = "Nudge-Token";

/// Most tokens that a request can wait for.
pub const MAX_TOKENS: usize = 16;

/// The name of a write: `store/42@1767225600000001`.
///
/// The ID is percent-encoded as in a subject, so that the token is a legal header value whatever
/// the ID contains.
///
/// ```
/// use nudge_protocol::WriteToken;
/// let token: WriteToken = "store/a%2Fb@17".parse().unwrap();
/// assert_eq!(token.id.as_str(), "a/b");
/// assert_eq!(token.to_string(), "store/a%2Fb@17");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteToken {
    /// The kind of entity.
    pub entity: EntityName,
    /// The entity's ID.
    pub id: EntityId,
    /// The version that the write produced.
    pub version: Version,
}

/// Why a text is not a [`WriteToken`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token is <entity>/<id>@<version> with the ID percent-encoded, for instance store/42@17")]
pub struct InvalidWriteToken;

impl fmt::Display for WriteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.entity, subject::encode_token(&self.id), self.version)
    }
}

impl FromStr for WriteToken {
    type Err = InvalidWriteToken;
    fn from_str(text: &str) -> Result<Self, InvalidWriteToken> {
        // Split at the first '/' and the last '@': a hand-written token with a plain ID works too.
        let (entity, rest) = text.split_once('/').ok_or(InvalidWriteToken)?;
        let (id, version) = rest.rsplit_once('@').ok_or(InvalidWriteToken)?;
        Ok(Self {
            entity: entity.parse().map_err(|_| InvalidWriteToken)?,
            id: subject::decode_token(id).map_err(|_| InvalidWriteToken)?,
            version: version.parse().map_err(|_| InvalidWriteToken)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_that_are_not_whole_are_refused() {
        for text in
            ["", "store", "store/1", "store@1", "store/@1", "store/1@", "store/1@x", "S/1@1"]
        {
            assert_eq!(text.parse::<WriteToken>(), Err(InvalidWriteToken), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_token_survives_its_text_form(id in "\\PC{1,60}", version in 0u64..(1 << 53)) {
            if let Ok(id) = EntityId::new(&id) {
                let entity = EntityName::new("store").unwrap();
                let token = WriteToken { entity, id, version: Version::new(version).unwrap() };
                let text = token.to_string();
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert_eq!(text.parse(), Ok(token));
            }
        }
    }
}
