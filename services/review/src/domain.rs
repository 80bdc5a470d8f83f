//! What a review is, and when one may be written. Pure: no clock, no database, no HTTP.

mod standing;

use nudge_protocol::{EntityId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

pub use standing::{KnownStore, Refusal, StoreStanding};

/// The lowest and the highest rating.
pub const RATINGS: std::ops::RangeInclusive<u8> = 1..=5;
/// Longest text of a review, in characters.
pub const MAX_TEXT_CHARS: usize = 2_000;
/// Longest name of an author, in characters.
pub const MAX_AUTHOR_CHARS: usize = 50;

/// The part of a review that its author writes and may rewrite.
// `crate::draft` parses and checks it. It is never serialized; serde's attribute tells the schema that no
// other fields are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// From 1 to 5.
    #[schema(minimum = 1, maximum = 5)]
    pub rating: u8,
    /// Must not be blank, and must contain no control characters other than line feeds.
    #[schema(
        min_length = 1,
        max_length = 2000,
        pattern = "^[^\\u0000-\\u0009\\u000b-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u0009\\u000b-\\u001f\\u007f-\\u009f]*$"
    )]
    pub text: String,
    /// Must not be blank, and must contain no control characters.
    #[schema(
        min_length = 1,
        max_length = 50,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub author: String,
}

/// One review of one store. This is also the state that the sync API hands to subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Review {
    /// A UUIDv7, so sorting by ID sorts by age.
    #[schema(value_type = String, format = "uuid")]
    pub id: EntityId,
    /// The reviewed store.
    pub store_id: EntityId,
    /// From 1 to 5.
    #[schema(minimum = 1, maximum = 5)]
    pub rating: u8,
    /// What the author thinks.
    pub text: String,
    /// Who wrote it.
    pub author: String,
    /// When it was first written.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Review {
    /// A new review.
    pub fn written(id: EntityId, store_id: EntityId, draft: Draft, now: Timestamp) -> Self {
        let Draft { rating, text, author } = draft;
        Self { id, store_id, rating, text, author, created_at: now, updated_at: now }
    }

    /// The review with the content of `draft`; `None` if that changes nothing.
    pub fn rewritten(self, draft: Draft, now: Timestamp) -> Option<Self> {
        let Draft { rating, text, author } = draft;
        if (self.rating, &self.text, &self.author) == (rating, &text, &author) {
            return None;
        }
        // Even if the clock was set back, a change must not look older than what it replaced.
        let updated_at = now.max(self.updated_at);
        Some(Self { rating, text, author, updated_at, ..self })
    }
}

/// How many ratings there are, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ratings {
    /// The number of ratings.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Ratings {
    /// The mean, rounded half up to two decimals; `None` without ratings.
    ///
    /// ```
    /// use review::domain::Ratings;
    /// assert_eq!(Ratings { count: 3, sum: 13 }.average(), Some(4.33));
    /// assert_eq!(Ratings { count: 0, sum: 0 }.average(), None);
    /// ```
    pub fn average(self) -> Option<f64> {
        // Computed in whole hundredths, because rounding a double depends on how it represents 4.125.
        let hundredths = (self.sum * 200 + self.count).checked_div(2 * self.count)?;
        Some(hundredths as f64 / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn review(micros: i64) -> Review {
        let draft = Draft { rating: 4, text: "좋아요".into(), author: "민지".into() };
        let id = |text| EntityId::new(text).unwrap();
        Review::written(id("r"), id("s"), draft, Timestamp::from_unix_micros(micros))
    }

    #[test]
    fn the_same_words_are_no_change_and_each_other_word_is_one() {
        let later = Timestamp::from_unix_micros(20);
        let same = Draft { rating: 4, text: "좋아요".into(), author: "민지".into() };
        assert_eq!(review(10).rewritten(same.clone(), later), None);
        for draft in [
            Draft { rating: 5, ..same.clone() },
            Draft { text: "좋아요.".into(), ..same.clone() },
            Draft { author: "하준".into(), ..same.clone() },
        ] {
            let new = review(10).rewritten(draft.clone(), later).unwrap();
            assert_eq!((new.rating, &new.text), (draft.rating, &draft.text));
            assert_eq!((new.author.as_str(), new.updated_at), (draft.author.as_str(), later));
            assert_eq!((new.created_at, new.id), (review(10).created_at, review(10).id));
        }
    }

    #[test]
    fn a_clock_set_back_does_not_make_a_change_older() {
        let other = Draft { rating: 1, text: "별로".into(), author: "민지".into() };
        let new = review(10).rewritten(other, Timestamp::from_unix_micros(5)).unwrap();
        assert_eq!(new.updated_at, Timestamp::from_unix_micros(10));
    }

    #[test]
    fn halves_are_rounded_up() {
        // 33 / 8 = 4.125
        assert_eq!(Ratings { count: 8, sum: 33 }.average(), Some(4.13));
        assert_eq!(Ratings { count: 1, sum: 5 }.average(), Some(5.0));
    }

    proptest! {
        #[test]
        fn the_average_is_within_half_a_hundredth(ratings in prop::collection::vec(1u64..=5, 1..300)) {
            let (count, sum) = (ratings.len() as u64, ratings.iter().sum::<u64>());
            let average = Ratings { count, sum }.average().unwrap();
            prop_assert!((average - sum as f64 / count as f64).abs() <= 0.005 + 1e-9);
            prop_assert!((1.0..=5.0).contains(&average));
            prop_assert!(serde_json::to_string(&average).unwrap().len() <= 4);
        }
    }
}
