//! JSON exactly as the published documents describe it: objects, and words.
//!
//! serde's derive accepts more than that: a list as the fields of a struct in their order, and
//! `{"live": null}` as the word `live`. Nobody writes either on purpose, but clients that came to rely on
//! it could not be distinguished later from those that follow the documents.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::{Map as Fields, Value};

/// A struct that is read only from an object.
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

/// Any JSON in which no object has a field twice. JSON does not say which of two values counts, and readers
/// differ: one program might check a value that another never sees.
///
/// ```
/// use nudge_protocol::Unambiguous;
/// assert!(serde_json::from_str::<Unambiguous>(r#"{"a":[{"b":1},{"b":2}]}"#).is_ok());
/// let twice = serde_json::from_str::<Unambiguous>(r#"{"a":[{"b":1,"b":1}]}"#);
/// assert!(twice.unwrap_err().to_string().starts_with("duplicate field `b`"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Unambiguous(pub Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Fields::new();
        while let Some(name) = map.next_key::<String>()? {
            let Unambiguous(value) = map.next_value()?;
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("duplicate field `{name}`")));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

/// Reads an object, whatever it is asked for.
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

/// A list of structs, each of which is read only from an object: for `deserialize_with`.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Point { x: i32 }
///
/// #[derive(serde::Deserialize)]
/// struct Line {
///     #[serde(deserialize_with = "nudge_protocol::object::list")]
///     points: Vec<Point>,
/// }
///
/// assert!(serde_json::from_str::<Line>(r#"{"points":[{"x":1}]}"#).is_ok());
/// assert!(serde_json::from_str::<Line>(r#"{"points":[[1]]}"#).is_err());
/// ```
///
/// # Errors
/// If it is no list, or one of its elements is no such object.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
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
