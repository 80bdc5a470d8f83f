//! Edits of stores, at random from a seed.

use nudge_chance::Random;
use nudge_protocol::EntityId;
use reqwest::Method;
use serde_json::{Value, json};

/// One request to the owner of stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The store.
    pub id: EntityId,
    /// `PUT`, `PATCH` or `DELETE`.
    pub method: Method,
    /// What is sent, if anything.
    pub body: Option<Value>,
}

impl Edit {
    /// Some edit of a store.
    pub fn by_chance(random: &mut Random, id: EntityId) -> Self {
        let name = format!("달빛 {}호점", random.below(1_000_000));
        let open = random.below(2) == 0;
        let (method, body) = match random.below(10) {
            0..5 => {
                let category = *random.one_of(&["korean", "cafe", ""]);
                let region = *random.one_of(&["마포구", "중구", "강남구", "종로구"]);
                let body =
                    json!({"name": name, "category": category, "region": region, "open": open});
                (Method::PUT, Some(body))
            }
            5..8 => (Method::PATCH, Some(json!({"name": name, "open": open}))),
            _ => (Method::DELETE, None),
        };
        Self { id, method, body }
    }
}

/// The ID of the n-th store. The IDs contain characters that URLs and subjects must encode.
pub fn store_id(n: u64) -> EntityId {
    let id = match n % 3 {
        0 => format!("store-{n:03}"),
        1 => format!("가게 {n}"),
        _ => format!("a.{n}/b%"),
    };
    EntityId::new(&id).expect("a good id")
}
