//! The connection pools for each kind of database, and the settings of each session.

use std::{io::ErrorKind, time::Duration};

use parking_lot::Mutex;
use sqlx::{AnyConnection, AnyPool, Connection, Executor, any::AnyPoolOptions};

use super::{
    Durability,
    error::{is_busy, may_come},
    session::Sessions,
};

/// Longest wait for a lock before the transaction fails. Somebody who edits by
/// hand may keep one for a long time, and each transaction that waits for it occupies a connection.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that PostgreSQL keeps a transaction open between two statements. A program that
/// freezes inside one would otherwise keep its row locks for as long, and block its replicas. No
/// transaction here waits for anything but the database.
const TRANSACTION_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a free connection on SQLite, where writers queue for a single one.
const SQLITE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// The same on PostgreSQL, where it is also the longest wait for a server that is away.
pub const POSTGRES_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between attempts to open a database that may be available in a moment.
const OPEN_INTERVAL: Duration = Duration::from_millis(50);
/// A connection to PostgreSQL that was idle for longer is tested before it is used: the server may
/// have been restarted meanwhile. A ping before each use would cost a round trip.
const TRY_AFTER_IDLE: Duration = Duration::from_secs(1);
const SQLITE_READERS: u32 = 4;
/// Most kilobytes of pages that SQLite's writing connection keeps: the inner pages of a few indexes over a million rows.
const SQLITE_WRITER_CACHE_KB: u32 = 16_000;
/// The same of each reading connection. What it lacks is mostly in the operating system's memory, which all of them share.
const SQLITE_READER_CACHE_KB: u32 = 4_000;
/// Pages of 4 KB in SQLite's write-ahead log before they are copied into the database file: 32 MB. While they are copied,
/// the writer waits for the disk. With SQLite's own 1,000 pages, that is after every third batch of rows with random keys,
/// and an empty subscriber fills a fifth more slowly.
const SQLITE_WAL_PAGES: u32 = 8_000;
/// Most connections of one program to PostgreSQL for writing transactions, which may have to wait for
/// each other.
pub const POSTGRES_WRITERS: u32 = 8;
/// Most connections of one program to PostgreSQL for work that waits for no writer. With those for writing they
/// count towards the server's `max_connections`.
pub const POSTGRES_READERS: u32 = 8;
/// PostgreSQL plans each statement for the tables as they are now. It would otherwise keep a plan that it made when a table was
/// all but empty, until it next collects statistics, and read 100,000 rows for each of a hundred. To plan a statement takes
/// about 0.1 ms.
///
/// Without statistics it also believes that some are worth compiling, which takes longer than all of them.
const PLANS: &str = "SET plan_cache_mode = force_custom_plan; SET jit = off";
/// Begins a transaction that reads through indexes, in their order.
pub(super) const IN_ORDER: &str = "BEGIN READ ONLY; SET LOCAL enable_bitmapscan = off; \
     SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";
/// A standby lags behind its primary, and its answers would be taken for the newest state.
const NO_STANDBY: &str = "DO $$ BEGIN IF pg_is_in_recovery() THEN \
     RAISE 'the server is a standby, but a primary is needed' USING ERRCODE = '57P03'; \
     END IF; END $$;";

/// The connections that write, and those that read.
type Pools = (AnyPool, AnyPool);

pub(super) async fn sqlite(
    url: &str,
    durability: Durability,
    sessions: &Sessions,
) -> Result<Pools, sqlx::Error> {
    let memory = url.contains(":memory:");
    let url = match url.contains('?') || memory {
        true => url.to_owned(),
        false => format!("{url}?mode=rwc"),
    };
    let pragmas = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {}; PRAGMA busy_timeout = {}; \
         PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = {SQLITE_WAL_PAGES};",
        if durability == Durability::Full { "FULL" } else { "NORMAL" },
        LOCK_TIMEOUT.as_millis(),
    );
    let options = |connections, cache_kb: u32| {
        let settings = format!("{pragmas} PRAGMA cache_size = -{cache_kb};");
        let options = options(connections, SQLITE_ACQUIRE_TIMEOUT, settings);
        let sessions = sessions.clone();
        // SQLite ends a transaction by itself if a file cannot be written. sqlx does not notice,
        // and would refuse every further transaction on that connection. An in-memory database
        // would vanish with its connection.
        options.before_acquire(move |connection, known| {
            let trusted = memory || sessions.trusts(known.age);
            let usable = trusted && !connection.is_in_transaction();
            Box::pin(async move { Ok(usable) })
        })
    };
    if memory {
        // It belongs to its single connection, which readers share.
        let both = options(1, SQLITE_WRITER_CACHE_KB).connect(&url).await?;
        return Ok((both.clone(), both));
    }
    // Programs that start together conflict when they set the journal mode.
    try_open(&url, &pragmas, SQLITE_ACQUIRE_TIMEOUT, |error, _| is_busy(error)).await?;
    let writer = options(1, SQLITE_WRITER_CACHE_KB).connect_lazy(&url)?;
    Ok((writer, options(SQLITE_READERS, SQLITE_READER_CACHE_KB).connect_lazy(&url)?))
}

pub(super) async fn postgres(
    url: &str,
    durability: Durability,
    sessions: &Sessions,
) -> Result<Pools, sqlx::Error> {
    let commits = match durability {
        Durability::Full => "",
        Durability::Refillable => "SET synchronous_commit = off;",
    };
    let settings = format!(
        "SET idle_in_transaction_session_timeout = {}; SET lock_timeout = {}; {PLANS}; {commits} {NO_STANDBY}",
        TRANSACTION_IDLE_TIMEOUT.as_millis(),
        LOCK_TIMEOUT.as_millis(),
    );
    let options = |connections, settings| {
        let options = options(connections, POSTGRES_ACQUIRE_TIMEOUT, settings);
        let sessions = sessions.clone();
        options.before_acquire(move |connection, known| {
            let trusted = sessions.trusts(known.age);
            Box::pin(async move {
                if trusted && known.idle_for > TRY_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(trusted)
            })
        })
    };
    try_open(url, &settings, POSTGRES_ACQUIRE_TIMEOUT, |error, attempt| {
        let again = may_come(error);
        if again && attempt == 1 {
            let seconds = POSTGRES_ACQUIRE_TIMEOUT.as_secs();
            tracing::warn!(%error, "DATABASE_URL: waiting up to {seconds} s for PostgreSQL");
        }
        again
    })
    .await?;
    let writer = options(POSTGRES_WRITERS, settings.clone()).connect_lazy(url)?;
    // Reads here are single statements or snapshots, and writes skip locked rows. At a
    // stricter level, which somebody may have set for the whole database, they would sometimes fail, and
    // make writers fail.
    let level = "SET default_transaction_isolation = 'read committed'";
    let reader = options(POSTGRES_READERS, format!("{settings} {level}")).connect_lazy(url)?;
    Ok((writer, reader))
}

/// Opens one connection and closes it: a pool would keep retrying and hide what is wrong. While
/// `again` accepts an error and its attempt, it is retried, for at most `patience`.
async fn try_open(
    url: &str,
    settings: &str,
    patience: Duration,
    again: impl Fn(&sqlx::Error, u32) -> bool,
) -> Result<(), sqlx::Error> {
    let why = Mutex::new(sqlx::Error::Io(ErrorKind::TimedOut.into()));
    let trying = async {
        for attempt in 1.. {
            match open_once(url, settings).await {
                Err(error) if again(&error, attempt) => *why.lock() = error,
                done => return done,
            }
            tokio::time::sleep(OPEN_INTERVAL).await;
        }
        Ok(())
    };
    let tried = tokio::time::timeout(patience, trying).await;
    tried.unwrap_or_else(|_| Err(why.into_inner()))
}

async fn open_once(url: &str, settings: &str) -> Result<(), sqlx::Error> {
    let mut connection = AnyConnection::connect(url).await?;
    connection.execute(sqlx::AssertSqlSafe(settings.to_owned())).await?;
    connection.close().await
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
