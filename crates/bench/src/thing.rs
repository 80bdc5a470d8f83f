//! What is measured with: a thing of about a hundred bytes.

use serde::{Deserialize, Serialize};

/// The kind of entity.
pub(crate) const ENTITY: &str = "thing";

/// A thing, as the owner has it and as read models keep it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Thing {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) open: bool,
    pub(crate) fee: i64,
    /// How many times it was changed.
    pub(crate) edition: i64,
}

impl Thing {
    pub(crate) fn new(edition: i64) -> Self {
        Self {
            name: "달빛국수 망원점".to_owned(),
            region: "마포구".to_owned(),
            open: true,
            fee: 3_000,
            edition,
        }
    }

    /// As JSON.
    pub(crate) fn text(edition: i64) -> String {
        serde_json::json!(Self::new(edition)).to_string()
    }
}

/// What is told of a change, as an owner tells it.
pub(crate) fn notification(id: &str) -> String {
    format!("{{\"id\":\"{id}\",\"change\":\"updated\"}}")
}

/// The ID of the thing with this number.
pub(crate) fn id(number: usize) -> String {
    format!("thing-{number:07}")
}
