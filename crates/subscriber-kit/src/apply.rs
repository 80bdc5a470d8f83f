//! What an author writes: what to do with current states.

pub(crate) mod shape;

use std::future::Future;

use nudge_protocol::{EntityId, Timestamp, Version};
use nudge_runtime::{BoxError, Database, Tx};
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

/// The [`revision`](Apply::revision) of a read model that says nothing of it.
pub(crate) const NO_REVISION: i64 = 0;

/// What a service does with current states: the one thing that it must write. For a plain copy of some
/// fields, [`Mirror`](crate::Mirror) writes it.
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
///         // A deleted entity arrives without a state, and so gets no name here.
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
    /// The state as this service reads it. The owner is asked for the fields that it names, and for no others:
    /// the fewer, the smaller the callbacks. A type that is not a struct with named fields is asked for whole.
    type State: DeserializeOwned + Send + Sync + 'static;

    /// Makes the tables that [`apply`](Self::apply) writes to, if nobody else does. Called at each start, by
    /// each replica, before anything is applied.
    ///
    /// # Errors
    /// An error ends the start.
    fn prepare(&self, db: &Database) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = db;
        async { Ok(()) }
    }

    /// Which form of the read model this release keeps: any other number than that of the release before makes
    /// every entity that exists be read and applied again, a few at a time and after all that is fresh, while the
    /// service goes on. For columns that are added, for instance; a [`Mirror`](crate::Mirror) has a number for
    /// each set of columns. Of replicas of two releases side by side, the one that was started last decides.
    ///
    /// 0, which is the default, means that whatever is applied may stay as it is.
    fn revision(&self) -> i64 {
        NO_REVISION
    }

    /// Brings the service's tables to these states.
    ///
    /// Called with winners only: each is newer than what was applied before, or is the same, and was applied by
    /// another [`revision`](Self::revision). They are sorted by id,
    /// so that two batches cannot deadlock over them. `tx` also holds the kit's own writes and is
    /// committed by the kit. No I/O outside `tx`: the work may be rolled back and done again.
    ///
    /// # Errors
    /// [`blame`](nudge_runtime::database::blame) says whose fault an error is. The database's makes the
    /// batch run again. Any other error, and a panic, splits the batch until the entity that causes it is
    /// alone, and the rest is applied. If the error is about its data (a constraint, a value that does not
    /// fit), a panic, or none of a database, the entity becomes a dead letter. If it is not clear (a right
    /// or a table that is missing, a lock that is not to be had, a statement that takes too long), it is
    /// tried again: apart from the others if these can be applied, together with them if none can.
    fn apply(
        &self,
        tx: &mut Tx,
        entities: &[EntityState<Self::State>],
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}
