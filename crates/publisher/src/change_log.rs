//! The change log: one row per entity, as the owner writes and reads it. What the relay does with it
//! is in `change_log/outbox.rs` and `change_log/repair.rs`.
//!
//! A row is at once the transactional outbox (it is *pending* when `version` differs from
//! `published_version`), the tombstone of a deleted entity (kept forever), and the source of
//! versions. It never grows beyond one row per entity, however often that is edited.

mod digest;
pub(crate) mod never_existed;
pub(crate) mod outbox;
#[cfg(test)]
mod plans;
mod repair;
pub(crate) mod restored;
mod single;
mod tables;

use std::{collections::HashMap, sync::Arc};

use nudge_protocol::{Change, EntityId, EntityName, Timestamp, Version};
use nudge_runtime::{
    Database, Tx, clock,
    database::Text,
    mutated, row,
    set_sql::{Column, Line, lines, read_lines, rows, strings},
};
use serde::Serialize;
use sqlx::AssertSqlSafe;

pub(crate) use tables::MIGRATIONS;

/// What the change log holds for an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its newest version.
    pub version: Version,
    /// Whether that version is a tombstone.
    pub deleted: bool,
    /// When it was recorded.
    pub changed_at: Timestamp,
    /// A tombstone of an ID that this owner never had, as far as it knows: either the stream held
    /// the ID, or an operator said so. To subscribers it is a tombstone like any other; an owner's own API answers
    /// as if it did not know the ID.
    pub never_existed: bool,
}

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
struct Sql {
    record: Arc<str>,
    recorded: Arc<str>,
    page: Arc<str>,
    single: Arc<str>,
    digest: digest::Sql,
    outbox: outbox::Sql,
    restored: restored::Sql,
    never_existed: never_existed::Sql,
}

/// The change log of one kind of entity.
#[derive(Clone, Debug)]
pub struct ChangeLog {
    db: Database,
    entity: EntityName,
    sql: Arc<Sql>,
}

#[derive(Serialize)]
struct RecordRow<'a> {
    id: &'a EntityId,
    change: &'static str,
    deleted: i64,
}

impl ChangeLog {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        let kind = db.kind();
        let changes = [Column::Text("id"), Column::Text("change"), Column::Int("deleted")];
        let sql = Sql {
            // The version is computed from the table's row, inside DO UPDATE: a value computed
            // before waiting for the row's lock could go backwards.
            record: format!(
                "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, changed_at) \
                 SELECT $1, r.id, $3, r.change, r.deleted, $3 FROM {} WHERE true \
                 ORDER BY r.id \
                 ON CONFLICT (entity, id) DO UPDATE SET \
                 version = {}, \
                 change = excluded.change, deleted = excluded.deleted, changed_at = $3 \
                 RETURNING id, version",
                rows(kind, "$2", &changes),
                mutated!(
                    VersionFromClockAlone:
                    "CASE WHEN log.version >= $3 THEN log.version + 1 ELSE $3 END" => "$3"
                )
            )
            .into(),
            recorded: lines(
                kind,
                &RECORDED,
                &format!(
                    "SELECT id, {VERSION_COLUMNS} FROM nudge_change_log WHERE entity = $1 AND id IN {}",
                    strings(kind, "$2")
                ),
            )
            .into(),
            page: lines(
                kind,
                &RECORDED,
                &format!(
                    "SELECT id, {VERSION_COLUMNS} FROM nudge_change_log \
                     WHERE entity = $1 AND id > $2 ORDER BY id LIMIT $3 OFFSET $4"
                ),
            )
            .into(),
            single: single::sql(kind),
            digest: digest::Sql::new(kind),
            outbox: outbox::Sql::new(kind),
            restored: restored::Sql::new(kind),
            never_existed: never_existed::Sql::new(kind),
        };
        Self { db, entity, sql: Arc::new(sql) }
    }

    pub(crate) fn db(&self) -> &Database {
        &self.db
    }

    pub(crate) fn entity(&self) -> &EntityName {
        &self.entity
    }

    pub(crate) async fn record(
        &self,
        tx: &mut Tx,
        changes: &[(EntityId, Change)],
    ) -> Result<Vec<Version>, sqlx::Error> {
        let row = |(id, change): &(EntityId, Change)| {
            let deleted = i64::from(*change == Change::Deleted);
            serde_json::json!(RecordRow { id, change: change.as_str(), deleted })
        };
        let json = serde_json::Value::from(changes.iter().map(row).collect::<Vec<_>>());
        let returned: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(self.sql.record.clone()))
            .bind(self.entity.as_str())
            .bind(json.to_string())
            .bind(clock::now().unix_micros())
            .fetch_all(&mut **tx)
            .await?;
        let versions: HashMap<String, i64> = returned.into_iter().collect();
        let version = |(id, _): &(EntityId, Change)| {
            let version = versions.get(id.as_str()).ok_or(sqlx::Error::RowNotFound)?;
            decode(Version::try_from(*version))
        };
        changes.iter().map(version).collect()
    }

    pub(crate) async fn recorded(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, Recorded>, sqlx::Error> {
        let query = sqlx::query_as(AssertSqlSafe(self.sql.recorded.clone()))
            .bind(self.entity.as_str())
            .bind(serde_json::json!(ids).to_string());
        let (text,): (String,) = query.fetch_one(&mut **tx).await?;
        read_lines(&text).map(|line| Row::of(line)?.recorded()).collect()
    }

    /// A page of the change log in bytewise order of IDs, including tombstones. Rows with an invalid ID, which SQLite
    /// may have, are left out: nobody could ask for them.
    pub(crate) async fn page(
        &self,
        tx: &mut Tx,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<Vec<(EntityId, Recorded)>, sqlx::Error> {
        let (mut page, mut looked_at) = (Vec::with_capacity(limit), 0);
        while page.len() < limit {
            let wanted = limit - page.len();
            let query = sqlx::query_as(AssertSqlSafe(self.sql.page.clone()))
                .bind(self.entity.as_str())
                .bind(after.map_or("", EntityId::as_str))
                .bind(wanted as i64)
                .bind(looked_at as i64);
            let (text,): (String,) = query.fetch_one(&mut **tx).await?;
            let before = looked_at;
            for line in read_lines(&text) {
                looked_at += 1;
                match Row::of(line).and_then(Row::recorded) {
                    Ok(one) => page.push(one),
                    Err(error) => {
                        let entity = &self.entity;
                        tracing::error!(%entity, ?after, %error, "a row of nudge_change_log has an invalid ID");
                    }
                }
            }
            if looked_at - before < wanted {
                break;
            }
        }
        Ok(page)
    }
}

/// The columns of a [`Row`] except its ID.
const VERSION_COLUMNS: &str =
    "version, deleted, changed_at, stranger_version, never_existed_version";
/// The columns of a [`Row`] as one text.
const RECORDED: [Column; 6] = [
    Column::Text("id"),
    Column::Int("version"),
    Column::Int("deleted"),
    Column::Int("changed_at"),
    Column::Int("stranger_version"),
    Column::Int("never_existed_version"),
];

row! {
    struct Row {
        id: Text,
        version: i64,
        deleted: i64,
        changed_at: i64,
        stranger_version: i64,
        never_existed_version: i64,
    }
}

impl Row {
    fn of(mut line: Line<'_>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: Text(decode(line.text().ok_or(Unreadable("the ID")))?),
            version: number(&mut line)?,
            deleted: number(&mut line)?,
            changed_at: number(&mut line)?,
            stranger_version: number(&mut line)?,
            never_existed_version: number(&mut line)?,
        })
    }

    fn recorded<C>(self) -> Result<C, sqlx::Error>
    where
        C: From<(EntityId, Recorded)>,
    {
        let recorded = Recorded {
            version: decode(Version::try_from(self.version))?,
            deleted: self.deleted != 0,
            changed_at: Timestamp::from_unix_micros(self.changed_at),
            never_existed: self.deleted != 0
                && [self.stranger_version, self.never_existed_version].contains(&self.version),
        };
        Ok(C::from((decode(EntityId::new(&self.id.0))?, recorded)))
    }
}

/// A row of the log holds something else than the log writes.
#[derive(Debug, thiserror::Error)]
#[error("{0} of a row of nudge_change_log cannot be read")]
struct Unreadable(&'static str);

fn number(line: &mut Line<'_>) -> Result<i64, sqlx::Error> {
    decode(line.int().ok_or(Unreadable("a number")))
}

fn decode<T, E: std::error::Error + Send + Sync + 'static>(
    result: Result<T, E>,
) -> Result<T, sqlx::Error> {
    result.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
