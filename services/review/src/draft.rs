//! Parses what an author sent, and reports every invalid field at once. Pure.
//!
//! A derived `Deserialize` stops at the first wrong type, but people who fill in a form want to hear about
//! all of its fields. So the JSON object is read as it is and then checked field by field.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::domain::{Draft, MAX_AUTHOR_CHARS, MAX_TEXT_CHARS, RATINGS};

/// Maximum number of faults in one answer.
pub const MAX_FAULTS: usize = 20;
/// Longest part of an unknown field's name that an answer repeats, in characters.
const MAX_NAME_CHARS: usize = 60;

/// An invalid field, and what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field's name.
    pub field: String,
    /// What it should be.
    pub detail: String,
}

/// A JSON object as it was sent: in order, including repeated and unknown fields.
#[derive(Clone, Debug, Default)]
pub struct Fields(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with rating, text and author")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Fields {
    /// The draft, or its faults (the first [`MAX_FAULTS`] of them).
    pub fn into_draft(mut self) -> Result<Draft, Vec<Fault>> {
        let mut faults = Faults::default();
        // The fields of a draft come first, so that any number of unknown ones cannot crowd them out.
        let rating = faults.keep("rating", self.take("rating").and_then(rating));
        let text = self.take("text").and_then(|value| words(value, MAX_TEXT_CHARS, &['\n']));
        let text = faults.keep("text", text);
        let author = self.take("author").and_then(|value| words(value, MAX_AUTHOR_CHARS, &[]));
        let author = faults.keep("author", author);
        for (name, _) in self.0 {
            faults.add(&name, "is not a field of a review (rating, text, author)".into());
        }
        match (rating, text, author) {
            (Some(rating), Some(text), Some(author)) if faults.0.is_empty() => {
                Ok(Draft { rating, text, author })
            }
            _ => Err(faults.0),
        }
    }

    /// Removes the field of this name, which must occur exactly once.
    fn take(&mut self, name: &str) -> Result<Value, String> {
        let mut found = self.0.extract_if(.., |(field, _)| field == name).map(|(_, value)| value);
        match (found.next(), found.count()) {
            (Some(value), 0) => Ok(value),
            (Some(_), _) => Err("must be given once".into()),
            (None, _) => Err("must be given".into()),
        }
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: &str, detail: String) {
        if self.0.len() < MAX_FAULTS {
            let field = field.chars().take(MAX_NAME_CHARS).collect();
            self.0.push(Fault { field, detail });
        }
    }

    fn keep<T>(&mut self, field: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|detail| self.add(field, detail)).ok()
    }
}

fn rating(value: Value) -> Result<u8, String> {
    // `as_u64` accepts only whole numbers: 4.0 is a float, and nobody sends it by accident.
    let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
    number.filter(|number| RATINGS.contains(number)).ok_or_else(|| {
        format!("must be a whole number from {} to {}", RATINGS.start(), RATINGS.end())
    })
}

/// A text of 1 to `max_chars` characters (Unicode scalar values) that is not blank and has no control
/// characters other than `allowed`.
fn words(value: Value, max_chars: usize, allowed: &[char]) -> Result<String, String> {
    let Value::String(text) = value else {
        return Err("must be text".into());
    };
    let length = text.chars().count();
    if text.trim().is_empty() {
        Err("must not be blank".into())
    } else if length > max_chars {
        Err(format!("must be at most {max_chars} characters, but has {length}"))
    } else if text.chars().any(|c| c.is_control() && !allowed.contains(&c)) {
        let but = if allowed.is_empty() { "" } else { " other than line feeds" };
        Err(format!("must not contain control characters{but}"))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(json: &str) -> Result<Draft, Vec<Fault>> {
        serde_json::from_str::<Fields>(json).unwrap().into_draft()
    }

    fn faulty(json: &str) -> Vec<String> {
        read(json).unwrap_err().into_iter().map(|fault| fault.field).collect()
    }

    fn with(field: &str, value: Value) -> String {
        let mut draft = json!({"rating": 5, "text": "맛있어요", "author": "민지"});
        draft[field] = value;
        draft.to_string()
    }

    #[test]
    fn a_draft_is_read_as_it_was_sent() {
        let draft = read(&with("text", json!(" 맛있어요\n또 올게요 "))).unwrap();
        assert_eq!((draft.rating, draft.author.as_str()), (5, "민지"));
        assert_eq!(draft.text, " 맛있어요\n또 올게요 ");
    }

    #[test]
    fn the_bounds_are_exact_and_count_characters() {
        for (field, good) in [
            ("rating", json!(1)),
            ("rating", json!(5)),
            ("text", json!("가".repeat(2000))),
            ("author", json!("가".repeat(50))),
        ] {
            assert!(read(&with(field, good.clone())).is_ok(), "{field} {good}");
        }
        for (field, bad) in [
            ("rating", json!(0)),
            ("rating", json!(6)),
            ("rating", json!(261)),
            ("rating", json!(-1)),
            ("rating", json!(4.5)),
            ("rating", json!(4.0)),
            ("rating", json!("4")),
            ("rating", json!(null)),
            ("text", json!("")),
            ("text", json!(" \n\u{3000}")),
            ("text", json!("가".repeat(2001))),
            ("text", json!("a\tb")),
            ("text", json!("a\u{0}b")),
            ("text", json!("a\r\nb")),
            ("text", json!(["a"])),
            ("author", json!("")),
            ("author", json!("가".repeat(51))),
            ("author", json!("a\nb")),
            ("author", json!(7)),
        ] {
            assert_eq!(faulty(&with(field, bad.clone())), [field], "{bad}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let all = r#"{"rating":0,"text":"","stars":5,"author":1,"id":"x"}"#;
        assert_eq!(faulty(all), ["rating", "text", "author", "stars", "id"]);
        assert_eq!(faulty("{}"), ["rating", "text", "author"]);
    }

    #[test]
    fn a_field_given_twice_is_refused_rather_than_guessed() {
        assert_eq!(faulty(r#"{"rating":1,"rating":5,"text":"a","author":"b"}"#), ["rating"]);
    }

    #[test]
    fn the_list_of_faults_is_bounded_and_keeps_the_drafts_own() {
        let mut many: serde_json::Map<_, _> =
            (0..500).map(|n| (format!("{n}{}", "x".repeat(500)), json!(1))).collect();
        many.insert("rating".into(), json!(9));
        let faults = faulty(&Value::Object(many).to_string());
        assert_eq!(faults.len(), MAX_FAULTS);
        assert_eq!(faults[0], "rating");
        assert!(faults.iter().all(|field| field.chars().count() <= MAX_NAME_CHARS));
    }

    proptest! {
        #[test]
        fn a_text_is_taken_exactly_when_the_rules_allow_it(text in "(\\PC|[\n\t\u{0}\u{85} ]){0,60}") {
            let clean = text.chars().all(|c| !c.is_control());
            let good = (1..=50).contains(&text.chars().count()) && clean && !text.trim().is_empty();
            let read = read(&with("author", json!(text)));
            prop_assert_eq!(read.is_ok(), good);
            if let Ok(draft) = read {
                prop_assert_eq!(draft.author, text);
            }
        }

        #[test]
        fn only_whole_ratings_from_1_to_5_are_taken(rating in any::<i64>()) {
            prop_assert_eq!(read(&with("rating", json!(rating))).is_ok(), (1..=5).contains(&rating));
        }
    }
}
