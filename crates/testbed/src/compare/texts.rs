//! What search must find by text: a simple search of the owner's stores, without any index. Pure.

use std::collections::BTreeSet;

use nudge_protocol::EntityId;
use serde_json::{Map, Value};

use super::{Difference, Entities};

/// Most queries of one comparison. The usual 300 stores give fewer.
const MAX_QUESTIONS: usize = 1_000;
/// The text fields that edits write. Search also searches others, which stay empty.
const TEXTS: &[&str] = &["name", "category", "region"];

/// The queries: for each live store the last word of its name and a part of that, and a part of its
/// region. Parts have two characters, as in Korean searches.
pub(super) fn questions(owner: &Entities) -> BTreeSet<String> {
    let states = owner.values().filter_map(|owned| owned.state.as_ref());
    let of_one = |state: &Map<String, Value>| {
        let word = text(state, "name").split_whitespace().last().map(squeezed).unwrap_or_default();
        let region = squeezed(text(state, "region"));
        [part(&word, 1), part(&region, 0), word]
    };
    let all = states.flat_map(of_one).filter(|question| !question.is_empty());
    all.take(MAX_QUESTIONS).collect()
}

/// Differences between the stores that were found by a text and those that contain it.
pub(super) fn differences(
    service: &str,
    owner: &Entities,
    question: &str,
    found: &BTreeSet<EntityId>,
) -> Vec<Difference> {
    let has = |state: &Map<String, Value>| {
        TEXTS.iter().any(|field| squeezed(text(state, field)).contains(question))
    };
    let stores = owner.iter().filter(|(_, owned)| owned.state.as_ref().is_some_and(has));
    let expected: BTreeSet<_> = stores.map(|(id, _)| id.clone()).collect();
    let difference = |id: &EntityId| Difference {
        service: service.to_owned(),
        entity: "store",
        id: Some(id.clone()),
        what: format!("found by {question:?}"),
        expected: expected.contains(id).into(),
        found: found.contains(id).into(),
    };
    expected.symmetric_difference(found).map(difference).collect()
}

fn text<'a>(state: &'a Map<String, Value>, field: &str) -> &'a str {
    state.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Text as search compares it: only letters and digits, in lower case.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Two characters with `after` more behind them; the whole text if it is shorter.
fn part(text: &str, after: usize) -> String {
    let characters: Vec<_> = text.chars().collect();
    let end = characters.len().saturating_sub(after);
    match end.checked_sub(2) {
        Some(begin) => characters[begin..end].iter().collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compare::Owned;

    fn id(text: &str) -> EntityId {
        EntityId::new(text).unwrap()
    }

    fn owner() -> Entities {
        let live = |name: &str, region: &str| Owned {
            version: 1,
            state: json!({"name": name, "region": region, "open": true}).as_object().cloned(),
        };
        Entities::from([
            (id("a"), live("달빛 127호점", "마포구")),
            (id("b"), live("달빛 17호점", "")),
            (id("gone"), Owned { version: 2, state: None }),
        ])
    }

    fn differ(question: &str, found: &[&str]) -> Vec<String> {
        let found = found.iter().map(|name| id(name)).collect();
        let all = differences("search", &owner(), question, &found);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn words_and_parts_of_words_of_live_stores_are_asked() {
        let expected = ["127호점", "17호점", "7호", "포구"].map(str::to_owned);
        assert_eq!(questions(&owner()), expected.into());
    }

    #[test]
    fn a_store_that_is_not_found_differs_and_so_does_one_that_should_not_be() {
        assert_eq!(differ("7호", &["a", "b"]), [""; 0]);
        assert_eq!(differ("포구", &["a"]), [""; 0]);
        let missing = differ("7호", &["b"]);
        assert_eq!(missing, [r#"search: store "a": found by "7호" is false, and should be true"#]);
        let extra = differ("포구", &["a", "gone"]);
        assert_eq!(
            extra,
            [r#"search: store "gone": found by "포구" is true, and should be false"#]
        );
    }
}
