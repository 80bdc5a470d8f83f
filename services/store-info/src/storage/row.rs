//! Reads a row as a store, or says why that is not possible.
//!
//! SQLite stores what it is given: `1500.5` for a whole number, bytes for text, text in another encoding. Triggers
//! refuse values of another type. Older values, and text that is not UTF-8, are detected row by row, so
//! that they do not affect other stores.

use nudge_protocol::EntityId;
use nudge_publisher::sync_api;
use nudge_runtime::{
    database::{Field, Kind, Text},
    row,
};
use sqlx::{FromRow, Row as _, any::AnyRow};

use crate::domain::{Menu, Store};

row! {
    struct Row {
        name: Text,
        category: Text,
        region: Text,
        address: Text,
        neighbourhood: Text,
        phone: Text,
        description: Text,
        open: i64,
        min_order_amount: i64,
        delivery_fee: i64,
        /// As JSON.
        menus: Text,
    }
}

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
///
/// # Errors
/// If the table is to blame and not the row: on PostgreSQL, a column of another type.
pub(super) fn read(kind: Kind, row: &AnyRow) -> Result<Result<Store, Unreadable>, sqlx::Error> {
    let (id, shown) = id(row)?;
    let unreadable = |problem: String| {
        let problem = format!("the row of store {shown} cannot be read: {problem}");
        Ok(Err(Unreadable { id: id.clone(), problem }))
    };
    let Some(id) = id.clone() else {
        return unreadable("its id is invalid".to_owned());
    };
    let found = match Row::from_row(row) {
        Ok(found) => found,
        Err(sqlx::Error::ColumnDecode { index, .. }) if kind == Kind::Sqlite => {
            let column = index.trim_matches('"');
            return unreadable(format!(
                "{column} holds a value of another type, or text that is not UTF-8"
            ));
        }
        Err(error) => return Err(error),
    };
    let menus: Vec<Menu> = match serde_json::from_str(&found.menus.0) {
        Ok(menus) => menus,
        Err(error) => return unreadable(format!("its menus: {error}")),
    };
    Ok(Ok(Store {
        id,
        name: found.name.0,
        category: found.category.0,
        region: found.region.0,
        address: found.address.0,
        neighbourhood: found.neighbourhood.0,
        phone: found.phone.0,
        description: found.description.0,
        open: found.open != 0,
        min_order_amount: found.min_order_amount,
        delivery_fee: found.delivery_fee,
        menus,
    }))
}

/// The ID, if it is valid, and how to show it: a valid one as it is, anything else as an SQL literal.
fn id(row: &AnyRow) -> Result<(Option<EntityId>, String), sqlx::Error> {
    let text = Text::of(row, "id").ok().map(|text| text.0);
    let is_text = row.try_get::<String, _>("id_type")? == "text";
    let id = text.as_deref().filter(|_| is_text).and_then(|text| EntityId::new(text).ok());
    let shown = match (&id, text) {
        (Some(id), _) => id.to_string(),
        (None, Some(text)) if is_text => format!("{text:?}"),
        (None, _) => {
            let bytes: Vec<u8> = row.try_get("id")?;
            let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            match is_text {
                true => format!("CAST(X'{digits}' AS TEXT)"),
                false => format!("X'{digits}'"),
            }
        }
    };
    Ok((id, shown))
}
