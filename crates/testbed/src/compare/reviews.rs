//! What storefront shows of reviews: added up here from the reviews themselves, without its table of ratings. Pure.

use nudge_protocol::EntityId;
use serde_json::{Map, Value, json};

use super::{Difference, Differing, Entities, Shown, Shows};

/// Newest reviews on a store's page.
const NEWEST: usize = 10;

/// A store's rating and its newest reviews.
#[derive(Clone, Debug, PartialEq)]
struct Opinion {
    average: Value,
    count: Value,
    newest: Value,
}

/// Differences between what the pages show of reviews and what there is.
pub(super) fn differences(service: &str, reviews: &Entities, pages: &Shows) -> Vec<Difference> {
    let mut differing = Differing::new(service, "store");
    for (id, page) in &pages.stores {
        let Shown::Live { fields, .. } = page else { continue };
        let (expected, is) = (opinion(id, reviews), on_page(fields));
        differing.note(Some(id), "average rating", expected.average, is.average);
        differing.note(Some(id), "number of reviews", expected.count, is.count);
        differing.note(Some(id), "newest reviews", expected.newest, is.newest);
    }
    differing.found
}

/// What a page says.
fn on_page(page: &Map<String, Value>) -> Opinion {
    let rating = |name: &str| page.get("rating").map(|rating| rating[name].clone());
    let newest = page.get("newest_reviews").and_then(Value::as_array);
    let brief = |review: &Value| brief(review["id"].clone(), |field| review[field].clone());
    Opinion {
        average: rating("average").unwrap_or_default(),
        count: rating("count").unwrap_or_default(),
        newest: newest.into_iter().flatten().map(brief).collect(),
    }
}

/// What the reviews of a store come to.
fn opinion(store: &EntityId, reviews: &Entities) -> Opinion {
    let states = reviews.iter().filter_map(|(id, owned)| Some((id, owned.state.as_ref()?)));
    let of_store: Vec<_> =
        states.filter(|(_, state)| state["store_id"] == store.as_str()).collect();
    let ratings = of_store.iter().filter_map(|(_, state)| state["rating"].as_u64());
    let (count, sum) = (of_store.len() as u64, ratings.sum::<u64>());
    let hundredths = (sum * 200 + count).checked_div(2 * count);
    // IDs rise with the time of writing.
    let newest = of_store.iter().rev().take(NEWEST);
    Opinion {
        average: hundredths.map(|hundredths| hundredths as f64 / 100.0).into(),
        count: count.into(),
        newest: newest
            .map(|(id, state)| {
                brief(json!(id), |field| state.get(field).cloned().unwrap_or_default())
            })
            .collect(),
    }
}

/// A review as far as it is compared.
fn brief(id: Value, field: impl Fn(&str) -> Value) -> Value {
    json!([id, field("rating"), field("text"), field("author")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Owned;

    fn id(text: &str) -> EntityId {
        EntityId::new(text).unwrap()
    }

    fn reviews() -> Entities {
        let live = |store: &str, rating: u64| Owned {
            version: 1,
            state: json!({"store_id": store, "rating": rating, "text": "t", "author": "a"})
                .as_object()
                .cloned(),
        };
        Entities::from([
            (id("1"), live("a", 5)),
            (id("2"), live("b", 1)),
            (id("3"), live("a", 4)),
            (id("4"), Owned { version: 9, state: None }),
        ])
    }

    #[test]
    fn a_store_has_the_mean_of_its_own_reviews_and_shows_the_newest_first() {
        let of_a = opinion(&id("a"), &reviews());
        assert_eq!((of_a.average, of_a.count), (json!(4.5), json!(2)));
        assert_eq!(of_a.newest, json!([["3", 4, "t", "a"], ["1", 5, "t", "a"]]));
        let of_none = opinion(&id("c"), &reviews());
        assert_eq!((of_none.average, of_none.count), (Value::Null, json!(0)));
    }

    #[test]
    fn a_wrong_mean_a_wrong_count_and_a_missing_review_differ() {
        let newest = json!([
            {"id": "3", "rating": 4, "text": "t", "author": "a", "created_at": "today"},
            {"id": "1", "rating": 5, "text": "t", "author": "a", "created_at": "today"},
        ]);
        let right = json!({"rating": {"average": 4.5, "count": 2}, "newest_reviews": newest});
        let found = |page: &Value| {
            let fields = page.as_object().unwrap().clone();
            let page = Shown::Live { version: None, fields, of: &[] };
            let pages = Shows { deleted: true, stores: [(id("a"), page)].into() };
            let found = differences("storefront", &reviews(), &pages);
            found.into_iter().map(|difference| difference.what).collect::<Vec<_>>()
        };
        assert_eq!(found(&right), [""; 0]);
        for (at, wrong, what) in [
            ("/rating/average", json!(4.0), "average rating"),
            ("/rating/count", json!(1), "number of reviews"),
            ("/newest_reviews/1", Value::Null, "newest reviews"),
            ("/newest_reviews/0/text", json!("T"), "newest reviews"),
        ] {
            let mut page = right.clone();
            *page.pointer_mut(at).unwrap() = wrong;
            assert_eq!(found(&page), [what], "{at}");
        }
    }
}
