//! Whether the read model's own tables hold what `apply` would write to them now.
//!
//! The owner's states are applied once more, in a transaction that is rolled back: what [`Apply::read`] shows before and
//! after must be the same. So the handler's own code decides what is right, derived columns and text indexes included.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    panic::AssertUnwindSafe,
    slice,
};

use futures_util::FutureExt;
use nudge_protocol::EntityId;
use nudge_runtime::{
    BoxError, Tx,
    database::{Blame, Kind},
    mutated, row,
    set_sql::strings,
};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::guard::{Applier, Failure, panic_message};
use crate::apply::{Apply, EntityState, MAX_READ_ROWS, NO_REVISION};

/// IDs from one to another, both ends included, in bytewise order.
pub(crate) type Ids<'a> = RangeInclusive<&'a str>;

/// Most entities that are read once more alone when a range does not contain them.
const MAX_PROBES: usize = 8;

/// What differs between the read model's tables and the owner's states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Altered {
    /// How many were compared. The others are in flight, or cannot be applied at the moment.
    pub(crate) compared: u64,
    /// Entities whose contents are not what `apply` writes.
    pub(crate) altered: Vec<EntityId>,
    /// IDs that can be read although they were never applied.
    pub(crate) strays: Vec<EntityId>,
    /// Entities that are to be applied again already.
    pub(crate) marked: Vec<EntityId>,
}

row! {
    struct Row { id: String, version: i64, deleted: bool, revision: i64, revised_version: i64 }
}

impl<A: Apply> Applier<A> {
    /// Compares what can be read of the entities in these ranges with their states. `None` if the handler does not say
    /// how to read. Reorders `states`.
    ///
    /// # Errors
    /// If the database fails, or nothing can be read or applied, or ranges are not read in bytewise order. An entity
    /// whose data alone is to blame counts as altered.
    pub(crate) async fn altered(
        &self,
        ranges: &[Ids<'_>],
        states: &mut [EntityState<A::State>],
    ) -> Result<Option<Altered>, BoxError> {
        let together = match self.db.run(self.rehearse(ranges, states)).await {
            Ok(altered) => return Ok(altered),
            Err(failure) if failure.blame == Blame::Database => return Err(failure.error),
            Err(failure) => failure,
        };
        let (mut all, mut failed) = (Altered::default(), 0);
        for state in &mut *states {
            let id = state.id.clone();
            let range = [id.as_str()..=id.as_str()];
            let alone = self.rehearse(&range, slice::from_mut(state));
            match self.db.run(alone).await {
                Ok(one) => {
                    let one = one.unwrap_or_default();
                    all.compared += one.compared;
                    all.altered.extend(one.altered);
                    all.marked.extend(one.marked);
                }
                Err(failure) if failure.blame == Blame::Database => return Err(failure.error),
                Err(failure) => {
                    failed += 1;
                    // A lock that is not granted, for instance, says nothing about what is stored.
                    if failure.blame == Blame::Data {
                        all.compared += 1;
                        all.altered.push(id);
                    }
                }
            }
        }
        // The handler is at fault, not one of the entities.
        if failed == states.len() { Err(together.error) } else { Ok(Some(all)) }
    }

    /// Applies the states in a transaction, compares what can be read before and after, and rolls it back.
    async fn rehearse(
        &self,
        ranges: &[Ids<'_>],
        states: &mut [EntityState<A::State>],
    ) -> Result<Option<Altered>, Failure> {
        let mut tx = self.db.begin_read_committed().await?;
        let asked: Vec<_> = states.iter().map(|one| one.id.as_str()).collect();
        // From here on, no other replica applies these.
        let applied = self.applied(&mut tx, &asked, true).await?;
        let Some(before) = self.contents(&mut tx, ranges).await? else { return Ok(None) };
        // What is behind, ahead or outdated is the business of others. Every version has one state, so the rest agrees.
        let any = mutated!(ContentsOfAnyVersion: false => true);
        let any = mutated!(ContentsPastTheGuard: any => true);
        let is_current = |one: &EntityState<A::State>| {
            applied.get(one.id.as_str()).is_some_and(|row| {
                let is_revised = match self.revision {
                    NO_REVISION => row.revised_version >= 0,
                    revision => (row.revision, row.revised_version) == (revision, row.version),
                };
                let is_same =
                    row.version == one.version.to_i64() && row.deleted == one.state.is_none();
                any || is_revised && is_same
            })
        };
        states.sort_by(|a, b| is_current(b).cmp(&is_current(a)).then_with(|| a.id.cmp(&b.id)));
        let current = &states[..states.partition_point(is_current)];
        self.hand_over(&mut tx, current).await?;
        let after = self.contents(&mut tx, ranges).await?.unwrap_or_default();
        self.probe(&mut tx, current, &after).await?;
        let differs = |one: &&EntityState<A::State>| {
            before.get(one.id.as_str()) != after.get(one.id.as_str())
        };
        let altered = current.iter().filter(differs).map(|one| one.id.clone()).collect();
        // Asked for after they were read: what is applied at this moment is there by now.
        let unasked = before.keys().map(String::as_str).filter(|id| !applied.contains_key(*id));
        let unasked: Vec<_> = unasked.collect();
        let known = self.applied(&mut tx, &unasked, false).await?;
        let strays = unasked.into_iter().filter(|id| !known.contains_key(*id));
        let strays = strays.filter_map(|id| EntityId::new(id).ok()).collect();
        let marked = applied.values().filter(|row| row.revised_version < 0);
        let marked = marked.filter_map(|row| EntityId::new(&row.id).ok()).collect();
        mutated!(ContentsPastTheGuard: tx.rollback().await? => tx.commit().await?);
        Ok(Some(Altered { compared: current.len() as u64, altered, strays, marked }))
    }

    /// Looks whether a range contains the IDs that lie in it. What is left out of it would never be compared.
    async fn probe(
        &self,
        tx: &mut Tx,
        current: &[EntityState<A::State>],
        read: &BTreeMap<String, Value>,
    ) -> Result<(), Failure> {
        let is_absent = |one: &&EntityState<A::State>| {
            one.state.is_some() && !read.contains_key(one.id.as_str())
        };
        let absent: Vec<_> = current.iter().filter(is_absent).map(|one| one.id.as_str()).collect();
        if read.len() >= MAX_READ_ROWS {
            return Ok(());
        }
        for id in absent.iter().step_by(absent.len().div_ceil(MAX_PROBES).max(1)) {
            let alone = self.contents(tx, &[*id..=*id]).await?.unwrap_or_default();
            if alone.contains_key(*id) {
                let error = format!(
                    "a range that contains {id:?} is read without it: the IDs are not in bytewise order, \
                     so their column needs COLLATE \"C\""
                );
                return Err(Failure { blame: Blame::Database, error: error.into() });
            }
        }
        Ok(())
    }

    /// What can be read, of the IDs in these ranges alone.
    async fn contents(
        &self,
        tx: &mut Tx,
        ranges: &[Ids<'_>],
    ) -> Result<Option<BTreeMap<String, Value>>, Failure> {
        let mut all = BTreeMap::new();
        for ids in ranges {
            let read = AssertUnwindSafe(self.handler.read(tx, ids)).catch_unwind().await;
            let read = read.map_err(|panic| Failure::from(panic_message("read", &*panic)))??;
            let Some(rows) = read else { return Ok(None) };
            all.extend(rows.into_iter().filter(|(id, _)| ids.contains(&id.as_str())));
        }
        Ok(Some(all))
    }

    async fn applied(
        &self,
        tx: &mut Tx,
        ids: &[&str],
        lock: bool,
    ) -> Result<HashMap<String, Row>, Failure> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let kind = Kind::of(tx);
        let lock = if lock && kind == Kind::Postgres { " FOR UPDATE" } else { "" };
        let sql = format!(
            "SELECT id, version, deleted, revision, revised_version FROM nudge_applied \
             WHERE entity = $1 AND id IN {} ORDER BY id{lock}",
            strings(kind, "$2")
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let rows: Vec<Row> = query.bind(json!(ids).to_string()).fetch_all(&mut **tx).await?;
        Ok(rows.into_iter().map(|row| (row.id.clone(), row)).collect())
    }
}
