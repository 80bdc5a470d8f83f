//! A read model that is a plain copy of some fields, without SQL.

mod table;

use std::{
    collections::BTreeMap, future::Future, marker::PhantomData, ops::RangeInclusive, pin::Pin,
    sync::Arc,
};

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{BoxError, Database, Tx, database::Kind, set_sql::Set};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};
use sqlx::AssertSqlSafe;

use crate::{
    apply::{Apply, EntityState, shape},
    mirror::table::{Column, Table},
};

pub use table::TableError;

type Computed<S> = Arc<dyn Fn(&S) -> Result<Json, serde_json::Error> + Send + Sync>;
type HookFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;
type Hook<S> =
    Arc<dyn for<'a> Fn(&'a mut Tx, &'a [EntityState<S>]) -> HookFuture<'a> + Send + Sync>;

/// Keeps a table that mirrors the fields of a state: an [`Apply`] without SQL.
///
/// ```
/// use nudge_subscriber_kit::Mirror;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Store {
///     name: String,
///     region: String,
///     open: bool,
/// }
///
/// let stores = Mirror::<Store>::table("store");
/// ```
///
/// The table has one row for each existing entity, with `id` and a column for each field of the state.
///
/// | field | column | value until an older row is filled |
/// |---|---|---|
/// | string, enum without data | `TEXT` (bytewise order) | `''` |
/// | integer | `BIGINT` | `0` |
/// | floating-point number | `DOUBLE PRECISION` | `0` |
/// | `bool` | `BIGINT`, 1 or 0; a `bool` in [`row!`](nudge_runtime::row) reads it | `0` |
/// | anything else | `TEXT`, its JSON | `null` as JSON |
/// | `Option` of one of these | the same, or NULL | NULL |
///
/// The kit creates the table when the service starts, on both databases. When the state gains a field, the table
/// gains a column, which is filled while the service runs: every entity is read again, a few at a time. The column
/// of a removed field stays. If an existing column has another type, the start fails with an error that names it.
/// The row of a deleted entity is deleted, unless [`mark_deleted`](Self::mark_deleted) is set.
pub struct Mirror<S> {
    table: Table,
    computed: Vec<(&'static str, Computed<S>)>,
    version: Option<&'static str>,
    deleted: Option<&'static str>,
    hook: Option<Hook<S>>,
    state: PhantomData<fn() -> S>,
}

impl<S> std::fmt::Debug for Mirror<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<S: Serialize + DeserializeOwned + Send + Sync + 'static> Mirror<S> {
    /// Mirrors the fields of `S` in the table `name`.
    ///
    /// # Panics
    /// If `S` is not a struct with named fields, or uses `#[serde(flatten)]`: then the columns are unknown.
    pub fn table(name: &'static str) -> Self {
        let fields = shape::fields::<S>();
        let fields = fields.expect("the state of a mirror is a struct with named fields");
        // Every table has a column for the entity's ID anyway.
        let fields = fields.into_iter().filter(|field| field.name != Set::KEY);
        let columns = fields.map(|field| Column::new(field.name, field.value, field.optional));
        Self {
            table: Table::new(name, columns.collect()),
            computed: Vec::new(),
            version: None,
            deleted: None,
            hook: None,
            state: PhantomData,
        }
    }

    /// Adds a column that is computed from the state, such as a sort key.
    pub fn column<V: Serialize + DeserializeOwned>(
        mut self,
        name: &'static str,
        compute: impl Fn(&S) -> V + Send + Sync + 'static,
    ) -> Self {
        let (value, optional) = shape::value::<V>();
        self.table.columns.push(Column::new(name, value, optional));
        self.computed.push((name, Arc::new(move |state| serde_json::to_value(compute(state)))));
        self
    }

    /// Stores the version of each row, in a column of this name.
    pub fn version(mut self, column: &'static str) -> Self {
        self.table.columns.push(Column::new(column, shape::Value::Int, false));
        self.version = Some(column);
        self
    }

    /// Keeps the row of a deleted entity, with empty values and 1 in a column of this name, so that a reader can
    /// tell deleted entities from unknown ones.
    pub fn mark_deleted(mut self, column: &'static str) -> Self {
        self.table.columns.push(Column::new(column, shape::Value::Flag, false));
        self.deleted = Some(column);
        self
    }

    /// Adds an index over these columns, in this order.
    pub fn index(mut self, columns: &'static [&'static str]) -> Self {
        self.table.indexes.push(columns);
        self
    }

    /// Runs SQL of your own after each write to the table, in the same transaction. The rules of
    /// [`Apply::apply`] hold.
    ///
    /// ```
    /// use nudge_subscriber_kit::{Mirror, sqlx};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Store { name: String }
    ///
    /// // What this service keeps of a store itself goes with the store.
    /// let stores = Mirror::<Store>::table("known_store").with(|tx, stores| {
    ///     Box::pin(async move {
    ///         for gone in stores.iter().filter(|store| store.state.is_none()) {
    ///             let sql = sqlx::query("DELETE FROM queued WHERE store_id = $1");
    ///             sql.bind(gone.id.as_str()).execute(&mut **tx).await?;
    ///         }
    ///         Ok(())
    ///     })
    /// });
    /// ```
    ///
    /// The table that it writes is one of [`Service::keeps`](crate::Service::keeps).
    pub fn with<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(&'a mut Tx, &'a [EntityState<S>]) -> HookFuture<'a> + Send + Sync + 'static,
    {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// Reads the table, by ID: for each existing entity, the columns that come from its state. For tests.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn read_all(&self, tx: &mut Tx) -> Result<BTreeMap<String, Json>, sqlx::Error> {
        let sql = self.table.read(Kind::of(tx), self.deleted, self.version);
        let rows: Vec<(String, String)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut **tx).await?;
        let read = |(id, row): (String, String)| {
            Ok((id, serde_json::from_str(&row).map_err(|e| sqlx::Error::Decode(e.into()))?))
        };
        rows.into_iter().map(read).collect()
    }

    /// What [`read_all`](Self::read_all) returns for an entity in this state. For tests.
    ///
    /// # Errors
    /// If `state` is not a valid state.
    pub fn expected(&self, state: &Json) -> Result<Json, serde_json::Error> {
        let state: S = serde_json::from_value(state.clone())?;
        self.columns_of(&state).map(Json::Object)
    }

    /// The columns that come from the state.
    fn columns_of(&self, state: &S) -> Result<Map<String, Json>, serde_json::Error> {
        let mut row = match serde_json::to_value(state)? {
            Json::Object(row) => row,
            _ => return Err(serde::ser::Error::custom("the state is not an object")),
        };
        row.retain(|name, _| name != Set::KEY);
        for (name, compute) in &self.computed {
            row.insert((*name).to_owned(), compute(state)?);
        }
        Ok(row)
    }

    fn row(&self, entity: &EntityState<S>) -> Result<Json, serde_json::Error> {
        let mut row = match &entity.state {
            Some(state) => self.columns_of(state)?,
            None => self.table.empty_row(),
        };
        row.insert(Set::KEY.to_owned(), serde_json::to_value::<&EntityId>(&entity.id)?);
        if let Some(column) = self.version {
            row.insert(column.to_owned(), serde_json::to_value::<Version>(entity.version)?);
        }
        if let Some(column) = self.deleted {
            row.insert(column.to_owned(), Json::Bool(entity.state.is_none()));
        }
        Ok(Json::Object(row))
    }
}

impl<S: Serialize + DeserializeOwned + Send + Sync + 'static> Apply for Mirror<S> {
    type State = S;

    fn revision(&self) -> i64 {
        self.table.fingerprint()
    }

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        Ok(db.run(self.table.prepare(db)).await?)
    }

    async fn apply(&self, tx: &mut Tx, entities: &[EntityState<S>]) -> Result<(), BoxError> {
        let kept = |one: &&EntityState<S>| one.state.is_some() || self.deleted.is_some();
        let (kept, gone): (Vec<_>, Vec<_>) = entities.iter().partition(kept);
        let gone: Vec<_> = gone.iter().map(|one| serde_json::json!({"id": one.id})).collect();
        Set::new(tx, self.table.name, &gone)?.delete(tx).await?;
        let rows: Vec<_> = kept.iter().map(|one| self.row(one)).collect::<Result<_, _>>()?;
        Set::new(tx, self.table.name, &rows)?.upsert(tx).await?;
        match &self.hook {
            Some(hook) => hook(tx, entities).await,
            None => Ok(()),
        }
    }

    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Json>>, BoxError> {
        let sql = self.table.whole(Kind::of(tx));
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let query = query.bind(ids.start().to_string()).bind(ids.end().to_string());
        let rows: Vec<(String, String)> = query.fetch_all(&mut **tx).await?;
        Ok(Some(rows.into_iter().map(|(id, row)| (id, Json::String(row))).collect()))
    }
}
