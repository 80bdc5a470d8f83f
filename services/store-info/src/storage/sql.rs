//! Tables and statements, for both databases.
//!
//! Columns instead of one JSON text, so that triggers can tell a change from a rewrite, and other
//! programs can use the tables. Text, BIGINT and one JSON parameter per set of rows mean the
//! same on SQLite and PostgreSQL.

use std::sync::Arc;

use nudge_runtime::{
    database::{Kind, Migration},
    set_sql::{Column, lines, rows, strings},
};
use serde_json::json;

use crate::domain::Store;

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        title: "stores and their menus",
        sqlite: "
        CREATE TABLE store (
            id TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            category TEXT NOT NULL,
            region TEXT NOT NULL,
            address TEXT NOT NULL,
            neighbourhood TEXT NOT NULL,
            phone TEXT NOT NULL,
            description TEXT NOT NULL,
            open BIGINT NOT NULL,
            min_order_amount BIGINT NOT NULL,
            delivery_fee BIGINT NOT NULL
        );
        CREATE TABLE store_menu (
            store_id TEXT NOT NULL REFERENCES store (id) ON DELETE CASCADE,
            position BIGINT NOT NULL,
            name TEXT NOT NULL,
            price BIGINT NOT NULL,
            PRIMARY KEY (store_id, position)
        ) WITHOUT ROWID;",
        postgres: "
        CREATE TABLE store (
            id TEXT COLLATE \"C\" NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            category TEXT NOT NULL,
            region TEXT NOT NULL,
            address TEXT NOT NULL,
            neighbourhood TEXT NOT NULL,
            phone TEXT NOT NULL,
            description TEXT NOT NULL,
            open BIGINT NOT NULL,
            min_order_amount BIGINT NOT NULL,
            delivery_fee BIGINT NOT NULL
        );
        CREATE TABLE store_menu (
            store_id TEXT COLLATE \"C\" NOT NULL REFERENCES store (id) ON DELETE CASCADE,
            position BIGINT NOT NULL,
            name TEXT NOT NULL,
            price BIGINT NOT NULL,
            PRIMARY KEY (store_id, position)
        );",
    },
    Migration {
        number: 2,
        title: "menus go with their store",
        // Without foreign keys, which SQLite's own shell does not enforce, the menus of a deleted store would stay,
        // and come back with the next store of its id.
        sqlite: "
        DELETE FROM store_menu WHERE store_id NOT IN (SELECT id FROM store);
        CREATE TRIGGER store_menu_goes_with_its_store AFTER DELETE ON store BEGIN
            DELETE FROM store_menu WHERE store_id = OLD.id;
        END;",
        postgres: "SELECT 1;",
    },
    Migration {
        number: 3,
        title: "columns have their types",
        // PostgreSQL refuses these by itself. Existing values stay, and are detected when they are read.
        sqlite: "
        CREATE TRIGGER store_has_its_types_when_made BEFORE INSERT ON store
        WHEN typeof(NEW.id) <> 'text' OR typeof(NEW.name) <> 'text' OR typeof(NEW.category) <> 'text'
            OR typeof(NEW.region) <> 'text' OR typeof(NEW.address) <> 'text' OR typeof(NEW.neighbourhood) <> 'text'
            OR typeof(NEW.phone) <> 'text' OR typeof(NEW.description) <> 'text' OR typeof(NEW.open) <> 'integer'
            OR typeof(NEW.min_order_amount) <> 'integer' OR typeof(NEW.delivery_fee) <> 'integer'
        BEGIN
            SELECT RAISE(ABORT, 'store: open, min_order_amount and delivery_fee must be whole numbers, all else text');
        END;
        CREATE TRIGGER store_has_its_types BEFORE UPDATE ON store
        WHEN typeof(NEW.id) <> 'text' OR typeof(NEW.name) <> 'text' OR typeof(NEW.category) <> 'text'
            OR typeof(NEW.region) <> 'text' OR typeof(NEW.address) <> 'text' OR typeof(NEW.neighbourhood) <> 'text'
            OR typeof(NEW.phone) <> 'text' OR typeof(NEW.description) <> 'text' OR typeof(NEW.open) <> 'integer'
            OR typeof(NEW.min_order_amount) <> 'integer' OR typeof(NEW.delivery_fee) <> 'integer'
        BEGIN
            SELECT RAISE(ABORT, 'store: open, min_order_amount and delivery_fee must be whole numbers, all else text');
        END;
        CREATE TRIGGER store_menu_has_its_types_when_made BEFORE INSERT ON store_menu
        WHEN typeof(NEW.store_id) <> 'text' OR typeof(NEW.position) <> 'integer' OR typeof(NEW.name) <> 'text'
            OR typeof(NEW.price) <> 'integer'
        BEGIN
            SELECT RAISE(ABORT, 'store_menu: position and price must be whole numbers, all else text');
        END;
        CREATE TRIGGER store_menu_has_its_types BEFORE UPDATE ON store_menu
        WHEN typeof(NEW.store_id) <> 'text' OR typeof(NEW.position) <> 'integer' OR typeof(NEW.name) <> 'text'
            OR typeof(NEW.price) <> 'integer'
        BEGIN
            SELECT RAISE(ABORT, 'store_menu: position and price must be whole numbers, all else text');
        END;",
        postgres: "SELECT 1;",
    },
];

const COLUMNS: [Column; 11] = [
    Column::Text("id"),
    Column::Text("name"),
    Column::Text("category"),
    Column::Text("region"),
    Column::Text("address"),
    Column::Text("neighbourhood"),
    Column::Text("phone"),
    Column::Text("description"),
    Column::Int("open"),
    Column::Int("min_order_amount"),
    Column::Int("delivery_fee"),
];
const MENU_COLUMNS: [Column; 4] =
    [Column::Text("store_id"), Column::Int("position"), Column::Text("name"), Column::Int("price")];

/// Lets one batch of an import run at a time on PostgreSQL, as all writes do on SQLite.
///
/// A batch locks existing stores and then inserts the others. Two batches at once could
/// therefore hold what the other waits for, in whatever order they proceed; one batch and single writes cannot,
/// since a single write holds nothing while it waits. A batch whose wait reaches the lock timeout
/// is retried. (`count`, because the function itself returns
/// a type that the driver does not know. The number is used for nothing else.)
pub(super) const LOCK_IMPORTS: &str = "SELECT count(pg_advisory_xact_lock(5210371))";

/// The statements, their text written once.
#[derive(Clone, Debug)]
pub(super) struct Sql {
    pub(super) lock: Option<Arc<str>>,
    pub(super) read: Arc<str>,
    pub(super) page: Arc<str>,
    pub(super) create: Arc<str>,
    pub(super) save: Arc<str>,
    pub(super) clear_menus: Arc<str>,
    pub(super) insert_menus: Arc<str>,
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        let ids = strings(kind, "$1");
        let names: Vec<_> = COLUMNS.iter().map(name).collect();
        let (columns, from) = (names.join(", "), rows(kind, "$1", &COLUMNS));
        let updates: Vec<_> = names[1..].iter().map(|n| format!("{n} = excluded.{n}")).collect();
        // `WHERE true` tells SQLite that ON CONFLICT is not a join's ON.
        let insert = format!(
            "INSERT INTO store ({columns}) SELECT {columns} FROM {from} WHERE true \
             ON CONFLICT (id) DO"
        );
        let menu_columns: Vec<_> = MENU_COLUMNS.iter().map(name).collect();
        let (menu_columns, menu_rows) = (menu_columns.join(", "), rows(kind, "$1", &MENU_COLUMNS));
        Self {
            lock: (kind == Kind::Postgres).then(|| {
                format!("SELECT id FROM store WHERE id IN {ids} ORDER BY id FOR UPDATE").into()
            }),
            read: match kind {
                // With a limit, it reads the menus once; without, once for each use of their column.
                Kind::Sqlite => select(kind, &format!("WHERE store.id IN {ids} LIMIT -1")),
                Kind::Postgres => select(kind, &format!("WHERE store.id IN {ids}")),
            }
            .into(),
            page: select(kind, "WHERE store.id > $1 ORDER BY store.id LIMIT $2 OFFSET $3").into(),
            create: format!("{insert} NOTHING").into(),
            save: format!("{insert} UPDATE SET {}", updates.join(", ")).into(),
            clear_menus: match kind {
                Kind::Sqlite => format!("DELETE FROM store_menu WHERE store_id IN {ids}"),
                // The start of the key: PostgreSQL expects a two-hundredth of the table for each, and would rather read all
                // of it than join with ten of them.
                Kind::Postgres => {
                    format!("DELETE FROM store_menu WHERE store_id = ANY (ARRAY{ids})")
                }
            }
            .into(),
            insert_menus: format!(
                "INSERT INTO store_menu ({menu_columns}) SELECT {menu_columns} FROM {menu_rows}"
            )
            .into(),
        }
    }
}

/// Selects stores as [`lines`]: the ID whatever it is, whether it is text, the other columns, and the menus as JSON. So an
/// unreadable row affects no other.
fn select(kind: Kind, which: &str) -> String {
    let rest = COLUMNS[1..].iter().map(name).collect::<Vec<_>>().join(", ");
    let (is_text, menus) = match kind {
        // JSON cannot contain bytes. Whether text in it is UTF-8 shows when it is read.
        Kind::Sqlite => (
            "typeof(store.id) = 'text'",
            "json_group_array(json_object('name', CASE typeof(m.name) WHEN 'text' THEN m.name END, \
             'price', CASE typeof(m.price) WHEN 'integer' THEN m.price END) ORDER BY m.position)",
        ),
        Kind::Postgres => (
            "1",
            "coalesce(json_agg(json_build_object('name', m.name, 'price', m.price) \
             ORDER BY m.position), '[]')::text",
        ),
    };
    let rows = format!(
        "SELECT CAST(store.id AS TEXT) AS id, {is_text} AS is_text, {rest}, \
         (SELECT {menus} FROM store_menu m WHERE m.store_id = store.id) AS menus FROM store {which}"
    );
    let mut columns = vec![Column::Text("id"), Column::Int("is_text")];
    columns.extend(&COLUMNS[1..]);
    columns.push(Column::Json("menus"));
    lines(kind, &columns, &rows)
}

fn name(column: &Column) -> &'static str {
    match *column {
        Column::Text(name) | Column::Int(name) | Column::Json(name) => name,
    }
}

/// The parameters of the writing statements: the rows of the stores, and those of their menus.
pub(super) fn parameters(stores: &[Store]) -> (String, String) {
    let root = |store: &Store| {
        json!({
            "id": store.id,
            "name": store.name,
            "category": store.category,
            "region": store.region,
            "address": store.address,
            "neighbourhood": store.neighbourhood,
            "phone": store.phone,
            "description": store.description,
            "open": i64::from(store.open),
            "min_order_amount": store.min_order_amount,
            "delivery_fee": store.delivery_fee,
        })
    };
    let menus = stores.iter().flat_map(|store| {
        store.menus.iter().enumerate().map(|(position, menu)| {
            json!({
                "store_id": store.id,
                "position": position,
                "name": menu.name,
                "price": menu.price,
            })
        })
    });
    let menus = json!(menus.collect::<Vec<_>>()).to_string();
    (json!(stores.iter().map(root).collect::<Vec<_>>()).to_string(), menus)
}
