//! The guarded write: the kit's guard and the service's own SQL in one transaction.
//!
//! The guard is a table, not memory, because another replica may be applying the same entity right now, and only the
//! database sees both. *Newer wins*: states that are not newer than what is applied never reach the service's `apply`.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use futures_util::FutureExt;
use nudge_protocol::{EntityId, EntityName, Version};
use nudge_runtime::{
    BoxError, Database, Tx, clock,
    database::{Blame, WorkError, blame},
    mutated,
    problem::chain,
    set_sql::{Column, by_key, rows},
};
use sqlx::AssertSqlSafe;

use crate::{
    apply::{Apply, EntityState},
    read_model::{recent::Recent, revision::is_outdated},
};

/// The result for one entity of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It was newer and is committed.
    Newer,
    /// The read model had this version already, in the form of another revision or altered by somebody, and now has it
    /// as the handler writes it.
    Again,
    /// The read model had this version or a later one already.
    NotNewer,
    /// The database could not apply it now; nothing is wrong with the entity.
    Later(String),
    /// It failed alone, and the error does not say whether it is to blame.
    Unclear(String),
    /// It failed alone while others can be applied: it is retried apart from them.
    Failed(String),
    /// This entity's data cannot be applied.
    Refused(String),
}

/// Number of entities that fail alone, without any success, after which the database counts as being at fault.
const MAX_FRUITLESS: usize = 2;

/// Runs batches through the guard and the service's `apply`.
pub(crate) struct Applier<A> {
    pub(super) db: Database,
    pub(super) entity: EntityName,
    pub(super) handler: A,
    /// The handler's revision.
    pub(super) revision: i64,
    recent: Arc<Recent>,
    guard: Arc<str>,
    again: Arc<str>,
    close: Arc<str>,
}

impl<A: Apply> Applier<A> {
    pub(crate) fn new(db: Database, entity: EntityName, handler: A, recent: Arc<Recent>) -> Self {
        let columns = [Column::Text("id"), Column::Int("version"), Column::Int("deleted")];
        let set = rows(db.kind(), "$2", &columns);
        let guard = format!(
            "INSERT INTO nudge_applied AS applied \
             (entity, id, version, deleted, applied_at, revision, revised_version) \
             SELECT $1, r.id, r.version, r.deleted, $3, CAST($4 AS BIGINT), r.version \
             FROM {set} WHERE true ORDER BY r.id \
             ON CONFLICT (entity, id) DO UPDATE SET version = excluded.version, \
             deleted = excluded.deleted, applied_at = excluded.applied_at, \
             revision = excluded.revision, revised_version = excluded.revised_version \
             WHERE excluded.version > applied.version RETURNING id"
        );
        let again = format!(
            "UPDATE nudge_applied SET revision = $3, revised_version = version \
             WHERE entity = $1 AND id IN \
             (SELECT r.id FROM {set} CROSS JOIN nudge_applied AS known \
              WHERE known.entity = $1 AND known.id = r.id AND known.version = r.version {} \
              AND {}) RETURNING id",
            by_key(db.kind(), "$2", "known.id"),
            is_outdated("known", "$3")
        );
        // CROSS JOIN makes the JSON the outer loop; otherwise SQLite would parse it for each dead letter.
        let close = format!(
            "DELETE FROM nudge_dead_letter WHERE entity = $1 AND id IN \
             (SELECT r.id FROM {set} CROSS JOIN nudge_dead_letter AS dead \
              WHERE dead.entity = $1 AND dead.id = r.id \
              AND (r.version >= dead.floor OR dead.floor > $3))"
        );
        let (guard, again, close) = (guard.into(), again.into(), close.into());
        // Only once, since every batch needs it and a handler may have to compute it.
        let revision = handler.revision();
        Self { db, entity, handler, revision, recent, guard, again, close }
    }

    /// Applies a batch and returns the result for each entity. Reorders `entities`.
    pub(crate) async fn apply(
        &self,
        entities: &mut [EntityState<A::State>],
    ) -> Vec<(EntityId, Applied)> {
        let mut results = Vec::with_capacity(entities.len());
        let (mut works, mut fruitless) = (false, 0);
        let mut parts = vec![entities];
        let mut afresh = false;
        while let Some(part) = parts.pop() {
            match self.db.run(self.one_transaction(part)).await {
                Ok(winners) => {
                    works |= !winners.is_empty();
                    self.recent.note(part.iter().map(|one| (one.id.clone(), one.version)));
                    let applied = |id| winners.get(id).cloned().unwrap_or(Applied::NotNewer);
                    results.extend(part.iter().map(|one| (one.id.clone(), applied(&one.id))));
                }
                // The connection may be at fault, and the next one is new.
                Err(failure) if failure.refuses_session() && !afresh => {
                    afresh = true;
                    parts.push(part);
                }
                Err(failure) if failure.blame == Blame::Database => {
                    parts.push(part);
                    results.extend(later(&parts, chain(&*failure.error)));
                    return results;
                }
                Err(failure) if part.len() <= mutated!(RefusalNotIsolated: 1 => usize::MAX) => {
                    let (unclear, error) =
                        (failure.blame == Blame::Unclear, chain(&*failure.error));
                    let ended = match unclear {
                        true => Applied::Unclear(error.clone()),
                        false => Applied::Refused(error.clone()),
                    };
                    results.extend(part.iter().map(|one| (one.id.clone(), ended.clone())));
                    fruitless += usize::from(unclear);
                    if !works && fruitless >= MAX_FRUITLESS {
                        results.extend(later(&parts, error));
                        return results;
                    }
                }
                Err(_) => {
                    let (left, right) = part.split_at_mut(part.len() / 2);
                    parts.extend([right, left]);
                }
            }
        }
        results
    }

    /// The guard, the service's own writes, and the closing of dead letters, in one transaction. Returns which entities
    /// the handler got, and why.
    async fn one_transaction(
        &self,
        part: &mut [EntityState<A::State>],
    ) -> Result<HashMap<EntityId, Applied>, Failure> {
        let mut tx = self.db.begin().await?;
        let set: Vec<_> = part
            .iter()
            .map(|e| serde_json::json!({"id": e.id, "version": e.version, "deleted": i64::from(e.state.is_none())}))
            .collect();
        let set = serde_json::Value::from(set).to_string();
        let newer = sqlx::query_as(AssertSqlSafe(self.guard.clone()))
            .bind(self.entity.as_str())
            .bind(set.as_str())
            .bind(clock::now().unix_micros())
            .bind(self.revision);
        let newer = ids(newer.fetch_all(&mut *tx).await?);
        let again = match newer.len() < part.len() {
            true => {
                let again = sqlx::query_as(AssertSqlSafe(self.again.clone()))
                    .bind(self.entity.as_str())
                    .bind(set.as_str())
                    .bind(self.revision);
                ids(again.fetch_all(&mut *tx).await?)
            }
            false => HashSet::new(),
        };
        let applied = |one: &EntityState<A::State>| match one.id.as_str() {
            id if newer.contains(id) => Some((one.id.clone(), Applied::Newer)),
            id if again.contains(id) => Some((one.id.clone(), Applied::Again)),
            _ => None,
        };
        let winners: HashMap<_, _> = part.iter().filter_map(applied).collect();
        // By ID, so that two batches do not lock the service's rows in different orders.
        part.sort_by(|a, b| {
            let order = |e: &EntityState<A::State>| !winners.contains_key(&e.id);
            order(a).cmp(&order(b)).then_with(|| a.id.cmp(&b.id))
        });
        self.hand_over(&mut tx, &part[..winners.len()]).await?;
        sqlx::query(AssertSqlSafe(self.close.clone()))
            .bind(self.entity.as_str())
            .bind(set.as_str())
            // A floor that is too high to believe must not keep a dead letter open.
            .bind(Version::highest_believed(clock::now()).to_i64())
            .execute(&mut *tx)
            .await?;
        // A commit whose answer was lost may have happened. A retry is safe, because of the guard.
        tx.commit().await?;
        Ok(winners)
    }

    /// Passes states to the handler, if there are any. Its panic is an error.
    pub(super) async fn hand_over(
        &self,
        tx: &mut Tx,
        states: &[EntityState<A::State>],
    ) -> Result<(), Failure> {
        if states.is_empty() {
            return Ok(());
        }
        match AssertUnwindSafe(self.handler.apply(tx, states)).catch_unwind().await {
            Ok(applied) => applied.map_err(Failure::from),
            Err(panic) => Err(panic_message("apply", &*panic).into()),
        }
    }
}

fn ids(rows: Vec<(String,)>) -> HashSet<String> {
    rows.into_iter().map(|(id,)| id).collect()
}

/// The database is at fault, so the rest would fail as well.
fn later<S>(
    left: &[&mut [EntityState<S>]],
    error: String,
) -> impl Iterator<Item = (EntityId, Applied)> {
    let left = left.iter().flat_map(|part| part.iter());
    left.map(move |entity| (entity.id.clone(), Applied::Later(error.clone())))
}

pub(super) struct Failure {
    pub(super) blame: Blame,
    pub(super) error: BoxError,
}

impl WorkError for Failure {
    fn database_error(&self) -> Option<&sqlx::Error> {
        self.error.database_error()
    }
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self { blame: blame(&*error), error }
    }
}

/// The message of a panic in the service's own code.
pub(crate) fn panic_message(work: &str, panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("{work} panicked: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use nudge_runtime::database::{Durability, Kind};
    use nudge_testbed::TestDatabase;

    use super::*;
    use crate::apply::NO_REVISION;

    /// Keeps nothing, in this revision.
    struct Nothing(i64);

    impl Apply for Nothing {
        type State = serde_json::Value;

        fn revision(&self) -> i64 {
            self.0
        }

        async fn apply(&self, _: &mut Tx, _: &[EntityState<Self::State>]) -> Result<(), BoxError> {
            Ok(())
        }
    }

    /// With the wrong join order, thousands of dead letters would slow down every batch.
    #[tokio::test]
    async fn closing_looks_dead_letters_up_by_key_instead_of_scanning_them() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
        let store = EntityName::new("store").unwrap();
        let recent = Arc::new(Recent::new(db.clone(), store.clone()));
        let applier = Applier::new(db.clone(), store, Nothing(NO_REVISION), recent);
        let explain = format!("EXPLAIN QUERY PLAN {}", applier.close);
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(explain))
            .bind("store")
            .bind("[]")
            .bind(0)
            .fetch_all(db.reader())
            .await
            .unwrap();
        let plan: Vec<_> = plan.into_iter().map(|(.., step)| step).collect();
        let by_key =
            |step: &String| step.contains("SEARCH dead") && step.contains("entity=? AND id=?");
        assert!(plan.iter().any(by_key), "{plan:?}");
    }

    /// Rows of a release without revisions are right, unless the service has one by now.
    #[tokio::test]
    async fn the_same_version_is_applied_again_only_if_it_is_marked_or_of_another_revision() {
        for kind in [Kind::Sqlite, Kind::Postgres] {
            let database = TestDatabase::of(kind).await;
            let db = database.open().await;
            db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
            let store = EntityName::new("store").unwrap();
            let (id, changed_at) = (EntityId::new("42").unwrap(), clock::now());
            let (version, state) = (Version::new(5).unwrap(), Some(serde_json::json!(1)));
            for (revision, stored, expected) in [
                (NO_REVISION, None, Applied::Newer),
                (NO_REVISION, None, Applied::NotNewer),
                (NO_REVISION, Some(0), Applied::NotNewer),
                (NO_REVISION, Some(-1), Applied::Again),
                (NO_REVISION, None, Applied::NotNewer),
                (3, None, Applied::Again),
                (3, None, Applied::NotNewer),
                (3, Some(4), Applied::Again),
                (3, Some(-1), Applied::Again),
            ] {
                if let Some(stored) = stored {
                    let sql = "UPDATE nudge_applied SET revised_version = $1";
                    db.write(sqlx::query(sql).bind(stored)).await.unwrap();
                }
                let recent = Arc::new(Recent::new(db.clone(), store.clone()));
                let applier = Applier::new(db.clone(), store.clone(), Nothing(revision), recent);
                let state = state.clone();
                let mut entities = [EntityState { id: id.clone(), version, changed_at, state }];
                let applied = applier.apply(&mut entities).await;
                assert_eq!(applied, [(id.clone(), expected)], "{kind:?} {revision} {stored:?}");
            }
            db.close().await;
        }
    }

    /// It began while the server was read-only, for instance. Only the next one can write.
    #[tokio::test]
    async fn what_a_session_refuses_is_applied_at_once_in_the_next() {
        for kind in [Kind::Sqlite, Kind::Postgres] {
            let database = TestDatabase::of(kind).await;
            let db = database.open().await;
            db.migrate("subscriber-kit", crate::read_model::tables::MIGRATIONS).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            let read_only = db.pick(
                "PRAGMA query_only = ON",
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            );
            sqlx::query(read_only).execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
            let store = EntityName::new("store").unwrap();
            let recent = Arc::new(Recent::new(db.clone(), store.clone()));
            let applier = Applier::new(db.clone(), store, Nothing(NO_REVISION), recent);
            let (id, changed_at) = (EntityId::new("42").unwrap(), clock::now());
            let (version, state) = (Version::new(1).unwrap(), Some(serde_json::json!(1)));
            let mut entities = [EntityState { id: id.clone(), version, changed_at, state }];
            assert_eq!(applier.apply(&mut entities).await, [(id, Applied::Newer)], "{kind:?}");
            db.close().await;
        }
    }
}
