//! JSON as the published documents have it: objects, and words.
//!
//! What serde derives reads more than that: a list as the fields of a struct in their order, and
//! `{"live": null}` as the word `live`. Nobody writes either on purpose, and who comes to rely on it
//! cannot be told apart later from who follows the documents.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
    forward_to_deserialize_any,
};

/// A struct that is read from an object and from nothing else.
///
/// ```
/// use nudge_protocol::{Object, sync_api::ItemsRequest};
/// assert!(serde_json::from_str::<Object<ItemsRequest>>(r#"{"limit":1}"#).is_ok());
/// assert!(serde_json::from_str::<Object<ItemsRequest>>("[null,1]").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(Map(deserializer)).map(Self)
    }
}

/// Whatever it is asked for, it reads an object.
struct Map<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Map<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

/// A list of objects.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|object| object.0).collect())
}

/// One of these words.
pub(crate) fn word<'de, D, T>(deserializer: D, words: &[(&str, T)]) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Copy,
{
    let said = Cow::<'de, str>::deserialize(deserializer)?;
    let known = words.iter().find(|(word, _)| *word == said);
    known.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        D::Error::custom(format!("unknown word, expected one of {}", words.join(", ")))
    })
}
