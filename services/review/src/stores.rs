//! What this service knows of stores: a read model that the subscriber kit keeps in step with
//! store-info. Reviews are accepted and refused by it, without a call to anyone.

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{
    BoxError, Database, Tx,
    database::{Kind, Migration},
    row,
    set_sql::{Column, rows},
};
use nudge_subscriber_kit::{Apply, EntityState};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, query, query_as};

use crate::domain::KnownStore;

/// The component's name in `Database::migrate`. It is not the reviews' component: this table may be
/// emptied and refills by itself, that one may not.
pub const COMPONENT: &str = "review-stores";

/// The table of known stores, deleted ones included: they are told apart from unknown ones.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "known stores",
    sqlite: "CREATE TABLE known_store (
            id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, open BIGINT NOT NULL,
            version BIGINT NOT NULL, deleted BIGINT NOT NULL
        )",
    postgres: "CREATE TABLE known_store (
            id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, name TEXT NOT NULL, open BIGINT NOT NULL,
            version BIGINT NOT NULL, deleted BIGINT NOT NULL
        )",
}];

row! {
    struct Found {
        name: String,
        open: i64,
        version: i64,
        deleted: i64,
    }
}

/// Reads a store, in the transaction that decides by it.
pub async fn find(tx: &mut Tx, id: &EntityId) -> Result<Option<KnownStore>, sqlx::Error> {
    let sql = "SELECT name, open, version, deleted FROM known_store WHERE id = $1";
    let found: Option<Found> = query_as(sql).bind(id.as_str()).fetch_optional(&mut **tx).await?;
    let known = |Found { name, open, version, deleted }| {
        let version = Version::try_from(version).map_err(|e| sqlx::Error::Decode(e.into()))?;
        Ok(KnownStore { name, open: open != 0, version, deleted: deleted != 0 })
    };
    found.map(known).transpose()
}

/// What is wanted of a store's state.
#[derive(Clone, Debug, Deserialize)]
pub struct StoreState {
    /// Its name.
    pub name: String,
    /// Whether it takes orders.
    pub open: bool,
}

/// Writes stores into the read model, a batch in one statement.
#[derive(Clone, Copy, Debug)]
pub struct KeepStores {
    kind: Kind,
}

impl KeepStores {
    /// For stores kept in `db`.
    pub fn new(db: &Database) -> Self {
        Self { kind: db.kind() }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a EntityId,
    name: &'a str,
    open: i64,
    version: i64,
    deleted: i64,
}

impl<'a> From<&'a EntityState<StoreState>> for Row<'a> {
    fn from(store: &'a EntityState<StoreState>) -> Self {
        let (name, open) = store.state.as_ref().map_or(("", false), |s| (&s.name, s.open));
        Row {
            id: &store.id,
            name,
            open: i64::from(open),
            version: store.version.to_i64(),
            deleted: i64::from(store.state.is_none()),
        }
    }
}

impl Apply for KeepStores {
    type State = StoreState;
    const FIELDS: &'static [&'static str] = &["id", "name", "open"];

    async fn apply(&self, tx: &mut Tx, stores: &[EntityState<StoreState>]) -> Result<(), BoxError> {
        let columns = [
            Column::Text("id"),
            Column::Text("name"),
            Column::Int("open"),
            Column::Int("version"),
            Column::Int("deleted"),
        ];
        // "WHERE true" keeps SQLite from reading ON CONFLICT as the ON of a join.
        let sql = format!(
            "INSERT INTO known_store (id, name, open, version, deleted)
             SELECT id, name, open, version, deleted FROM {} WHERE true
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, open = excluded.open,
                 version = excluded.version, deleted = excluded.deleted",
            rows(self.kind, "$1", &columns)
        );
        let stores = serde_json::to_string(&stores.iter().map(Row::from).collect::<Vec<_>>())?;
        query(AssertSqlSafe(sql)).bind(stores).execute(&mut **tx).await?;
        Ok(())
    }
}
