//! What the author of a service writes: what to do with current states.

pub(crate) mod shape;

use std::{collections::BTreeMap, future::Future, ops::RangeInclusive};

use nudge_protocol::{EntityId, Timestamp, Version};
use nudge_runtime::{BoxError, Database, Tx};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// The current state of one entity, as its owner answered.
#[derive(Clone, Debug)]
pub struct EntityState<S> {
    /// The entity's ID.
    pub id: EntityId,
    /// The version of this state, or of the tombstone.
    pub version: Version,
    /// When the owner committed it.
    pub changed_at: Timestamp,
    /// The state; `None` if the entity is deleted.
    pub state: Option<S>,
}

/// The [`revision`](Apply::revision) of a read model that does not define one.
pub(crate) const NO_REVISION: i64 = 0;
/// Rows that [`Apply::read`] need not exceed.
pub const MAX_READ_ROWS: usize = 10_000;

/// What a service does with current states: the one thing that its author must write. For a plain copy of some
/// fields, use [`Mirror`](crate::Mirror) instead.
///
/// ```
/// use nudge_runtime::{BoxError, Tx, set_sql::Set};
/// use nudge_subscriber_kit::{Apply, EntityState};
///
/// #[derive(serde::Deserialize)]
/// struct Store { name: String }
///
/// #[derive(serde::Serialize)]
/// struct Row<'a> { id: &'a str, name: Option<&'a str> }
///
/// struct Names;
///
/// impl Apply for Names {
///     type State = Store;
///
///     async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Store>]) -> Result<(), BoxError> {
///         // A deleted entity arrives without a state, so its name becomes NULL.
///         let rows: Vec<_> = entities
///             .iter()
///             .map(|e| Row { id: e.id.as_str(), name: e.state.as_ref().map(|s| s.name.as_str()) })
///             .collect();
///         Set::new(tx, "names", &rows)?.upsert(tx).await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Apply: Send + Sync + 'static {
    /// The state as this service reads it. The owner is asked only for the fields of this type, so fewer fields
    /// make smaller answers. For a type that is not a struct with named fields, it is asked for the whole state.
    type State: DeserializeOwned + Send + Sync + 'static;

    /// Creates the tables that [`apply`](Self::apply) writes to, unless something else does. Every replica calls
    /// this whenever it starts, before anything is applied.
    ///
    /// # Errors
    /// An error makes the start fail.
    fn prepare(&self, db: &Database) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = db;
        async { Ok(()) }
    }

    /// The form of the read model that this release keeps. When the number differs from that of the previous
    /// release, every existing entity is read and applied again, a few at a time and with a lower priority than
    /// fresh changes, while the service keeps running. Change it when you add a column, for instance;
    /// [`Mirror`](crate::Mirror) derives it from its columns. When replicas of two releases run side by side,
    /// the one that started last decides.
    ///
    /// 0, the default, means that everything may stay as it was applied.
    fn revision(&self) -> i64 {
        NO_REVISION
    }

    /// Writes these states to the service's tables.
    ///
    /// The kit passes only states that are newer than what was applied before, or the same if another
    /// [`revision`](Self::revision) applied it, if what is [`read`](Self::read) of it is wrong, or if an operator wants
    /// everything applied again. They are sorted by ID, so that two batches cannot deadlock. `tx` also contains the
    /// kit's own writes, and the kit commits it. Do no I/O outside `tx`: the work may be rolled back and repeated.
    ///
    /// # Errors
    /// [`blame`](nudge_runtime::database::blame) decides whose fault an error is. If it is the database's, the
    /// batch runs again. Any other error, or a panic, splits the batch until the entity that causes it is alone;
    /// the rest is applied. That entity becomes a dead letter if the error is about its data (a constraint, a
    /// value that does not fit), does not come from the database, or is a panic. If the cause is unclear (a
    /// missing permission or table, a lock that is not granted, a statement that takes too long), the entity is
    /// retried: apart from the others if those can be applied, together with them if none can.
    fn apply(
        &self,
        tx: &mut Tx,
        entities: &[EntityState<Self::State>],
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// What the read model holds of the entities whose IDs lie in `ids`, both ends included, in bytewise order: for each
    /// ID that occurs in the tables, anything that shows whether what [`apply`](Self::apply) wrote is still there.
    ///
    /// With this, somebody's edit of the tables is found and repaired: each state is read from its owner about once a
    /// day, or more often in a small read model, and applied in a transaction that is rolled back. What is read before
    /// and after must be the same. So leave out what `apply` does not write, or writes differently each time, such as
    /// the time. [`Mirror`](crate::Mirror) defines this itself.
    ///
    /// A range usually contains 256 entities, but somebody may have added a million rows: what lies beyond the first
    /// [`MAX_READ_ROWS`] may be left out. On PostgreSQL, the column of the IDs needs `COLLATE "C"`; otherwise the range
    /// is another one than the kit means, and the kit says so.
    ///
    /// `None`, the default, means that nobody edits the tables.
    ///
    /// ```
    /// # use std::{collections::BTreeMap, ops::RangeInclusive};
    /// # use nudge_runtime::{BoxError, Tx};
    /// # use serde_json::{Value, json};
    /// async fn read(
    ///     tx: &mut Tx,
    ///     ids: &RangeInclusive<&str>,
    /// ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
    ///     let sql = "SELECT id, name FROM names WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 10000";
    ///     let query = sqlx::query_as(sql).bind(ids.start().to_string()).bind(ids.end().to_string());
    ///     let rows: Vec<(String, Option<String>)> = query.fetch_all(&mut **tx).await?;
    ///     Ok(Some(rows.into_iter().map(|(id, name)| (id, json!(name))).collect()))
    /// }
    /// ```
    ///
    /// # Errors
    /// What cannot be read counts as wrong, unless nothing can be read.
    fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> impl Future<Output = Result<Option<BTreeMap<String, Json>>, BoxError>> + Send {
        let _ = (tx, ids);
        async { Ok(None) }
    }
}
