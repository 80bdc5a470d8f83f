//! One handle for SQLite (embedded, the default) and PostgreSQL (production).
//!
//! SQL runs through sqlx's `Any` driver, so that the same text and the same transaction type serve
//! both databases; where they differ, ask [`Database::kind`]. Columns are `TEXT`, `BIGINT` and
//! `BLOB`/`BYTEA`: the types that mean the same on both.
//!
//! Reading has connections of its own. On SQLite there is one that writes: writers queue in this process
//! instead of meeting `SQLITE_BUSY`, and readers (write-ahead log) never wait for them. On PostgreSQL
//! there are several: however many of them wait for a row that somebody keeps locked, reading goes on.

mod driver;
mod error;
mod migration;
mod open_error;
mod place;
mod pools;
mod row;
mod session;

use std::{
    future::Future,
    sync::{Arc, Once},
};

use sqlx::{Any, AnyPool, Transaction};

pub use driver::{Driver, Stepper};
pub use error::{Blame, WorkError, blame, is_conflict, is_retryable};
pub use migration::{Before, Migration};
pub use open_error::OpenError;
pub use pools::{LOCK_TIMEOUT, POSTGRES_ACQUIRE_TIMEOUT, POSTGRES_READERS, POSTGRES_WRITERS};
pub use row::{Field, Text};
use session::Sessions;

/// A transaction. Dropping it without commit rolls it back.
///
/// Run statements on it as with any sqlx transaction: `sqlx::query(…).execute(&mut **tx)`.
pub type Tx = Transaction<'static, Any>;

/// A statement with its parameters.
type Query<'q> = sqlx::query::Query<'q, Any, sqlx::any::AnyArguments>;

/// Which database stands behind a [`Database`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SQLite, embedded.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Kind {
    /// The kind that a transaction runs on, for SQL that differs.
    pub fn of(tx: &Tx) -> Self {
        match tx.backend_name() {
            <sqlx::Sqlite as sqlx::Database>::NAME => Self::Sqlite,
            _ => Self::Postgres,
        }
    }
}

/// What a power loss may take from a SQLite database. (PostgreSQL decides by its own settings.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is on disk before it is answered. For owners: their data exists nowhere else.
    Full,
    /// The last commits may be lost together, never torn. For read models: they refill from their
    /// recorded position (see the subscriber kit's intake).
    Refillable,
}

/// An open database. Cloning is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Database {
    kind: Kind,
    writer: AnyPool,
    reader: AnyPool,
    driver: Driver,
    sessions: Sessions,
    /// Where it is, for people.
    place: Arc<str>,
    durability: Durability,
}

impl Database {
    /// Opens (SQLite: creates if missing) the database at `url`: `sqlite:path/to/file.db`,
    /// `sqlite::memory:` or `postgres://…`.
    ///
    /// # Errors
    /// At once, when trying again would not help. A PostgreSQL server that cannot be reached or is just
    /// starting is waited for, for [`POSTGRES_ACQUIRE_TIMEOUT`]; the log says so at once.
    pub async fn open(url: &str, durability: Durability) -> Result<Self, OpenError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let sessions = Sessions::default();
        let (kind, opened) = match url.split(':').next().unwrap_or_default() {
            "sqlite" => (Kind::Sqlite, pools::sqlite(url, durability, &sessions).await),
            "postgres" | "postgresql" => (Kind::Postgres, pools::postgres(url, &sessions).await),
            scheme => return Err(OpenError::Url(scheme.chars().take(20).collect())),
        };
        let place = open_error::place(url, kind);
        let (writer, reader) =
            opened.map_err(|error| match OpenError::damaged(&place, durability, error) {
                Ok(damaged) => damaged,
                Err(source) => OpenError::Connect { place: place.clone(), source },
            })?;
        let place = place.into();
        Ok(Self { kind, writer, reader, driver: Driver::default(), sessions, place, durability })
    }

    /// The same database, its futures driven as `driver` says. For simulations.
    #[must_use]
    pub fn with_driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// Which database this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Picks the text for this database.
    pub fn pick<T>(&self, sqlite: T, postgres: T) -> T {
        match self.kind {
            Kind::Sqlite => sqlite,
            Kind::Postgres => postgres,
        }
    }

    /// Connections for reading outside a transaction.
    pub fn reader(&self) -> &AnyPool {
        &self.reader
    }

    /// Begins a writing transaction. On SQLite it holds the write lock from the start, so it
    /// cannot fail half way because another writer came first. On PostgreSQL it is as strict as the
    /// database says (`default_transaction_isolation`).
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        self.begin_writing(self.pick("BEGIN IMMEDIATE", "BEGIN")).await
    }

    /// [`begin`](Self::begin) at READ COMMITTED, whatever the database says: for those who lock what they
    /// write before they read it. At a stricter level, whoever waits for such a lock fails once it is his.
    pub async fn begin_read_committed(&self) -> Result<Tx, sqlx::Error> {
        self.begin_writing(self.pick("BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL READ COMMITTED"))
            .await
    }

    async fn begin_writing(&self, begin: &'static str) -> Result<Tx, sqlx::Error> {
        let tx = self.begin_on(&self.writer, begin).await?;
        self.driver.in_transaction().await;
        Ok(tx)
    }

    /// Begins a writing transaction that waits for no writer: each statement in it must skip rows that
    /// others have locked (`SKIP LOCKED`). On PostgreSQL it takes one of the connections for reading,
    /// so that it goes on while all others wait for such a row.
    pub async fn begin_skipping_locked(&self) -> Result<Tx, sqlx::Error> {
        match self.kind {
            Kind::Sqlite => self.begin().await,
            Kind::Postgres => self.begin_on(&self.reader, "BEGIN").await,
        }
    }

    /// Begins a reading transaction: every statement in it sees one and the same snapshot.
    pub async fn snapshot(&self) -> Result<Tx, sqlx::Error> {
        let begin = self.pick("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        self.begin_on(&self.reader, begin).await
    }

    /// On PostgreSQL, a `BEGIN` that was sent is always waited for, also when the caller gives up. sqlx
    /// counts a transaction once it is told of it; before that, it would give the connection back to
    /// the pool with a transaction open in which whoever comes next reads and writes unawares.
    async fn begin_on(&self, pool: &AnyPool, begin: &'static str) -> Result<Tx, sqlx::Error> {
        if self.kind == Kind::Sqlite {
            // sqlx does so by itself.
            return pool.begin_with(begin).await;
        }
        let pool = pool.clone();
        // When nobody takes the transaction, it is dropped there, and rolled back.
        let begun = tokio::spawn(async move { pool.begin_with(begin).await });
        begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    /// Runs one statement in a transaction of its own. Returns how many rows it touched.
    pub async fn write(&self, query: Query<'_>) -> Result<u64, sqlx::Error> {
        self.write_in(self.begin(), query).await
    }

    /// [`write`](Self::write) in a transaction of [`begin_skipping_locked`](Self::begin_skipping_locked).
    pub async fn write_skipping_locked(&self, query: Query<'_>) -> Result<u64, sqlx::Error> {
        self.write_in(self.begin_skipping_locked(), query).await
    }

    async fn write_in(
        &self,
        begin: impl Future<Output = Result<Tx, sqlx::Error>> + Send,
        query: Query<'_>,
    ) -> Result<u64, sqlx::Error> {
        let work = async {
            let mut tx = begin.await?;
            let done = query.execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        };
        self.run(work).await
    }

    /// Runs a unit of database work the way this handle's [`Driver`] says. All database work goes through
    /// here, an author's `apply` included; the work must not wait for anything but the database.
    ///
    /// When it fails as work does on a connection that only a new one replaces, all connections that are
    /// open now are closed instead of being used again: see [`WorkError::doubts_session`].
    pub async fn run<F, T, E>(&self, work: F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: WorkError + Send,
    {
        let done = match &self.driver {
            Driver::Awaited => work.await,
            Driver::Stepped(stepper) => driver::step(&**stepper, work).await,
        };
        if done.as_ref().is_err_and(E::doubts_session) {
            self.sessions.doubt();
        }
        done
    }

    /// [`run`](Self::run), and once more on a new connection when the database refused the work because of
    /// the one it was on. For reads and writes alike: what the database has refused is not done.
    pub async fn run_afresh<F, T, E>(&self, work: impl Fn() -> F + Send + Sync) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: WorkError + Send,
    {
        match self.run(work()).await {
            Err(error) if error.refuses_session() => self.run(work()).await,
            done => done,
        }
    }

    /// Brings a component's tables up to date. Every component keeps its own history, so that a
    /// service's tables, the kit's and the publisher's can share a database.
    pub async fn migrate(
        &self,
        component: &'static str,
        migrations: &[Migration],
    ) -> Result<(), OpenError> {
        self.migrate_after(component, migrations, None).await
    }

    /// [`migrate`](Self::migrate), and first, when there is anything to migrate, what stands in its way: on
    /// SQLite in the transaction of the migrations.
    pub async fn migrate_after(
        &self,
        component: &'static str,
        migrations: &[Migration],
        before: Option<Before>,
    ) -> Result<(), OpenError> {
        let migrated = self.run(migration::run(self, component, migrations, before)).await;
        migrated.map_err(|error| match OpenError::damaged(&self.place, self.durability, error) {
            Ok(damaged) => damaged,
            Err(source) => OpenError::Migrate { component, source },
        })
    }

    /// Closes every connection, SQLite's write-ahead log folded in.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests;
