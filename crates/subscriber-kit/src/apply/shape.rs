//! The fields that a state type reads, and their types.
//!
//! serde's derive passes a struct's field names to the deserializer, and each field asks the deserializer
//! for its type. So a deserializer that only listens learns both, without a macro of our own. (The idea of
//! collecting the names this way is from serde_aux's `serde_introspect`.)

use std::cell::Cell;

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, MapAccess, Visitor,
        value::{Error, StrDeserializer},
    },
    forward_to_deserialize_any,
};

/// The JSON type of a field, which determines the type of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A string, or an enum of names.
    Text,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// True or false.
    Flag,
    /// Anything else.
    Json,
}

/// One field of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
    /// Whether it may be null.
    pub(crate) optional: bool,
}

/// The names of the fields that `S` reads; `None` if `S` does not name them, as with `serde_json::Value` or
/// `#[serde(flatten)]`.
pub(crate) fn names<S: for<'de> Deserialize<'de>>() -> Option<&'static [&'static str]> {
    let names = Cell::new(None);
    let only = None;
    let _ = S::deserialize(Listener { names: &names, only, heard: &Cell::new(None) });
    names.get()
}

/// The fields that `S` reads, with their types.
pub(crate) fn fields<S: for<'de> Deserialize<'de>>() -> Option<Vec<Field>> {
    let field = |name: &&'static str| {
        let heard = Cell::new(None);
        // The result does not matter: the field was asked for before anything can fail.
        let _ =
            S::deserialize(Listener { names: &Cell::new(None), only: Some(name), heard: &heard });
        let (value, optional) = heard.get().unwrap_or((Value::Json, false));
        Field { name, value, optional }
    };
    names::<S>().map(|names| names.iter().map(field).collect())
}

/// The type of a single value, and whether it may be null.
pub(crate) fn value<V: for<'de> Deserialize<'de>>() -> (Value, bool) {
    let heard = Cell::new(None);
    let _ = V::deserialize(Ear { heard: &heard, optional: false });
    heard.get().unwrap_or((Value::Json, false))
}

type Heard = Cell<Option<(Value, bool)>>;

/// Offers a struct the single field `only`, or nothing.
struct Listener<'a> {
    names: &'a Cell<Option<&'static [&'static str]>>,
    only: Option<&'static str>,
    heard: &'a Heard,
}

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.names.set(Some(fields));
        match self.only {
            Some(name) => visitor.visit_map(One { name: Some(name), heard: self.heard }),
            None => Err(Error::custom("only asked for its fields")),
        }
    }

    /// A newtype counts as the type inside it.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// An object with one field.
struct One<'a> {
    name: Option<&'static str>,
    heard: &'a Heard,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.name.take().map(|name| seed.deserialize(StrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Ear { heard: self.heard, optional: false })
    }
}

/// Notes the type that is asked for, and provides no value.
struct Ear<'a> {
    heard: &'a Heard,
    optional: bool,
}

impl Ear<'_> {
    fn hears<T>(self, value: Value) -> Result<T, Error> {
        self.heard.set(Some((value, self.optional)));
        Err(Error::custom("heard"))
    }
}

/// Methods that all stand for the same kind of value.
macro_rules! hears {
    ($($value:ident: $($method:ident)*;)*) => {$($(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.hears(Value::$value)
        }
    )*)*};
}

impl<'de> Deserializer<'de> for Ear<'_> {
    type Error = Error;

    hears! {
        Text: deserialize_char deserialize_str deserialize_string;
        Int: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
            deserialize_u32 deserialize_u64;
        Float: deserialize_f32 deserialize_f64;
        Flag: deserialize_bool;
        Json: deserialize_any deserialize_i128 deserialize_u128 deserialize_bytes deserialize_byte_buf
            deserialize_unit deserialize_seq deserialize_map deserialize_identifier
            deserialize_ignored_any;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(Self { heard: self.heard, optional: true })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.hears(Value::Json)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        self.hears(Value::Json)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Error> {
        self.hears(Value::Json)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Error> {
        self.hears(Value::Json)
    }

    /// An enum is a string in JSON, unless its variant holds data: then it is an object. This cannot be told
    /// apart here, so a text column stores such an object as its JSON.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.hears(Value::Text)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Cafe,
        Bar,
    }

    #[derive(Deserialize)]
    struct Price(#[allow(dead_code, reason = "only read by the derive")] u32);

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only read by the derive")]
    struct State {
        name: String,
        #[serde(rename = "isOpen")]
        open: bool,
        price: Price,
        rating: Option<f64>,
        kind: Kind,
        tags: Vec<String>,
        #[serde(default)]
        rest: serde_json::Value,
        #[serde(skip)]
        own: u8,
    }

    #[test]
    fn each_field_is_named_and_told_apart() {
        let field = |name, value, optional| Field { name, value, optional };
        let expected = vec![
            field("name", Value::Text, false),
            field("isOpen", Value::Flag, false),
            field("price", Value::Int, false),
            field("rating", Value::Float, true),
            field("kind", Value::Text, false),
            field("tags", Value::Json, false),
            field("rest", Value::Json, false),
        ];
        assert_eq!(fields::<State>(), Some(expected));
        assert_eq!(names::<State>().unwrap().len(), 7);
        assert!(matches!(serde_json::from_str("\"cafe\""), Ok(Kind::Cafe)));
        assert_eq!(serde_json::to_string(&Kind::Bar).unwrap(), "\"bar\"");
    }

    #[test]
    fn a_newtype_reads_what_it_holds() {
        #[derive(Deserialize)]
        struct Wrapped(#[allow(dead_code, reason = "only read by the derive")] State);
        assert_eq!(names::<Wrapped>(), names::<State>());
    }

    #[test]
    fn what_takes_everything_names_nothing() {
        #[derive(Deserialize)]
        struct Open {
            #[allow(dead_code, reason = "only read by the derive")]
            #[serde(flatten)]
            all: serde_json::Map<String, serde_json::Value>,
        }
        assert_eq!(names::<Open>(), None);
        assert_eq!(names::<serde_json::Value>(), None);
        assert_eq!(names::<String>(), None);
    }

    #[test]
    fn a_single_value_is_told_apart() {
        assert_eq!(value::<String>(), (Value::Text, false));
        assert_eq!(value::<Option<i64>>(), (Value::Int, true));
        assert_eq!(value::<Vec<u8>>(), (Value::Json, false));
    }
}
