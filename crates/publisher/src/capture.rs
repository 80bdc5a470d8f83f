//! Capture by trigger: changes are recorded whichever program makes them.
//!
//! [`record`](crate::Publisher::record) records what its caller says. If SQL is also run by hand, or
//! by programs that know nothing about Nudge, [`Publisher::capture`](crate::Publisher::capture) installs
//! triggers instead: every statement that changes a captured table then writes the change log in its
//! own transaction.
//!
//! | what happens to a table | what is recorded |
//! |---|---|
//! | a row is inserted, changed or deleted | its entity, once per statement (SQLite: per row) |
//! | a row gets another key | the entities of both keys |
//! | an update that changes nothing | nothing |
//! | a cascade | what it deletes or changes |
//! | `REPLACE` (SQLite) | also the entities of rows that it removes, by any unique key |
//! | `TRUNCATE` (PostgreSQL) | every entity of the table |
//!
//! Whether an entity is deleted follows from whether its root row exists once the change log's row is
//! locked, never from the operation: cascades fire their triggers in an order that cannot be relied on, and
//! another transaction may have deleted the root in between.
//!
//! On PostgreSQL the triggers run with the permissions of the role that installed them, so other roles need
//! no permissions on the change log, and they fire for logical replication too. On SQLite they are part of
//! the database file, and every program that opens it runs them.
//!
//! A trigger locks the change log's row at the end of its statement, and PostgreSQL keeps it locked
//! until the transaction ends. Two transactions that each change several rows of one entity can therefore
//! hold what the other waits for; the database then ends one of them with a deadlock, to be retried.
//! Writers that lock the root row before they change any other row of an entity, and process
//! entities in one order, never deadlock.
//!
//! | module | what it does |
//! |---|---|
//! | `sqlite` | row triggers, and what `REPLACE` hides |
//! | `postgres` | statement triggers over transition tables; row triggers for replicated rows |
//! | `watch` | checks that they are still there while the program runs |

mod postgres;
mod sqlite;
mod watch;

use futures_util::TryStreamExt;
use nudge_protocol::{EntityId, EntityName};
use nudge_runtime::{
    Database, Tx, clock,
    database::{Kind, WorkError},
    set_sql::quoted,
};
use sqlx::AssertSqlSafe;

use crate::change_log::outbox::bytes;

pub(crate) use watch::Capture;
pub use watch::{INSTALL_PAUSE, LOOK_INTERVAL};

/// The tables that make up an entity: one root row for each, and any rows of other tables that hold
/// the root's key.
///
/// ```
/// use nudge_publisher::capture::Tables;
/// let tables = Tables::root("store", "id").child("store_menu", "store_id");
/// # let _ = tables;
/// ```
#[derive(Clone, Debug)]
pub struct Tables {
    tables: Vec<Table>,
}

/// A table, and its column that holds the root's key.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) key: String,
}

impl Tables {
    /// The table that has one row for each entity, and its key column. The key is the entity's ID
    /// as text: one column, never null, of text, whole numbers or UUIDs.
    pub fn root(table: impl Into<String>, key: impl Into<String>) -> Self {
        Self { tables: vec![Table { name: table.into(), key: key.into() }] }
    }

    /// Another table whose rows are part of the entity that their `key` column names. A row with
    /// null there belongs to none.
    #[must_use]
    pub fn child(mut self, table: impl Into<String>, key: impl Into<String>) -> Self {
        self.tables.push(Table { name: table.into(), key: key.into() });
        self
    }

    fn of_root(&self) -> &Table {
        &self.tables[0]
    }
}

/// Why triggers cannot be installed. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The database refused.
    #[error("cannot install the triggers that capture {entity}")]
    Database {
        /// The entity.
        entity: EntityName,
        /// Its error.
        #[source]
        source: sqlx::Error,
    },
    /// A table cannot be captured.
    #[error("cannot capture {entity}: table {table} {problem}")]
    Table {
        /// The entity.
        entity: EntityName,
        /// The table.
        table: String,
        /// What is wrong.
        problem: String,
    },
    /// An existing row has a key that is not a valid ID.
    #[error("cannot capture {entity}: {id:?} in table {table} is not a valid ID: {problem}")]
    Id {
        /// The entity.
        entity: EntityName,
        /// The table.
        table: String,
        /// The key.
        id: String,
        /// What is wrong.
        problem: String,
    },
}

/// What the database should contain.
#[derive(Debug)]
struct Plan {
    /// Statements that create the triggers. Their text distinguishes one definition from another.
    create: Vec<String>,
    /// How many triggers they create.
    triggers: usize,
}

/// The name prefix of all objects that belong to an entity's capture. A colon
/// is not allowed in entity names, so no entity's prefix begins another's.
fn prefix(entity: &EntityName) -> String {
    format!("nudge:{entity}:")
}

/// The plan, if the database does not match it yet.
async fn look(tx: &mut Tx, entity: &EntityName, tables: &Tables) -> Result<Option<Plan>, Fault> {
    match Kind::of(tx) {
        Kind::Sqlite => sqlite::is_installed(tx, entity, tables).await,
        Kind::Postgres => postgres::is_installed(tx, entity, tables).await,
    }
}

/// Installs the triggers, unless exactly these exist. Whenever they had to be created, every entity is
/// recorded once, since changes may have been missed.
/// Returns the current definition.
async fn install(
    db: &Database,
    entity: &EntityName,
    tables: &Tables,
) -> Result<String, CaptureError> {
    let work = async {
        // After waiting for another program that installs them, check what it has done.
        let mut tx = db.begin_read_committed().await.map_err(Fault::from)?;
        if db.kind() == Kind::Postgres {
            postgres::lock(&mut tx).await?;
        }
        if let Some(plan) = look(&mut tx, entity, tables).await? {
            if db.kind() == Kind::Postgres {
                postgres::wait(&mut tx, true).await?;
            }
            remove(&mut tx, entity).await?;
            for statement in &plan.create {
                execute(&mut tx, statement).await?;
            }
            if db.kind() == Kind::Postgres {
                postgres::wait(&mut tx, false).await?;
            }
            record_all(&mut tx, entity, tables).await?;
            note(&mut tx, entity, &plan.create.join("\n")).await?;
            tracing::info!(%entity, triggers = plan.triggers, "changes are captured by triggers");
        }
        // In the same transaction: another program may install its own right after.
        let definition = noted(&mut tx, entity).await?.unwrap_or_default();
        tx.commit().await?;
        Ok(definition)
    };
    db.run(work).await.map_err(|fault: Fault| fault.of(entity))
}

/// Removes the triggers.
pub(crate) async fn uninstall(db: &Database, entity: &EntityName) -> Result<(), CaptureError> {
    let work = async {
        let mut tx = db.begin().await?;
        remove(&mut tx, entity).await?;
        let forget = sqlx::query("DELETE FROM nudge_capture WHERE entity = $1");
        forget.bind(entity.as_str()).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    };
    db.run(work).await.map_err(|fault: Fault| fault.of(entity))
}

/// Removes the triggers so that their tables can be altered; they are installed again afterwards.
pub(crate) async fn release(tx: &mut Tx, entity: &EntityName) -> Result<(), sqlx::Error> {
    remove(tx, entity).await.map_err(|fault| match fault {
        Fault::Database(error) => error,
        Fault::Table { problem, .. } | Fault::Id { problem, .. } => sqlx::Error::Protocol(problem),
    })
}

async fn remove(tx: &mut Tx, entity: &EntityName) -> Result<(), Fault> {
    let statements = match Kind::of(tx) {
        Kind::Sqlite => sqlite::removal(tx, entity).await?,
        Kind::Postgres => postgres::removal(tx, entity).await?,
    };
    for statement in &statements {
        execute(tx, statement).await?;
    }
    Ok(())
}

/// Whether the triggers' definition is the stored one.
async fn is_noted(tx: &mut Tx, entity: &EntityName, plan: &Plan) -> Result<bool, Fault> {
    Ok(noted(tx, entity).await?.is_some_and(|noted| noted == plan.create.join("\n")))
}

/// The definition that was installed last, by any program.
async fn noted(tx: &mut Tx, entity: &EntityName) -> Result<Option<String>, Fault> {
    let sql = "SELECT definition FROM nudge_capture WHERE entity = $1";
    let noted: Option<(String,)> =
        sqlx::query_as(sql).bind(entity.as_str()).fetch_optional(&mut **tx).await?;
    Ok(noted.map(|(noted,)| noted))
}

async fn note(tx: &mut Tx, entity: &EntityName, definition: &str) -> Result<(), Fault> {
    let sql = "INSERT INTO nudge_capture (entity, definition) VALUES ($1, $2) \
               ON CONFLICT (entity) DO UPDATE SET definition = excluded.definition";
    let query = sqlx::query(sql).bind(entity.as_str()).bind(definition.to_owned());
    query.execute(&mut **tx).await?;
    Ok(())
}

/// Gives every existing entity a new version, and every other one in the log a tombstone.
async fn record_all(tx: &mut Tx, entity: &EntityName, tables: &Tables) -> Result<(), Fault> {
    let root = tables.of_root();
    check_ids(tx, entity, root).await?;
    let (table, key) = (quoted(&root.name), quoted(&root.key));
    let version = "CASE WHEN log.version >= $2 THEN log.version + 1 ELSE $2 END";
    let there = format!(
        "INSERT INTO nudge_change_log AS log (entity, id, version, change, deleted, changed_at) \
         SELECT $1, CAST({key} AS TEXT), $2, 'created', 0, $2 FROM {table} WHERE true ORDER BY 2 \
         ON CONFLICT (entity, id) DO UPDATE SET version = {version}, changed_at = $2, \
         change = CASE log.deleted WHEN 0 THEN 'updated' ELSE 'created' END, deleted = 0"
    );
    // Each database can hash or index only one of these; the other would take hours for a million rows.
    let absent = match Kind::of(tx) {
        Kind::Sqlite => format!("log.id NOT IN (SELECT CAST({key} AS TEXT) FROM {table})"),
        Kind::Postgres => format!(
            "NOT EXISTS (SELECT 1 FROM {table} AS root WHERE CAST(root.{key} AS TEXT) = log.id)"
        ),
    };
    let gone = format!(
        "UPDATE nudge_change_log AS log SET version = {version}, changed_at = $2, \
         change = 'deleted', deleted = 1 WHERE log.entity = $1 AND log.deleted = 0 \
         AND {absent}"
    );
    for sql in [there, gone] {
        let query = sqlx::query(AssertSqlSafe(sql)).bind(entity.as_str());
        query.bind(clock::now().unix_micros()).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Checks that every existing key is a valid ID: without one, nobody can be notified. Reads the keys one by one:
/// there may be millions. A key that is not text, which SQLite accepts, is only logged, all in one line: nothing that follows could
/// read it either, and the other rows must not wait for it.
async fn check_ids(tx: &mut Tx, entity: &EntityName, root: &Table) -> Result<(), Fault> {
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

async fn execute(tx: &mut Tx, sql: &str) -> Result<(), Fault> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut **tx).await?;
    Ok(())
}

/// A [`CaptureError`] without its entity.
enum Fault {
    Database(sqlx::Error),
    Table { table: String, problem: String },
    Id { table: String, id: String, problem: String },
}

impl Fault {
    fn table(table: &Table, problem: impl Into<String>) -> Self {
        Self::Table { table: table.name.clone(), problem: problem.into() }
    }

    fn of(self, entity: &EntityName) -> CaptureError {
        let entity = entity.clone();
        match self {
            Self::Database(source) => CaptureError::Database { entity, source },
            Self::Table { table, problem } => CaptureError::Table { entity, table, problem },
            Self::Id { table, id, problem } => CaptureError::Id { entity, table, id, problem },
        }
    }
}

impl WorkError for Fault {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Table { .. } | Self::Id { .. } => None,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// A text as an SQL literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
