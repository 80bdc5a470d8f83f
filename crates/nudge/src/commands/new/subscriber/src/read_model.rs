//! The read model: what this service keeps of each entity.

use nudge_subscriber_kit::{
    Mirror,
    utoipa::{self, ToSchema},
};
use serde::{Deserialize, Serialize};

/// What is kept. The owner is asked for these fields only, and each is a column of the table.
///
/// Name the fields that you need. With a new one the table gains a column, which is filled while the service runs. An
/// `Option` may be missing at the owner; without any other field, the entity becomes a dead letter.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct Item {
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// The table. The kit creates it, and writes and deletes its rows.
///
/// `Mirror` can also add indexes and computed columns, mark deleted rows, and run SQL of yours. For anything but a copy,
/// implement `Apply` instead.
pub fn table() -> Mirror<Item> {
    Mirror::table("known_my_entity")
}
