//! What an error of a database says: whether it passes by itself, and whether a new connection helps.

use std::error::Error;

use sqlx::{migrate::MigrateError, postgres::PgDatabaseError};

use crate::BoxError;

/// An error of database work, and what it says of the connection that the work was done on.
pub trait WorkError {
    /// The database's error behind this one, if there is one.
    fn database_error(&self) -> Option<&sqlx::Error>;

    /// Whether the connection may be to blame, so that it should not be used again.
    fn doubts_session(&self) -> bool {
        self.database_error().is_some_and(doubts_session)
    }

    /// Whether the database has refused the work, and so not done it, and the connection may be to blame.
    fn refuses_session(&self) -> bool {
        let error = self.database_error();
        error
            .is_some_and(|error| matches!(error, sqlx::Error::Database(_)) && doubts_session(error))
    }
}

impl WorkError for sqlx::Error {
    fn database_error(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

impl WorkError for BoxError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        database_error(&**self)
    }
}

impl WorkError for MigrateError {
    fn database_error(&self) -> Option<&sqlx::Error> {
        database_error(self)
    }
}

/// Whether the same work may succeed when it is simply tried again: the lock is taken, the
/// database is gone or full, a transaction lost a race. The opposite is an error of the work itself.
pub fn is_retryable(error: &(dyn Error + 'static)) -> bool {
    database_error(error).is_some_and(is_retryable_sqlx)
}

/// Whether a transaction only met another one: a deadlock, a serialization failure, a lock that was
/// not to be had in time. Nothing is wrong with the database, and the same work at once will do.
pub fn is_conflict(error: &(dyn Error + 'static)) -> bool {
    code(error).is_some_and(|code| is_conflict_code(&code))
}

/// Whether what is in a SQLite file is no database any more: CORRUPT 11, NOTADB 26.
pub(super) fn is_damage(error: &(dyn Error + 'static)) -> bool {
    sqlite_code(error).is_some_and(|code| matches!(code, 11 | 26))
}

/// Whether a server that cannot be had just now may be there in a moment: it is not reached, is starting, has
/// no connection left, or is a standby that is about to take over.
pub(super) fn may_come(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| matches!(&*code, "57P03" | "53300"))
        }
        _ => false,
    }
}

/// Whether somebody else has the SQLite file for a moment: BUSY 5, LOCKED 6.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    sqlite_code(error).is_some_and(|code| matches!(code, 5 | 6))
}

fn database_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a sqlx::Error> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

/// SQLite codes are numbers, PostgreSQL's have five characters and may be numbers too.
fn code(error: &(dyn Error + 'static)) -> Option<String> {
    match database_error(error)? {
        sqlx::Error::Database(error) => error.code().map(Into::into),
        _ => None,
    }
}

/// The low byte is the primary code.
fn sqlite_code(error: &(dyn Error + 'static)) -> Option<i32> {
    let code = code(error).filter(|code| code.len() != 5)?;
    code.parse().ok().map(|code: i32| code & 0xff)
}

fn is_conflict_code(code: &str) -> bool {
    match code.len() {
        5 => code.starts_with("40") || code == "55P03",
        // BUSY and LOCKED.
        _ => code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6)),
    }
}

fn is_retryable_sqlx(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => {
            is_stale_plan(error) || database.code().is_some_and(|code| is_retryable_code(&code))
        }
        _ => false,
    }
}

fn is_retryable_code(code: &str) -> bool {
    if code.len() == 5 {
        let class = &code[..2];
        // 08 connection, 26 a prepared statement that the session no longer has, 40 rollback (deadlock,
        // serialization), 53 resources (disk full, too many connections), 57 operator (shutdown), 58
        // system; 55P03 lock timeout; 25006 a server that is read-only just now (failover); 25P02 a
        // transaction that somebody left; 25P03 we stood still inside a transaction; 42P05 a prepared
        // statement that another session left.
        return matches!(class, "08" | "26" | "40" | "53" | "57" | "58")
            || matches!(code, "55P03" | "25006" | "25P02" | "25P03" | "42P05");
    }
    // The low byte is the primary code: BUSY 5, LOCKED 6, READONLY 8, INTERRUPT 9, IOERR 10,
    // FULL 13, CANTOPEN 14, PROTOCOL 15.
    code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 9 | 10 | 13 | 14 | 15))
}

fn doubts_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_doubtful_code(&code)),
        _ => false,
    }
}

/// What a session has of its own, and a new one may have otherwise. That an error is the statement's own
/// fault cannot always be told; then a few connections are made anew for nothing.
fn is_doubtful_code(code: &str) -> bool {
    if code.len() == 5 {
        // 08 connection, 0A cached plans, 25 a transaction's state (read-only, left open), 26 prepared
        // statements, 3F and 42 names, which follow from its search path and its role, 57P the server's
        // end, XX what it has cached of objects that are gone.
        return matches!(&code[..2], "08" | "0A" | "25" | "26" | "3F" | "42" | "XX")
            || code.starts_with("57P");
    }
    // READONLY 8: a file that could not be written to when it was opened. IOERR 10, CANTOPEN 14 and
    // PROTOCOL 15: its handle on the files.
    code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 8 | 10 | 14 | 15))
}

/// PostgreSQL's "cached plan must not change result type": a column has another type since the session
/// prepared its statement. Its code means all that is not supported, and its text may be translated.
fn is_stale_plan(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|error| error.routine() == Some("RevalidateCachedQuery"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_databases_are_told_apart() {
        for code in [
            "5", "517", "13", "266", "40001", "40P01", "53100", "57P01", "08006", "55P03", "25P03",
            "26000", "42P05", "25006",
        ] {
            assert!(is_retryable_code(code), "{code}");
        }
        for code in ["1", "19", "1555", "2067", "23505", "42601", "22P02", "0A000", "42P01"] {
            assert!(!is_retryable_code(code), "{code}");
        }
    }

    #[test]
    fn a_conflict_is_a_retryable_error_of_a_healthy_database() {
        for code in ["40001", "40P01", "55P03", "5", "517", "6"] {
            assert!(is_conflict_code(code) && is_retryable_code(code), "{code}");
            assert!(!is_doubtful_code(code), "its connection is as good as another: {code}");
        }
        for code in ["53100", "57P01", "08006", "13", "10", "23505", "1"] {
            assert!(!is_conflict_code(code), "{code}");
        }
    }

    #[test]
    fn what_a_new_session_may_have_otherwise_is_told_from_what_it_has_too() {
        for code in
            ["0A000", "25006", "26000", "42P05", "42P01", "3F000", "57P01", "XX000", "8", "1032"]
        {
            assert!(is_doubtful_code(code), "{code}");
        }
        for code in ["23505", "22P02", "57014", "53300", "40001", "19", "13", "11", "5"] {
            assert!(!is_doubtful_code(code), "{code}");
        }
    }
}
