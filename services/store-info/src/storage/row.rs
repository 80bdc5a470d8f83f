//! Reads a row as a store, or says why that is not possible.
//!
//! SQLite stores what it is given: `1500.5` for a whole number, bytes for text, text in another encoding. Triggers
//! refuse values of another type. Older values, and text that is not UTF-8, are detected row by row, so
//! that they do not affect other stores.

use nudge_protocol::EntityId;
use nudge_publisher::sync_api;
use nudge_runtime::set_sql::Line;

use crate::domain::{Menu, Store};

/// A row that is not a valid store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its ID, if that can be read.
    pub id: Option<EntityId>,
    /// Which row it is and what is wrong with it.
    pub problem: String,
}

impl From<Unreadable> for sync_api::Unreadable {
    fn from(row: Unreadable) -> Self {
        Self { ids: row.id.into_iter().collect(), problem: row.problem }
    }
}

/// The store that a row holds.
pub(super) fn read(mut line: Line<'_>) -> Result<Store, Unreadable> {
    let (id, shown) = id(&mut line);
    let unreadable = |problem: &str| Unreadable {
        id: id.clone(),
        problem: format!("the row of store {shown} cannot be read: {problem}"),
    };
    let other = |column| {
        unreadable(&format!("{column} holds a value of another type, or text that is not UTF-8"))
    };
    let mut text = |column| line.text().ok_or_else(|| other(column));
    let (name, category, region) = (text("name")?, text("category")?, text("region")?);
    let (address, neighbourhood) = (text("address")?, text("neighbourhood")?);
    let (phone, description) = (text("phone")?, text("description")?);
    let mut int = |column| line.int().ok_or_else(|| other(column));
    let (open, min_order_amount) = (int("open")? != 0, int("min_order_amount")?);
    let delivery_fee = int("delivery_fee")?;
    let menus = line.text().ok_or_else(|| other("menus"))?;
    let menus: Vec<Menu> =
        serde_json::from_str(&menus).map_err(|error| unreadable(&format!("its menus: {error}")))?;
    Ok(Store {
        id: id.clone().ok_or_else(|| unreadable("its id is invalid"))?,
        name,
        category,
        region,
        address,
        neighbourhood,
        phone,
        description,
        open,
        min_order_amount,
        delivery_fee,
        menus,
    })
}

/// The ID, if it is valid, and how to show it: a valid one as it is, anything else as an SQL literal.
fn id(line: &mut Line<'_>) -> (Option<EntityId>, String) {
    let (bytes, is_text) = (line.bytes().unwrap_or_default(), line.int() == Some(1));
    let text = std::str::from_utf8(&bytes).ok().filter(|_| is_text);
    let id = text.and_then(|text| EntityId::new(text).ok());
    let shown = match (&id, text) {
        (Some(id), _) => id.to_string(),
        (None, Some(text)) => format!("{text:?}"),
        (None, None) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            match is_text {
                true => format!("CAST(X'{digits}' AS TEXT)"),
                false => format!("X'{digits}'"),
            }
        }
    };
    (id, shown)
}
