//! The connections to each kind of database, and what each session is told at its start.

use std::time::Duration;

use sqlx::{AnyPool, Connection, Executor, any::AnyPoolOptions};

use super::Durability;

/// Longest wait for a lock that somebody else holds, before the transaction is given up. Whoever edits by
/// hand may keep one for as long as he likes, and each that waits for it keeps a connection.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that PostgreSQL keeps a transaction open between two statements. A program that
/// stands still inside of one would else keep its row locks for as long, and stop its replicas. No
/// transaction here waits for anything but the database.
const TRANSACTION_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a free connection of the pool on SQLite, where writers queue for the one there is.
const SQLITE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same on PostgreSQL, where it is also the longest wait for a server that is away.
const POSTGRES_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection to PostgreSQL that was idle for longer is tried before it is used: the server may
/// have been started again meanwhile. A ping before each use would cost a round trip.
const TRY_AFTER_IDLE: Duration = Duration::from_secs(1);
const SQLITE_READERS: u32 = 4;
/// Most connections of one program to PostgreSQL for transactions that write, and may have to wait for
/// each other.
pub const POSTGRES_WRITERS: u32 = 8;
/// Most connections of one program to PostgreSQL for what waits for no writer. With those for writing they
/// count towards the server's `max_connections`.
pub const POSTGRES_READERS: u32 = 8;

/// The connections that write, and those that read.
type Pools = (AnyPool, AnyPool);

pub(super) async fn sqlite(url: &str, durability: Durability) -> Result<Pools, sqlx::Error> {
    let memory = url.contains(":memory:");
    let url = match url.contains('?') || memory {
        true => url.to_owned(),
        false => format!("{url}?mode=rwc"),
    };
    let pragmas = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {}; PRAGMA busy_timeout = {}; \
         PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16000;",
        if durability == Durability::Full { "FULL" } else { "NORMAL" },
        LOCK_TIMEOUT.as_millis(),
    );
    let options = |connections| {
        let options = options(connections, SQLITE_ACQUIRE_TIMEOUT, pragmas.clone());
        // SQLite ends a transaction by itself when a file cannot be written. sqlx is not told,
        // and would refuse every further transaction on that connection.
        options.before_acquire(|connection, _| {
            let usable = !connection.is_in_transaction();
            Box::pin(async move { Ok(usable) })
        })
    };
    let writer = options(1).connect(&url).await?;
    // A database in memory belongs to its one connection: readers share it.
    let reader =
        if memory { writer.clone() } else { options(SQLITE_READERS).connect(&url).await? };
    Ok((writer, reader))
}

pub(super) async fn postgres(url: &str) -> Result<Pools, sqlx::Error> {
    let limits = format!(
        "SET idle_in_transaction_session_timeout = {}; SET lock_timeout = {};",
        TRANSACTION_IDLE_TIMEOUT.as_millis(),
        LOCK_TIMEOUT.as_millis(),
    );
    let options = |connections, settings| {
        let options = options(connections, POSTGRES_ACQUIRE_TIMEOUT, settings);
        options.before_acquire(|connection, known| {
            Box::pin(async move {
                if known.idle_for > TRY_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
    };
    let writer = options(POSTGRES_WRITERS, limits.clone()).connect(url).await?;
    // What is read here is one statement or a snapshot, and what is written skips who is in the way: at a
    // stricter level, which somebody may have set for the whole database, it would fail now and then, and
    // make writers fail.
    let level = "SET default_transaction_isolation = 'read committed'";
    let reader = options(POSTGRES_READERS, format!("{limits} {level}")).connect(url).await?;
    Ok((writer, reader))
}

/// A pool that runs these settings on each new connection.
fn options(connections: u32, acquire_timeout: Duration, settings: String) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        // A broken connection shows as a retryable error.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            let run = sqlx::AssertSqlSafe(settings.clone());
            Box::pin(async move { connection.execute(run).await.map(drop) })
        })
}
