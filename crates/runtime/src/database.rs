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
mod pools;
mod row;

use std::{future::Future, sync::Once};

use sqlx::{Any, AnyPool, Transaction, migrate::MigrateError};

pub use driver::{Driver, Stepper};
pub use error::{is_conflict, is_retryable};
pub use migration::Migration;
pub use pools::{LOCK_TIMEOUT, POSTGRES_READERS, POSTGRES_WRITERS};
pub use row::Field;

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

/// Why a database cannot be opened or migrated.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one of the two kinds. What follows its scheme may hold a password, and is not
    /// repeated.
    #[error("DATABASE_URL must begin with sqlite: or postgres:, not {0:?}")]
    Url(String),
    /// The database refused.
    #[error("DATABASE_URL: cannot open the database")]
    Connect(#[source] sqlx::Error),
    /// A migration failed.
    #[error("DATABASE_URL: cannot migrate the tables of {component}")]
    Migrate {
        /// Whose tables.
        component: &'static str,
        /// What the database said.
        #[source]
        source: MigrateError,
    },
}

/// An open database. Cloning is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Database {
    kind: Kind,
    writer: AnyPool,
    reader: AnyPool,
    driver: Driver,
}

impl Database {
    /// Opens (SQLite: creates if missing) the database at `url`: `sqlite:path/to/file.db`,
    /// `sqlite::memory:` or `postgres://…`.
    pub async fn open(url: &str, durability: Durability) -> Result<Self, OpenError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let (kind, opened) = match url.split(':').next().unwrap_or_default() {
            "sqlite" => (Kind::Sqlite, pools::sqlite(url, durability).await),
            "postgres" | "postgresql" => (Kind::Postgres, pools::postgres(url).await),
            scheme => return Err(OpenError::Url(scheme.chars().take(20).collect())),
        };
        let (writer, reader) = opened.map_err(OpenError::Connect)?;
        Ok(Self { kind, writer, reader, driver: Driver::default() })
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

    /// Runs a unit of database work the way this handle's [`Driver`] says. All of the kit's and
    /// the publisher's database work goes through here, an author's `apply` included; the work
    /// must not wait for anything but the database.
    pub async fn run<F>(&self, work: F) -> F::Output
    where
        F: Future + Send,
        F::Output: Send,
    {
        match &self.driver {
            Driver::Awaited => work.await,
            Driver::Stepped(stepper) => driver::step(&**stepper, work).await,
        }
    }

    /// Brings a component's tables up to date. Every component keeps its own history, so that a
    /// service's tables, the kit's and the publisher's can share a database.
    pub async fn migrate(
        &self,
        component: &'static str,
        migrations: &[Migration],
    ) -> Result<(), OpenError> {
        let migrated = self.run(migration::run(self, component, migrations)).await;
        migrated.map_err(|source| OpenError::Migrate { component, source })
    }

    /// Closes every connection, SQLite's write-ahead log folded in.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIGRATIONS: &[Migration] = &[Migration {
        number: 1,
        title: "things",
        sqlite: "CREATE TABLE thing (id TEXT PRIMARY KEY, n BIGINT NOT NULL)",
        postgres: "CREATE TABLE thing (id TEXT COLLATE \"C\" PRIMARY KEY, n BIGINT NOT NULL)",
    }];

    #[tokio::test]
    async fn a_file_is_created_migrated_twice_and_keeps_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("a.db").display());
        for expected in 1..=2 {
            let db = Database::open(&url, Durability::Full).await.unwrap();
            db.migrate("test", MIGRATIONS).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            let insert = "INSERT INTO thing VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = thing.n + 1 RETURNING n";
            let (n,): (i64,) = sqlx::query_as(insert).bind("a").fetch_one(&mut *tx).await.unwrap();
            assert_eq!(n, expected);
            tx.commit().await.unwrap();
            db.close().await;
        }
    }

    #[tokio::test]
    async fn a_url_of_another_database_is_refused_by_name() {
        let error = Database::open("mysql://x", Durability::Full).await.unwrap_err();
        assert!(error.to_string().contains("DATABASE_URL"));
    }

    #[tokio::test]
    async fn a_dropped_transaction_leaves_nothing() {
        let db = Database::open("sqlite::memory:", Durability::Full).await.unwrap();
        db.migrate("test", MIGRATIONS).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO thing VALUES ('a', 1)").execute(&mut *tx).await.unwrap();
        drop(tx);
        let (n,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM thing").fetch_one(db.reader()).await.unwrap();
        assert_eq!(n, 0);
    }

    /// As on an I/O error, which is harder to come by: `OR ROLLBACK` ends the transaction just so.
    #[tokio::test]
    async fn a_transaction_that_sqlite_ended_by_itself_stands_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("a.db").display());
        let db = Database::open(&url, Durability::Full).await.unwrap();
        db.migrate("test", MIGRATIONS).await.unwrap();
        let insert = "INSERT OR ROLLBACK INTO thing VALUES ('a', 1)";
        db.write(sqlx::query(insert)).await.unwrap();
        for _ in 0..3 {
            db.write(sqlx::query(insert)).await.unwrap_err();
            let update = "UPDATE thing SET n = n + 1";
            assert_eq!(db.write(sqlx::query(update)).await.unwrap(), 1);
        }
    }

    /// What the simulation of a service's real SQL stands on: with the clock paused and the driver
    /// stepped, database work takes no virtual time at all, however long it really takes.
    #[tokio::test(start_paused = true)]
    async fn stepped_work_takes_no_virtual_time() {
        let build = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build().unwrap()
        };
        let helper = std::thread::spawn(build).join().unwrap();
        let opened = Database::open("sqlite::memory:", Durability::Refillable);
        let opened = std::thread::scope(|s| s.spawn(|| helper.block_on(opened)).join().unwrap());
        let db = opened
            .unwrap()
            .with_driver(Driver::Stepped(std::sync::Arc::new(helper.handle().clone())));
        db.migrate("test", MIGRATIONS).await.unwrap();
        let start = tokio::time::Instant::now();
        for n in 0..50 {
            let work = async {
                let mut tx = db.begin().await?;
                let insert = sqlx::query("INSERT INTO thing VALUES ($1, 1)").bind(n.to_string());
                insert.execute(&mut *tx).await?;
                tx.commit().await
            };
            db.run(work).await.unwrap();
        }
        let count = async {
            let count = "SELECT count(*) FROM thing";
            sqlx::query_as::<_, (i64,)>(count).fetch_one(db.reader()).await
        };
        assert_eq!(db.run(count).await.unwrap(), (50i64,));
        assert_eq!(start.elapsed(), Duration::ZERO);
        helper.shutdown_background();
    }
}
