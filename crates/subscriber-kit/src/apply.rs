//! What an author writes: what to do with current states.

use std::future::Future;

use nudge_protocol::{EntityId, Timestamp, Version};
use nudge_runtime::{BoxError, Tx};
use serde::de::DeserializeOwned;

/// What the owner says of one entity now.
#[derive(Clone, Debug)]
pub struct EntityState<S> {
    /// Which entity.
    pub id: EntityId,
    /// The version of this state, or of the tombstone.
    pub version: Version,
    /// When the owner committed it.
    pub changed_at: Timestamp,
    /// The state; `None` when the entity is deleted.
    pub state: Option<S>,
}

/// What a service does with current states: the one thing that it must write.
///
/// ```
/// use nudge_runtime::{BoxError, Tx, database::Kind, set_sql::{Column, rows}};
/// use nudge_subscriber_kit::{Apply, EntityState};
///
/// #[derive(serde::Deserialize)]
/// struct Store { name: String }
///
/// struct Names;
///
/// impl Apply for Names {
///     type State = Store;
///     const FIELDS: &'static [&'static str] = &["name"];
///
///     async fn apply(&self, tx: &mut Tx, entities: &[EntityState<Store>]) -> Result<(), BoxError> {
///         let batch: Vec<_> = entities
///             .iter()
///             .map(|e| serde_json::json!({"id": e.id, "name": e.state.as_ref().map(|s| &s.name)}))
///             .collect();
///         // One statement for the whole batch; deleted entities arrive with no name.
///         let from = rows(Kind::of(tx), "$1", &[Column::Text("id"), Column::Text("name")]);
///         let upsert = format!(
///             "INSERT INTO names (id, name) SELECT r.id, r.name FROM {from} WHERE true
///              ON CONFLICT (id) DO UPDATE SET name = excluded.name"
///         );
///         sqlx::query(sqlx::AssertSqlSafe(upsert))
///             .bind(serde_json::json!(batch).to_string())
///             .execute(&mut **tx)
///             .await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Apply: Send + Sync + 'static {
    /// The state as this service reads it. Fields that it does not name are ignored.
    type State: DeserializeOwned + Send + Sync + 'static;

    /// Top-level fields of the state to ask the owner for; none means all. Fewer fields, smaller
    /// callbacks.
    const FIELDS: &'static [&'static str] = &[];

    /// Brings the service's tables to these states.
    ///
    /// Called with winners only: each is newer than what was applied before. They are sorted by id,
    /// so that two batches cannot deadlock over them. `tx` also holds the kit's own writes and is
    /// committed by the kit. No I/O outside `tx`: the work may be rolled back and done again.
    ///
    /// # Errors
    /// An error that a retry can mend (see [`is_retryable`](nudge_runtime::database::is_retryable)) makes the batch run again. Any other
    /// error, and a panic, splits the batch until the entity that causes it is alone; that one
    /// becomes a dead letter and the rest is applied.
    fn apply(
        &self,
        tx: &mut Tx,
        entities: &[EntityState<Self::State>],
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}
