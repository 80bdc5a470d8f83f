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
//! | `record` | records every entity once after an installation |
//! | `watch` | checks that they are still there while the program runs |

mod postgres;
mod record;
mod sqlite;
mod watch;

use nudge_protocol::EntityName;
use nudge_runtime::{
    Database, Tx,
    database::{Kind, WorkError},
    set_sql::quoted,
};
use sqlx::AssertSqlSafe;

pub use record::MAX_RECORDED_AT_ONCE;
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

/// Installs the triggers, unless exactly these exist. Whenever they had to be created, every entity must be
/// [recorded](record::record_all) once, since changes may have been missed.
/// Returns the current definition.
async fn install(
    db: &Database,
    entity: &EntityName,
    tables: &Tables,
) -> Result<String, CaptureError> {
    let work = async {
        let mut tx = db.snapshot().await?;
        if look(&mut tx, entity, tables).await?.is_some() {
            record::check_ids(&mut tx, entity, tables.of_root()).await?;
        }
        tx.commit().await?;
        // After waiting for another program that installs them, check what it has done.
        let mut tx = db.begin_read_committed().await?;
        if db.kind() == Kind::Postgres {
            postgres::lock(&mut tx).await?;
        }
        if let Some(plan) = look(&mut tx, entity, tables).await? {
            if db.kind() == Kind::Postgres {
                postgres::wait_at_most(&mut tx, postgres::TABLE_LOCK_TIMEOUT_MILLIS).await?;
            }
            remove(&mut tx, entity).await?;
            for statement in &plan.create {
                execute(&mut tx, statement).await?;
            }
            note(&mut tx, entity, &plan.create.join("\n")).await?;
            record::begin(&mut tx, entity).await?;
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
