//! One handle for SQLite (embedded, the default) and PostgreSQL (production).
//!
//! SQL runs through sqlx's `Any` driver, so that the same text and the same transaction type serve
//! both databases; where they differ, ask [`Database::kind`]. Columns are `TEXT`, `BIGINT` and
//! `BLOB`/`BYTEA`: the types that mean the same on both.
//!
//! Reads have their own connections. On SQLite a single connection writes: writers queue in this process
//! instead of running into `SQLITE_BUSY`, and readers (write-ahead log) never wait for them. On PostgreSQL
//! there are several: however many of them wait for a locked row, reads continue.

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
    time::Instant,
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

/// The kind of database behind a [`Database`].
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

/// What a database may lose in a crash: of its machine, or of a PostgreSQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is on disk before it returns. For owners: their data exists nowhere else.
    Full,
    /// The last commits may be lost together, never torn, since none waits for the disk: `synchronous` is `NORMAL` on
    /// SQLite, and `synchronous_commit` is `off` on PostgreSQL, whatever the server says. For read models: they notice,
    /// and refill from their stored position (see the subscriber kit's intake).
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
    /// Its location, as text for people.
    place: Arc<str>,
    durability: Durability,
}

impl Database {
    /// Opens (SQLite: creates if missing) the database at `url`: `sqlite:path/to/file.db`,
    /// `sqlite::memory:` or `postgres://…`.
    ///
    /// # Errors
    /// At once, if retrying would not help. For a PostgreSQL server that is unreachable or just
    /// starting, it waits for [`POSTGRES_ACQUIRE_TIMEOUT`], and says so in the log.
    pub async fn open(url: &str, durability: Durability) -> Result<Self, OpenError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let sessions = Sessions::default();
        let (kind, opened) = match url.split(':').next().unwrap_or_default() {
            "sqlite" => (Kind::Sqlite, pools::sqlite(url, durability, &sessions).await),
            "postgres" | "postgresql" => {
                (Kind::Postgres, pools::postgres(url, durability, &sessions).await)
            }
            scheme => return Err(OpenError::Url(scheme.chars().take(20).collect())),
        };
        let place = open_error::place(url, kind);
        let (writer, reader) =
            opened.map_err(|error| match OpenError::damaged(&place, durability, error) {
                Ok(damaged) => damaged,
                Err(source) => OpenError::Connect { place: place.clone(), source },
            })?;
        if kind == Kind::Sqlite {
            let query = sqlx::query_as("PRAGMA encoding").fetch_one(&reader).await;
            let (encoding,): (String,) =
                query.map_err(|source| OpenError::Connect { place: place.clone(), source })?;
            if encoding != "UTF-8" {
                return Err(OpenError::Encoding { place, encoding });
            }
        }
        let place = place.into();
        Ok(Self { kind, writer, reader, driver: Driver::default(), sessions, place, durability })
    }

    /// The same database with another driver, for simulations.
    #[must_use]
    pub fn with_driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// The kind of this database.
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
    /// cannot fail halfway because another writer came first. On PostgreSQL its isolation level is the
    /// database's default (`default_transaction_isolation`).
    pub async fn begin(&self) -> Result<Tx, sqlx::Error> {
        self.begin_writing(self.pick("BEGIN IMMEDIATE", "BEGIN")).await
    }

    /// [`begin`](Self::begin) at READ COMMITTED, whatever the database's default: for code that locks rows
    /// before it reads them. At a stricter level, a transaction that waited for such a lock fails once it gets it.
    pub async fn begin_read_committed(&self) -> Result<Tx, sqlx::Error> {
        self.begin_writing(self.pick("BEGIN IMMEDIATE", "BEGIN ISOLATION LEVEL READ COMMITTED"))
            .await
    }

    async fn begin_writing(&self, begin: &'static str) -> Result<Tx, sqlx::Error> {
        let tx = self.begin_on(&self.writer, begin).await?;
        self.driver.in_transaction().await;
        Ok(tx)
    }

    /// Lets the commit of this transaction wait for the disk as the server says, even if the database is
    /// [refillable](Durability::Refillable) and on PostgreSQL. (Where SQLite may lose commits, this program ends, too.)
    pub async fn wait_for_disk(&self, tx: &mut Tx) -> Result<(), sqlx::Error> {
        if self.kind == Kind::Postgres {
            sqlx::query("SET LOCAL synchronous_commit TO DEFAULT").execute(&mut **tx).await?;
        }
        Ok(())
    }

    /// Begins a writing transaction that waits for no writer: each of its statements must skip rows that
    /// others have locked (`SKIP LOCKED`). On PostgreSQL it takes one of the connections for reading,
    /// so it can proceed while all others wait for such a row.
    pub async fn begin_skipping_locked(&self) -> Result<Tx, sqlx::Error> {
        match self.kind {
            Kind::Sqlite => self.begin().await,
            Kind::Postgres => self.begin_on(&self.reader, "BEGIN").await,
        }
    }

    /// Begins a reading transaction: all its statements see the same snapshot.
    pub async fn snapshot(&self) -> Result<Tx, sqlx::Error> {
        let begin = self.pick("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        self.begin_on(&self.reader, begin).await
    }

    /// Begins a reading transaction in which PostgreSQL goes through an index in the order of the index, for queries that end
    /// after a few rows of it. Without statistics it rather collects and sorts all rows that match: even those that
    /// are gone, of which an index remembers only after a pass in its order that they are.
    pub async fn begin_in_order(&self) -> Result<Tx, sqlx::Error> {
        self.begin_on(&self.reader, self.pick("BEGIN", pools::IN_ORDER)).await
    }

    /// On PostgreSQL, always waits for a `BEGIN` that was sent, even if the caller gives up. sqlx
    /// only knows about a transaction once it is answered; before that, it would return the connection to
    /// the pool with an open transaction, in which the next user would unknowingly read and write.
    async fn begin_on(&self, pool: &AnyPool, begin: &'static str) -> Result<Tx, sqlx::Error> {
        if self.kind == Kind::Sqlite {
            // sqlx does this by itself.
            return pool.begin_with(begin).await;
        }
        let pool = pool.clone();
        // If nobody takes the transaction, it is dropped there, and rolled back.
        let begun = tokio::spawn(async move { pool.begin_with(begin).await });
        begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }

    /// Runs one statement in its own transaction. Returns the number of affected rows.
    pub async fn write(&self, query: Query<'_>) -> Result<u64, sqlx::Error> {
        self.write_in(self.begin(), query).await
    }

    /// [`write`](Self::write) in a transaction that [waits for the disk](Self::wait_for_disk).
    pub async fn write_to_disk(&self, query: Query<'_>) -> Result<u64, sqlx::Error> {
        let begin = async {
            let mut tx = self.begin().await?;
            self.wait_for_disk(&mut tx).await?;
            Ok(tx)
        };
        self.write_in(begin, query).await
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

    /// Runs a unit of database work with this handle's [`Driver`]. All database work goes through
    /// here, including an author's `apply`; the work must not wait for anything but the database.
    ///
    /// If it fails with an error that only a new connection can fix, all connections that are
    /// open now are closed instead of being used again: see [`WorkError::doubts_session`].
    pub async fn run<F, T, E>(&self, work: F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: WorkError + Send,
    {
        let began = Instant::now();
        let done = match &self.driver {
            Driver::Awaited => work.await,
            Driver::Stepped(stepper) => driver::step(&**stepper, work).await,
        };
        if done.as_ref().is_err_and(E::doubts_session) {
            self.sessions.doubt(began);
        }
        done
    }

    /// [`run`](Self::run), and once more on a new connection if the database refused the work because of
    /// its connection. For reads and writes alike: refused work was not done. If connections were only
    /// just replaced, it waits 200 ms before it replaces them again.
    pub async fn run_afresh<F, T, E>(&self, work: impl Fn() -> F + Send + Sync) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: WorkError + Send,
    {
        let began = Instant::now();
        match self.run(work()).await {
            Err(error) if error.refuses_session() => {
                self.sessions.replaced(began).await;
                self.run(work()).await
            }
            done => done,
        }
    }

    /// Migrates a component's tables. Every component has its own history, so that a
    /// service's tables, the kit's and the publisher's can share a database.
    pub async fn migrate(
        &self,
        component: &'static str,
        migrations: &[Migration],
    ) -> Result<(), OpenError> {
        self.migrate_after(component, migrations, None).await
    }

    /// [`migrate`](Self::migrate), preceded by `before` if there is anything to migrate: on
    /// SQLite in the same transaction as the migrations.
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

    /// Closes every connection, and checkpoints SQLite's write-ahead log.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests;
