//! Records every entity once after the triggers were installed, since changes may have been missed before.
//!
//! This goes on page by page, each in its own transaction, while the triggers capture what happens meanwhile: a table may
//! have millions of rows, and no writer must wait until all of them are recorded. The progress is stored, so that
//! whichever program comes next continues where the last one stopped.

use std::time::Duration;

use futures_util::TryStreamExt;
use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::{
    Database, Tx, clock,
    database::{Kind, is_conflict},
    problem::chain,
    row,
    set_sql::{quoted, strings},
};
use sqlx::AssertSqlSafe;

use super::{Fault, Table, postgres};
use crate::change_log::outbox::bytes;

/// Most entities that are recorded in one transaction.
pub const MAX_RECORDED_AT_ONCE: usize = 2_000;
/// PostgreSQL: longest wait for an entity that a writer has locked, in milliseconds. Well below the server's
/// `deadlock_timeout` (1 s by default), so a writer that waits for this page in turn is never the one that fails.
const ENTITY_LOCK_TIMEOUT_MILLIS: u32 = 200;
/// Pause before a page is tried again because a writer had one of its entities locked.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);
/// The version of an entity that is recorded again. `$2` is the time.
const VERSION: &str = "CASE WHEN log.version >= $2 THEN log.version + 1 ELSE $2 END";

row! {
    /// How far an installation's recording has got.
    struct Progress {
        /// When the triggers were installed; 0 if everything is recorded.
        recording: i64,
        /// The key up to which the root table is recorded.
        recorded_to: Option<Vec<u8>>,
    }
}

/// Notes that everything has to be recorded, in the transaction that installs the triggers.
pub(super) async fn begin(tx: &mut Tx, entity: &EntityName) -> Result<(), Fault> {
    let sql = "UPDATE nudge_capture SET recording = $2, recorded_to = NULL WHERE entity = $1";
    let query = sqlx::query(sql).bind(entity.as_str()).bind(clock::now().unix_micros());
    query.execute(&mut **tx).await?;
    Ok(())
}

/// Gives every existing entity a new version, and every other one in the log a tombstone, unless that is done.
pub(super) async fn record_all(
    db: &Database,
    entity: &EntityName,
    root: &Table,
) -> Result<(), Fault> {
    let mut told = false;
    loop {
        match db.run(record_some(db, entity, root)).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(Fault::Database(error)) if db.kind() == Kind::Postgres && is_conflict(&error) => {
                if !std::mem::replace(&mut told, true) {
                    let error = chain(&error);
                    tracing::warn!(%entity, %error, "capture: cannot record every entity yet, since a writer has some locked; retrying");
                }
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// Records the next page, or finishes. Returns whether there is more to do.
async fn record_some(db: &Database, entity: &EntityName, root: &Table) -> Result<bool, Fault> {
    let mut tx = begin_page(db).await?;
    let Some(progress) = progress(&mut tx, entity).await? else { return Ok(false) };
    let (ids, last) = next_page(&mut tx, root, progress.recorded_to).await?;
    let Some(last) = last else {
        tx.commit().await?;
        while bury_some(db, entity, root).await? {}
        let sql = "UPDATE nudge_capture SET recording = 0, recorded_to = NULL \
                   WHERE entity = $1 AND recording = $2";
        let ended = sqlx::query(sql).bind(entity.as_str()).bind(progress.recording);
        db.write(ended).await?;
        // Another release may have installed its own triggers meanwhile.
        return Ok(true);
    };
    raise(&mut tx, entity, &ids).await?;
    let sql = "UPDATE nudge_capture SET recorded_to = $2 WHERE entity = $1";
    sqlx::query(sql).bind(entity.as_str()).bind(last).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}

/// At READ COMMITTED, where a statement sees what was committed while the one before it waited for a lock.
async fn begin_page(db: &Database) -> Result<Tx, Fault> {
    let mut tx = db.begin_read_committed().await?;
    if db.kind() == Kind::Postgres {
        postgres::wait_at_most(&mut tx, ENTITY_LOCK_TIMEOUT_MILLIS).await?;
    }
    Ok(tx)
}

/// The progress; `None` if everything is recorded. One program at a time records a page.
async fn progress(tx: &mut Tx, entity: &EntityName) -> Result<Option<Progress>, Fault> {
    let lock = match Kind::of(tx) {
        Kind::Sqlite => "",
        Kind::Postgres => "FOR UPDATE",
    };
    let sql = format!(
        "SELECT recording, recorded_to FROM nudge_capture WHERE entity = $1 AND recording <> 0 {lock}"
    );
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(entity.as_str());
    Ok(query.fetch_optional(&mut **tx).await?)
}

/// The IDs of the next rows of the root table in the order of its key, and the last key. Keys that are not valid IDs are
/// left out.
async fn next_page(
    tx: &mut Tx,
    root: &Table,
    after: Option<Vec<u8>>,
) -> Result<(Vec<EntityId>, Option<Vec<u8>>), Fault> {
    let (table, key, kind) = (quoted(&root.name), quoted(&root.key), Kind::of(tx));
    let text = bytes(kind, &format!("CAST({key} AS TEXT)"));
    let (is_text, cursor) = match kind {
        Kind::Sqlite => (format!("typeof({key}) <> 'blob'"), "CAST($2 AS TEXT)".to_owned()),
        Kind::Postgres => {
            let key_type = postgres::key_type(tx, root).await?;
            (format!("{key} IS NOT NULL"), format!("CAST(convert_from($2, 'UTF8') AS {key_type})"))
        }
    };
    let beyond = after.as_ref().map_or_else(String::new, |_| format!("AND {key} > {cursor}"));
    let sql =
        format!("SELECT {text} FROM {table} WHERE {is_text} {beyond} ORDER BY {key} LIMIT $1");
    let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(MAX_RECORDED_AT_ONCE as i64);
    if let Some(after) = after {
        query = query.bind(after);
    }
    let keys: Vec<(Vec<u8>,)> = query.fetch_all(&mut **tx).await?;
    Ok((
        keys.iter().filter_map(|(key,)| valid(key)).collect(),
        keys.last().map(|(key,)| key.clone()),
    ))
}

fn valid(key: &[u8]) -> Option<EntityId> {
    EntityId::new(std::str::from_utf8(key).ok()?).ok()
}

/// Gives these entities new versions. They existed a moment ago.
async fn raise(tx: &mut Tx, entity: &EntityName, ids: &[EntityId]) -> Result<(), Fault> {
    let ids = serde_json::json!(ids).to_string();
    match Kind::of(tx) {
        // Nobody else can write meanwhile.
        Kind::Sqlite => {
            let sql = format!(
                "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, changed_at) \
                 SELECT $1, value, $2, 'created', 0, $2 FROM json_each($3) WHERE true ORDER BY value \
                 ON CONFLICT (entity, id) DO UPDATE SET version = {VERSION}, changed_at = $2, \
                 change = CASE WHEN log.deleted = 1 OR log.change = 'created' \
                 AND log.version <> log.published_version THEN 'created' ELSE 'updated' END, deleted = 0"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(entity.as_str());
            query.bind(clock::now().unix_micros()).bind(ids).execute(&mut **tx).await?;
        }
        // The triggers' own function checks whether they still exist once it has locked them.
        Kind::Postgres => {
            let touch = postgres::touch(entity);
            let array = strings(Kind::Postgres, "$1");
            let sql = format!("SELECT count({touch}(ARRAY{array}))");
            sqlx::query(AssertSqlSafe(sql)).bind(ids).execute(&mut **tx).await?;
        }
    }
    Ok(())
}

/// Gives tombstones to some entities of the log that no longer exist. Returns whether there may be more.
async fn bury_some(db: &Database, entity: &EntityName, root: &Table) -> Result<bool, Fault> {
    let (table, key) = (quoted(&root.name), quoted(&root.key));
    let absent = |looked_up: bool| match db.kind() {
        // By the key's index, for a few.
        Kind::Sqlite if looked_up => format!(
            "NOT EXISTS (SELECT 1 FROM {table} AS root WHERE root.{key} = log.id \
             AND CAST(root.{key} AS TEXT) = log.id COLLATE BINARY)"
        ),
        // Each database can hash or index only one of these; the other would take hours for a million rows.
        Kind::Sqlite => format!(
            "log.id NOT IN (SELECT CAST({key} AS TEXT) FROM {table} WHERE {key} IS NOT NULL)"
        ),
        Kind::Postgres => format!(
            "NOT EXISTS (SELECT 1 FROM {table} AS root WHERE CAST(root.{key} AS TEXT) = log.id)"
        ),
    };
    let is_text = db.pick("AND typeof(log.id) = 'text'", "");
    let sql = format!(
        "SELECT {} FROM nudge_change_log AS log WHERE log.entity = $1 AND log.deleted = 0 {is_text} \
         AND {} ORDER BY log.id LIMIT $2",
        bytes(db.kind(), "log.id"),
        absent(false)
    );
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(entity.as_str());
    let query = query.bind(MAX_RECORDED_AT_ONCE as i64);
    let gone: Vec<(Vec<u8>,)> = query.fetch_all(db.reader()).await?;
    let gone: Vec<_> = gone.iter().filter_map(|(id,)| valid(id)).collect();
    if gone.is_empty() {
        return Ok(false);
    }
    let gone = serde_json::json!(gone).to_string();
    let mut tx = begin_page(db).await?;
    let these = format!("log.entity = $1 AND log.id IN {}", strings(db.kind(), "$2"));
    if db.kind() == Kind::Postgres {
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM nudge_change_log AS log WHERE {these} \
             ORDER BY log.id FOR UPDATE) AS locked"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(entity.as_str()).bind(gone.clone());
        query.execute(&mut *tx).await?;
    }
    let sql = format!(
        "UPDATE nudge_change_log AS log SET version = {}, changed_at = $3, change = 'deleted', deleted = 1 \
         WHERE {these} AND log.deleted = 0 AND {}",
        VERSION.replace("$2", "$3"),
        absent(true)
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(entity.as_str()).bind(gone);
    let buried = query.bind(clock::now().unix_micros()).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(buried > 0)
}

/// Checks that every existing key is a valid ID: without one, nobody can be notified. Reads the keys one by one:
/// there may be millions. A key that is not text, which SQLite accepts, is only logged, all in one line: nothing that follows could
/// read it either, and the other rows must not wait for it.
pub(super) async fn check_ids(tx: &mut Tx, entity: &EntityName, root: &Table) -> Result<(), Fault> {
    let (table, key) = (quoted(&root.name), quoted(&root.key));
    let is_blob = match Kind::of(tx) {
        Kind::Sqlite => format!("typeof({key}) = 'blob'"),
        Kind::Postgres => "0".to_owned(),
    };
    let text = bytes(Kind::of(tx), &format!("CAST({key} AS TEXT)"));
    let sql = format!("SELECT {text}, {is_blob} FROM {table}");
    let mut ids = sqlx::query_as::<_, (Option<Vec<u8>>, i64)>(AssertSqlSafe(sql)).fetch(&mut **tx);
    let (mut unreadable, mut first) = (0_u64, None);
    while let Some((id, is_blob)) = ids.try_next().await? {
        let id = id.unwrap_or_default();
        let text = std::str::from_utf8(&id).ok().filter(|_| is_blob == 0);
        let Some(text) = text else {
            unreadable += 1;
            first.get_or_insert_with(|| id.escape_ascii().to_string());
            continue;
        };
        if let Err(problem) = EntityId::new(text) {
            let id = text.chars().take(60).collect();
            return Err(Fault::Id { table: root.name.clone(), id, problem: problem.to_string() });
        }
    }
    if let Some(id) = first {
        let table = &root.name;
        tracing::error!(%entity, table, id, unreadable, "keys are not text: nobody can be notified of their rows");
    }
    Ok(())
}
