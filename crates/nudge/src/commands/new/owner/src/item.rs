//! What an entity is.

use nudge_subscriber_kit::{
    runtime::problem::FieldError,
    utoipa::{self, ToSchema},
};
use serde::{Deserialize, Serialize};

/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 200;

/// The state of one entity: as editors send it, and as subscribers get it.
///
/// Add your fields here, and their columns in `storage`. Subscribers take only those that they ask for, so a new field
/// disturbs nobody.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its name.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
}

impl Item {
    /// Everything that is wrong with it, besides what its type says.
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let fits = (1..=MAX_NAME_CHARS).contains(&self.name.chars().count());
        if !fits || self.name.contains(char::is_control) {
            let detail = format!("must have 1 to {MAX_NAME_CHARS} characters, none a control character");
            faults.push(FieldError { field: "name".to_owned(), detail });
        }
        faults
    }
}
