//! An empty database for one test, of the kind that the run is for.

use std::{
    env,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use nudge_runtime::{
    Database,
    database::{Durability, Kind},
};
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tempfile::TempDir;
use tokio::time::timeout;

use super::Postgres;

/// Names the kind: `sqlite`, which is the default, or `postgres`.
pub const SETTING: &str = "NUDGE_TEST_DATABASE";

/// Longest wait for a server to drop a database.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

/// The kind that this run of the tests is for.
pub fn kind() -> Kind {
    match env::var(SETTING).as_deref() {
        Err(_) | Ok("" | "sqlite") => Kind::Sqlite,
        Ok("postgres") => Kind::Postgres,
        Ok(other) => panic!("{SETTING} is sqlite or postgres, not {other:?}"),
    }
}

/// See the module documentation. Removed when dropped.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(TempDir),
    Server { server: Arc<Postgres>, name: String },
}

/// A copy of a database.
#[derive(Debug)]
pub struct Backup(Place);

impl TestDatabase {
    /// A database of the kind that [`SETTING`] names.
    pub async fn new() -> Self {
        Self::of(kind()).await
    }

    /// A database of this kind.
    pub async fn of(kind: Kind) -> Self {
        super::logs();
        match kind {
            Kind::Sqlite => Self::in_file(),
            Kind::Postgres => Self::on(&Postgres::shared().await).await,
        }
    }

    fn in_file() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Other programs may open it first, and expect a database.
        std::fs::write(file(&dir), "").expect("the file is made");
        let url = format!("sqlite:{}", file(&dir).display());
        Self { url, place: Place::File(dir) }
    }

    /// A database on this server.
    pub async fn on(server: &Arc<Postgres>) -> Self {
        let place = Place::made_on(server, "").await;
        let Place::Server { name, .. } = &place else {
            unreachable!("it was made on a server");
        };
        Self { url: server.database_url(name), place }
    }

    /// Its `DATABASE_URL`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self.place {
            Place::File(_) => Kind::Sqlite,
            Place::Server { .. } => Kind::Postgres,
        }
    }

    /// Opens it like a subscriber.
    pub async fn open(&self) -> Database {
        Database::open(&self.url, Durability::Refillable).await.expect("the database opens")
    }

    /// Opens it like an owner. On SQLite it does not wait for the disk, which no test takes away.
    pub async fn open_as_owner(&self) -> Database {
        let durability = match self.kind() {
            Kind::Sqlite => Durability::Refillable,
            Kind::Postgres => Durability::Full,
        };
        Database::open(&self.url, durability).await.expect("the database opens")
    }

    /// Another database with the same contents, made with `cp`, or `pg_dump` and `psql`. Nobody may have this one
    /// open.
    pub async fn duplicate(&self) -> Self {
        let Backup(place) = self.back_up().await;
        let url = match &place {
            Place::File(dir) => format!("sqlite:{}", file(dir).display()),
            Place::Server { server, name } => server.database_url(name),
        };
        Self { url, place }
    }

    /// Copies its contents. Nobody may have it open.
    pub async fn back_up(&self) -> Backup {
        match &self.place {
            Place::File(dir) => {
                let copy = tempfile::tempdir().expect("a temporary directory");
                std::fs::copy(file(dir), file(&copy)).expect("the file is copied");
                Backup(Place::File(copy))
            }
            Place::Server { server, name } => {
                Backup(Place::made_on(server, &format!("TEMPLATE {name}")).await)
            }
        }
    }

    /// Restores everything from a copy. Nobody may have it open.
    pub async fn put_back(&self, backup: &Backup) {
        self.lose().await;
        match (&self.place, &backup.0) {
            (Place::File(dir), Place::File(copy)) => {
                std::fs::copy(file(copy), file(dir)).expect("the file is copied");
            }
            (Place::Server { server, name }, Place::Server { name: copy, .. }) => {
                execute(server.url(), &format!("DROP DATABASE {name}")).await;
                execute(server.url(), &format!("CREATE DATABASE {name} TEMPLATE {copy}")).await;
            }
            _ => panic!("a backup of another kind"),
        }
    }

    /// Loses everything in it. Nobody may have it open.
    pub async fn lose(&self) {
        match &self.place {
            Place::File(dir) => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut path = file(dir).into_os_string();
                    path.push(suffix);
                    // Missing files are already lost.
                    let _ = std::fs::remove_file(path);
                }
            }
            Place::Server { server, name } => {
                execute(server.url(), &format!("DROP DATABASE {name}")).await;
                execute(server.url(), &format!("CREATE DATABASE {name}")).await;
            }
        }
    }
}

impl Place {
    async fn made_on(server: &Arc<Postgres>, options: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        execute(server.url(), &format!("CREATE DATABASE {name} {options}")).await;
        Self::Server { server: server.clone(), name }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self::Server { server, name } = self else {
            return;
        };
        let (url, sql) = (server.url(), format!("DROP DATABASE {name} WITH (FORCE)"));
        // With thousands of tests on one server, leftovers would fill the disk. If the
        // server is gone by now, so is the database; a failed test may have left it frozen.
        std::thread::scope(|scope| {
            let work = || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().expect("a runtime");
                let dropped = async { timeout(DROP_TIMEOUT, try_execute(url, &sql)).await };
                let _ = runtime.block_on(dropped);
            };
            let _ = scope.spawn(work).join();
        });
    }
}

/// Runs statements on a database with their own connection, like another program.
pub async fn execute(url: &str, sql: &str) {
    try_execute(url, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// [`execute`], which may fail.
pub async fn try_execute(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("test.db")
}
