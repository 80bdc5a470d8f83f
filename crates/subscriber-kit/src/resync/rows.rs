//! What the subscriber has itself: the versions that are applied.

use std::collections::{HashMap, HashSet};

use nudge_protocol::{
    EntityId, EntityName, Version,
    digest::{Range, RangeRow},
};
use nudge_runtime::{
    Database, clock,
    database::Kind,
    set_sql::{Column, Line, lines, read_lines, rows, strings},
};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::difference::Difference;
use crate::read_model::revision::{AGAIN, is_not_set_aside};

const IN_RANGE: &str = "SELECT id, version, deleted FROM nudge_applied \
    WHERE entity = $1 AND id > $2 AND id <= $3 AND deleted <= $5 ORDER BY id LIMIT $4";
const TO_THE_END: &str = "SELECT id, version, deleted FROM nudge_applied \
    WHERE entity = $1 AND id > $2 AND deleted <= $4 ORDER BY id LIMIT $3";

/// The applied versions of one kind of entity.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The read model's database.
    pub db: Database,
    /// The entity.
    pub entity: EntityName,
    /// Whether tombstones are compared. Not if the owner forgets what it deletes.
    pub tombstones: bool,
}

impl Rows {
    /// Up to `limit` rows of a range, in bytewise order of IDs, and the part of the range that they are.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of(
        &self,
        range: &Range,
        limit: usize,
    ) -> Result<(Vec<RangeRow>, Range), sqlx::Error> {
        let after = range.after.as_ref().map_or("", EntityId::as_str).to_owned();
        let columns = [Column::Text("id"), Column::Int("version"), Column::Int("deleted")];
        let sql =
            lines(self.db.kind(), &columns, if range.to.is_some() { IN_RANGE } else { TO_THE_END });
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str()).bind(after);
        let query = match &range.to {
            Some(to) => query.bind(to.as_str()),
            None => query,
        };
        let query = query.bind(limit as i64).bind(i64::from(self.tombstones));
        let (text,): (String,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        let mut looked_at = 0;
        let rows = read_lines(&text).inspect(|_| looked_at += 1);
        let row = |mut line: Line<'_>| read((line.text()?, line.int()?, line.int()?));
        let rows: Vec<_> = rows.filter_map(row).collect();
        let full = looked_at == limit;
        let to = match full {
            true => rows.last().map(|row| row.id.clone()).or_else(|| range.to.clone()),
            false => range.to.clone(),
        };
        Ok((rows, Range { after: range.after.clone(), to }))
    }

    /// The rows of these entities, in bytewise order of IDs.
    pub(crate) async fn those<'a>(
        &self,
        ids: impl Iterator<Item = &'a EntityId>,
    ) -> Result<Vec<RangeRow>, sqlx::Error> {
        let ids: Vec<_> = ids.collect();
        let ids_sql = strings(self.db.kind(), "$2");
        let sql = format!(
            "SELECT id, version, deleted FROM nudge_applied WHERE entity = $1 AND id IN {ids_sql} ORDER BY id"
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(serde_json::json!(ids).to_string());
        let rows: Vec<(String, i64, i64)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// Those of these that have not reached the owner's version.
    pub(crate) async fn still_behind(
        &self,
        mut of: Vec<Difference>,
    ) -> Result<Vec<Difference>, sqlx::Error> {
        if !of.is_empty() {
            let rows = self.those(of.iter().map(|one| &one.id)).await?;
            let applied: HashMap<_, _> =
                rows.into_iter().map(|row| (row.id, row.version)).collect();
            of.retain(|one| applied.get(&one.id).copied().unwrap_or_default() < one.theirs);
        }
        Ok(of)
    }

    /// How many of these have not reached the owner's version, and are not set aside.
    pub(crate) async fn behind(&self, of: &[Difference]) -> Result<u64, sqlx::Error> {
        let behind = self.still_behind(of.to_vec()).await?;
        let set_aside = if behind.is_empty() { 0 } else { self.set_aside(&behind).await?.len() };
        Ok((behind.len() - set_aside) as u64)
    }

    /// Those of these that are parked, or dead letters of the owner's version or a later one.
    pub(crate) async fn set_aside(
        &self,
        of: &[Difference],
    ) -> Result<HashSet<EntityId>, sqlx::Error> {
        let set = rows(self.db.kind(), "$2", &[Column::Text("id"), Column::Int("version")]);
        // CROSS JOIN makes the JSON the outer loop.
        let sql = format!(
            "SELECT r.id FROM {set} CROSS JOIN nudge_dead_letter AS dead WHERE dead.entity = $1 \
             AND dead.id = r.id AND (dead.next_at IS NOT NULL OR dead.floor >= r.version)"
        );
        let row = |one: &Difference| json!({"id": one.id, "version": one.theirs});
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(Value::from_iter(of.iter().map(row)).to_string());
        let rows: Vec<(String,)> = self.db.run(query.fetch_all(self.db.reader())).await?;
        Ok(rows.into_iter().filter_map(|(id,)| EntityId::new(&id).ok()).collect())
    }

    /// Lets these be applied again in the same version.
    pub(crate) async fn outdate(&self, ids: &[EntityId]) -> Result<(), sqlx::Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let of = strings(self.db.kind(), "$2");
        // In order of IDs, as appliers lock them.
        let of = match self.db.kind() {
            Kind::Sqlite => of,
            Kind::Postgres => format!(
                "(SELECT id FROM nudge_applied WHERE entity = $1 AND id IN {of} ORDER BY id FOR UPDATE)"
            ),
        };
        let sql = format!(
            "UPDATE nudge_applied SET revised_version = {AGAIN} WHERE entity = $1 AND id IN {of}"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.entity.as_str());
        self.db.write(query.bind(json!(ids).to_string())).await.map(drop)
    }

    /// Takes IDs that only the service's own tables have for applied, in a version below all others. So they are
    /// found as what the owner does not have, and removed like that. Only for an owner without tombstones, which gives
    /// no version to what it does not have.
    pub(crate) async fn adopt(&self, ids: &[EntityId]) -> Result<(), sqlx::Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at, revised_version) \
             SELECT $1, r.id, 1, 0, $3, 1 FROM {} WHERE true ORDER BY r.id ON CONFLICT (entity, id) DO NOTHING",
            rows(self.db.kind(), "$2", &[Column::Text("id")])
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query =
            query.bind(Value::from_iter(ids.iter().map(|id| json!({"id": id}))).to_string());
        self.db.write(query.bind(clock::now().unix_micros())).await.map(drop)
    }

    /// Of these, those that are neither parked nor dead letters.
    pub(crate) async fn not_set_aside(
        &self,
        mut ids: Vec<EntityId>,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        if !ids.is_empty() {
            let of = strings(self.db.kind(), "$2");
            let sql = format!("SELECT id FROM nudge_dead_letter WHERE entity = $1 AND id IN {of}");
            let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
            let query = query.bind(json!(ids).to_string());
            let rows: Vec<(String,)> = self.db.run(query.fetch_all(self.db.reader())).await?;
            let set_aside: HashSet<_> = rows.into_iter().map(|(id,)| id).collect();
            ids.retain(|id| !set_aside.contains(id.as_str()));
        }
        Ok(ids)
    }

    /// How many of these have not been applied again. What is parked or a dead letter does not count.
    pub(crate) async fn outdated(&self, ids: &[EntityId]) -> Result<u64, sqlx::Error> {
        let of = strings(self.db.kind(), "$2");
        let sql = format!(
            "SELECT count(*) FROM nudge_applied AS applied WHERE entity = $1 AND id IN {of} \
             AND revised_version < 0 AND {}",
            is_not_set_aside("applied")
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.as_str());
        let query = query.bind(json!(ids).to_string());
        let (count,): (i64,) = self.db.run(query.fetch_one(self.db.reader())).await?;
        Ok(count.unsigned_abs())
    }

    /// Lowers a version that no owner can have given yet to the time of day: nothing could ever replace it.
    pub(crate) async fn lower(&self, one: &Difference) -> Result<(), sqlx::Error> {
        let sql =
            "UPDATE nudge_applied SET version = $4 WHERE entity = $1 AND id = $2 AND version = $3";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(one.id.as_str());
        let query = query.bind(one.ours.to_i64()).bind(clock::now().unix_micros());
        self.db.write(query).await.map(drop)
    }
}

/// A row. The guard writes valid IDs and versions only.
fn read((id, version, deleted): (String, i64, i64)) -> Option<RangeRow> {
    let (id, version) = (EntityId::new(&id).ok()?, Version::try_from(version).ok()?);
    Some(RangeRow { id, version, deleted: deleted != 0 })
}
