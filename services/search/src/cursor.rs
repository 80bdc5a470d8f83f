//! Where a page of results ends.

use std::{fmt, str::FromStr};

use nudge_protocol::EntityId;

/// Longest cursor, in characters; enough for the longest name key and ID in hexadecimal.
const MAX_CURSOR_CHARS: usize = 2_000;
/// The number of tiers: see [`Cursor::tier`].
const TIERS: i64 = 4;

/// A place in the order of results: the last result of a page. The next page holds what comes after
/// it, whatever was added or deleted in between.
///
/// The text form is hexadecimal: it is safe in a URL, and does not invite anyone to build one by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// How closely the name matches the text: 0 if it is the same, 1 if it begins with the text, 2 if it
    /// contains the text, 3 otherwise. 0 without a text.
    pub tier: i64,
    /// See [`crate::store::StoreState::name_key`].
    pub name_key: String,
    /// The store.
    pub id: EntityId,
}

/// Why a text is not a [`Cursor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name key contains no space, so the first two spaces separate the parts; an ID may contain spaces.
        let plain = format!("{} {} {}", self.tier, self.name_key, self.id);
        plain.bytes().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let plain = decode_hex(text).and_then(|bytes| String::from_utf8(bytes).ok());
        let plain = plain.ok_or(InvalidCursor)?;
        let mut parts = plain.splitn(3, ' ');
        let mut part = || parts.next().ok_or(InvalidCursor);
        let tier = part()?.parse().map_err(|_| InvalidCursor)?;
        let name_key = part()?.to_owned();
        let id = EntityId::new(part()?).map_err(|_| InvalidCursor)?;
        let known = (0..TIERS).contains(&tier) && name_key.chars().all(char::is_alphanumeric);
        if known { Ok(Self { tier, name_key, id }) } else { Err(InvalidCursor) }
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if text.len() > MAX_CURSOR_CHARS || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store;

    fn hex(plain: &str) -> String {
        plain.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_no_page_ever_said_is_refused() {
        assert!(hex("3 커피 a b").parse::<Cursor>().is_ok());
        let long = format!("0 {} a", "가".repeat(400));
        for plain in
            ["", "0", "0 커피", "0 커피 ", "4 커피 a", "-1 커피 a", "x 커피 a", "0 커\0 a", &long]
        {
            assert_eq!(hex(plain).parse::<Cursor>(), Err(InvalidCursor), "{plain:?}");
        }
    }

    proptest! {
        #[test]
        fn every_cursor_survives_its_text_form(id in "\\PC{1,50}", name in any::<String>(), tier in 0..TIERS) {
            if let Ok(id) = EntityId::new(&id) {
                let cursor = Cursor { tier, name_key: store::name_key(&name), id };
                let text = cursor.to_string();
                prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
                prop_assert!(text.len() <= MAX_CURSOR_CHARS);
                prop_assert_eq!(text.parse(), Ok(cursor));
            }
        }

        #[test]
        fn no_text_breaks_the_cursor_parser(text in any::<String>()) {
            let _ = text.parse::<Cursor>();
        }
    }
}
