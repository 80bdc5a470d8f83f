//! The second decoders, as plain as possible and written differently, with which the real ones are compared. `None`
//! means rejected.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON object as it was written: in order, with repeated fields, each value as its text.
pub(crate) struct Fields(pub(crate) Vec<(String, Box<RawValue>)>);

impl Fields {
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The value of a field that must not be repeated; `null` counts as absent.
    pub(crate) fn once(&self, name: &str) -> Option<Option<&str>> {
        let mut values = self.0.iter().filter(|(field, _)| field == name);
        let value = values.next().map(|(_, value)| value.get());
        values.next().is_none().then_some(value.filter(|value| *value != "null"))
    }

    /// The value of a field; the last one if it is repeated.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rfind(|(field, _)| field == name).map(|(_, value)| value.get())
    }

    /// Whether all fields have one of these names.
    pub(crate) fn are_among(&self, names: &[&str]) -> bool {
        self.0.iter().all(|(name, _)| names.contains(&name.as_str()))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyObject;
        impl<'de> Visitor<'de> for AnyObject {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(AnyObject)
    }
}

/// Whether an object in this text has a field twice.
pub(crate) fn repeats(json: &str) -> bool {
    if let Some(Fields(fields)) = Fields::read(json.as_bytes()) {
        let repeated = |at: usize| fields[..at].iter().any(|(name, _)| *name == fields[at].0);
        return (0..fields.len()).any(repeated)
            || fields.iter().any(|(_, value)| repeats(value.get()));
    }
    list(json).unwrap_or_default().iter().any(|value| repeats(value))
}

/// A JSON list, each value as its text.
pub(crate) fn list(json: &str) -> Option<Vec<String>> {
    let values: Vec<Box<RawValue>> = serde_json::from_str(json).ok()?;
    Some(values.iter().map(|value| value.get().to_owned()).collect())
}

/// A JSON string.
pub(crate) fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// A whole number in JSON: digits and nothing else.
pub(crate) fn whole(json: &str) -> Option<u64> {
    json.bytes().all(|byte| byte.is_ascii_digit()).then(|| json.parse().ok())?
}

/// A version in JSON.
pub(crate) fn version(json: &str) -> Option<u64> {
    whole(json).filter(|version| *version < 9_007_199_254_740_992)
}

/// A version as text: 1 to 16 digits.
pub(crate) fn version_text(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    let zeros = text.bytes().take_while(|byte| *byte == b'0').count();
    version(&text[zeros.min(text.len() - 1)..])
}

/// Whether a character is a Unicode control character.
pub(crate) fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}')
}

/// An ID.
pub(crate) fn id(text: &str) -> Option<&str> {
    ((1..=200).contains(&text.len()) && !text.chars().any(is_control)).then_some(text)
}

/// An ID in JSON.
pub(crate) fn json_id(json: &str) -> Option<String> {
    text(json).filter(|text| id(text).is_some())
}

/// The name of a kind of entity.
pub(crate) fn name(text: &str) -> Option<&str> {
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
    let others = text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_'));
    (begins && others && text.len() <= 40).then_some(text)
}

/// The token of an ID.
pub(crate) fn encode(id: &str) -> String {
    let mut token = String::new();
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => token.push(char::from(byte)),
            _ => token.push_str(&format!("%{byte:02X}")),
        }
    }
    token
}

/// The ID of a token. A `%` that is not followed by two hexadecimal digits stands for itself.
pub(crate) fn decode(token: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = token.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |at: usize| char::from(*after.get(at)?).to_digit(16);
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|text| id(text).is_some())
}
