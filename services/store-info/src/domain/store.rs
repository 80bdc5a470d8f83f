//! The fields of a store and their limits.

use nudge_protocol::EntityId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name of a store, in characters.
pub const MAX_NAME_CHARS: usize = 200;
/// Longest category, region and neighbourhood, in characters.
pub const MAX_LABEL_CHARS: usize = 100;
/// Longest address, in characters.
pub const MAX_ADDRESS_CHARS: usize = 300;
/// Longest phone number, in characters.
pub const MAX_PHONE_CHARS: usize = 50;
/// Longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 2_000;
/// Most menus of a store.
pub const MAX_MENUS: usize = 200;
/// Longest name of a menu, in characters.
pub const MAX_MENU_NAME_CHARS: usize = 100;
/// Highest amount of money, in whole won.
pub const MAX_WON: i64 = 1_000_000_000;

/// A store. Its JSON is what the API answers and what callbacks get; the version stands beside it
/// (in `ETag`), never inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Store {
    /// Made by the service (UUIDv7) when not given. 1 to 200 bytes of UTF-8 without control
    /// characters.
    pub id: EntityId,
    /// What the sign over the door says.
    #[schema(
        min_length = 1,
        max_length = 200,
        example = "달빛국수 망원점",
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub name: String,
    /// The kind of kitchen, such as `korean` or `cafe`.
    #[schema(
        max_length = 100,
        example = "korean",
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub category: String,
    /// The district that it delivers in.
    #[schema(
        max_length = 100,
        example = "마포구",
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub region: String,
    /// The street address.
    #[schema(max_length = 300, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub address: String,
    /// The neighbourhood.
    #[schema(
        max_length = 100,
        example = "망원동",
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub neighbourhood: String,
    /// The phone number, as it is written.
    #[schema(max_length = 50, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub phone: String,
    /// What the owner says of it. The only field that may hold line breaks.
    #[schema(max_length = 2000, pattern = "^[^\\u0000-\\u0009\\u000b-\\u001f\\u007f-\\u009f]*$")]
    pub description: String,
    /// Whether it takes orders now.
    pub open: bool,
    /// Smallest order, in whole won.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub min_order_amount: i64,
    /// Price of a delivery, in whole won.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub delivery_fee: i64,
    /// What can be ordered, in the order that the owner chose.
    #[schema(max_items = 200)]
    pub menus: Vec<Menu>,
}

/// Something that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Menu {
    /// What it is called.
    #[schema(
        min_length = 1,
        max_length = 100,
        example = "잔치국수",
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub name: String,
    /// Its price, in whole won.
    #[schema(minimum = 0, maximum = 1_000_000_000, example = 7000)]
    pub price: i64,
}
