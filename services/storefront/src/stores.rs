//! What is kept of stores.

use async_graphql::SimpleObject;
use nudge_subscriber_kit::Mirror;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The fields of a store that this service keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreState {
    /// The name on the sign.
    pub name: String,
    /// The kind of food, such as `korean` or `cafe`.
    #[serde(default)]
    pub category: String,
    /// The district that it delivers in.
    #[serde(default)]
    pub region: String,
    /// The street address.
    #[serde(default)]
    pub address: String,
    /// The neighbourhood.
    #[serde(default)]
    pub neighbourhood: String,
    /// The phone number.
    #[serde(default)]
    pub phone: String,
    /// A description.
    #[serde(default)]
    pub description: String,
    /// Whether it takes orders.
    pub open: bool,
    /// Minimum order, in whole won.
    #[serde(default)]
    pub min_order_amount: i64,
    /// Delivery fee, in whole won.
    #[serde(default)]
    pub delivery_fee: i64,
    /// What can be ordered, in the order that the owner chose.
    #[serde(default)]
    pub menus: Vec<Menu>,
}

/// Something that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, SimpleObject)]
pub struct Menu {
    /// Its name.
    pub name: String,
    /// Its price, in whole won.
    pub price: i64,
}

/// The table of stores. It keeps deleted ones, to tell them apart from unknown ones.
pub fn mirror() -> Mirror<StoreState> {
    Mirror::table("store")
        .column("name_key", |store: &StoreState| name_key(&store.name))
        .version("version")
        .mark_deleted("deleted")
        .index(&["name_key", "id"])
}

/// The form in which names are ordered, and compared with a text: in lower case, without spaces.
pub fn name_key(name: &str) -> String {
    name.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}
