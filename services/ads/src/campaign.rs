//! What a campaign is.

use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest budget, in impressions.
pub const MAX_BUDGET: u32 = 1_000_000_000;
/// Longest name of a region or category, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// A campaign as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CampaignDraft)]
pub struct Draft {
    /// The store to advertise.
    pub store_id: EntityId,
    /// The region in which it is advertised; everywhere without one.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub region: Option<String>,
    /// The category in which it is advertised; in each without one.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub category: Option<String>,
    /// How often it may be shown.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub budget: u32,
    /// From when on.
    pub from: Timestamp,
    /// Until when. After `from`.
    pub until: Timestamp,
}

/// A campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Campaign {
    /// Its ID.
    pub id: EntityId,
    /// The store to advertise.
    pub store_id: EntityId,
    /// The region in which it is advertised; null for everywhere.
    #[schema(required)]
    pub region: Option<String>,
    /// The category in which it is advertised; null for each.
    #[schema(required)]
    pub category: Option<String>,
    /// How often it may be shown.
    pub budget: u32,
    /// How often it has been shown.
    pub shown: u64,
    /// From when on.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Campaign {
    /// A campaign of which this was asked.
    pub fn of(id: EntityId, draft: Draft, shown: u64) -> Self {
        let Draft { store_id, region, category, budget, from, until } = draft;
        Self { id, store_id, region, category, budget, shown, from, until }
    }
}

impl Draft {
    /// Everything that is wrong with it.
    pub fn faults(&self) -> Vec<FieldError> {
        let fault = |field: &str, detail: String| FieldError { field: field.to_owned(), detail };
        let mut faults = Vec::new();
        for (field, name) in [("region", &self.region), ("category", &self.category)] {
            let wrong = |name: &&String| {
                !(1..=MAX_NAME_CHARS).contains(&name.chars().count())
                    || name.contains(char::is_control)
            };
            if name.as_ref().is_some_and(|name| wrong(&name)) {
                let detail = format!(
                    "must have 1 to {MAX_NAME_CHARS} characters, none of them a control character"
                );
                faults.push(fault(field, detail));
            }
        }
        if !(1..=MAX_BUDGET).contains(&self.budget) {
            faults.push(fault("budget", format!("must be from 1 to {MAX_BUDGET}")));
        }
        if self.until <= self.from {
            faults.push(fault("until", "must be after `from`".to_owned()));
        }
        faults
    }
}
