//! Classifies database errors: whether they are temporary, and whether a new connection helps.

use std::error::Error;

use sqlx::{migrate::MigrateError, postgres::PgDatabaseError};

use crate::BoxError;

/// An error of database work, and what it says about the connection that was used.
pub trait WorkError {
    /// The database's error behind this one, if there is one.
    fn database_error(&self) -> Option<&sqlx::Error>;

    /// Whether the connection may be to blame, so that it should not be used again.
    fn doubts_session(&self) -> bool {
        self.database_error().is_some_and(doubts_session)
    }

    /// Whether the database refused the work, so that it was not done, and the connection may be to blame.
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

/// Whose fault a failure of database work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The database's: it is busy, gone or full, or the transaction lost a race. The same work may succeed unchanged.
    Database,
    /// Unclear from the error alone. A missing permission or table
    /// stops all work; a row that somebody keeps locked, or for which a statement takes too long,
    /// stops only the work on that row. Whether other work succeeds tells which it is.
    Unclear,
    /// The data's: a value does not fit, or violates a constraint; or the service's own code
    /// said so.
    Data,
}

/// Whose fault an error is. An error that does not come from a database is the data's: the code that made it looked at the data.
pub fn blame(error: &(dyn Error + 'static)) -> Blame {
    match database_error(error) {
        None => Blame::Data,
        Some(
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed,
        ) => Blame::Database,
        Some(error) if is_stale_plan(error) => Blame::Database,
        Some(sqlx::Error::Database(error)) => {
            error.code().map_or(Blame::Unclear, |code| blame_of_code(&code))
        }
        Some(_) => Blame::Unclear,
    }
}

/// Whether the same work may succeed if it is simply retried: a lock is taken, the
/// database is gone or full, or a transaction lost a race. All other errors are the fault of the work itself, or
/// of how the database is set up.
///
/// A cancelled statement, for example by `statement_timeout`, is not retried: it would
/// usually take as long again.
pub fn is_retryable(error: &(dyn Error + 'static)) -> bool {
    blame(error) == Blame::Database || code(error).is_some_and(|code| code == LOCK_TIMEOUT)
}

/// Whether a transaction only conflicted with another one: a deadlock, a serialization failure, or a lock timeout.
/// Nothing is wrong with the database, and the same work may be retried at once.
pub fn is_conflict(error: &(dyn Error + 'static)) -> bool {
    code(error).is_some_and(|code| is_conflict_code(&code))
}

/// Whether a SQLite file is damaged: CORRUPT 11, NOTADB 26.
pub(super) fn is_damage(error: &(dyn Error + 'static)) -> bool {
    sqlite_code(error).is_some_and(|code| matches!(code, 11 | 26))
}

/// Whether an unavailable server may be available in a moment: it is unreachable, is starting, has
/// no connections left, or is a standby that is about to take over.
pub(super) fn may_come(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| matches!(&*code, "57P03" | "53300"))
        }
        _ => false,
    }
}

/// Whether somebody else is using the SQLite file for a moment: BUSY 5, LOCKED 6.
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

/// SQLite's codes are numbers; PostgreSQL's have five characters, which may all be digits.
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
        5 => code.starts_with("40") || code == LOCK_TIMEOUT,
        // BUSY and LOCKED.
        _ => code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6)),
    }
}

/// PostgreSQL: a lock timeout.
const LOCK_TIMEOUT: &str = "55P03";
/// PostgreSQL: a statement was cancelled, because it took too long or somebody cancelled it.
const CANCELLED: &str = "57014";

fn blame_of_code(code: &str) -> Blame {
    if code.len() == 5 {
        return match &code[..2] {
            _ if code == CANCELLED => Blame::Unclear,
            // A server that is read-only for now (failover); an aborted transaction; we froze
            // inside a transaction; a prepared statement left by another session.
            _ if matches!(code, "25006" | "25P02" | "25P03" | "42P05") => Blame::Database,
            // Connection; a prepared statement that the session no longer has; rollback (deadlock,
            // serialization); resources (disk full, too many connections); operator (shutdown); system.
            "08" | "26" | "40" | "53" | "57" | "58" => Blame::Database,
            // Cardinality, data, constraints, check option, limits (a row too large for its index), and
            // errors raised by the service's own triggers.
            "21" | "22" | "23" | "44" | "54" | "P0" => Blame::Data,
            // Among them: class 42, missing permissions, tables and columns.
            _ => Blame::Unclear,
        };
    }
    // The low byte is the primary code.
    match code.parse::<i32>().map(|code| code & 0xff) {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL, SCHEMA.
        Ok(5..=10 | 13..=15 | 17) => Blame::Database,
        // TOOBIG, CONSTRAINT, MISMATCH.
        Ok(18..=20) => Blame::Data,
        // Among them: ERROR, a missing table or column.
        _ => Blame::Unclear,
    }
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

/// Whether a new session may behave differently. That an error is the statement's own
/// fault is not always clear; then a few connections are replaced for nothing.
fn is_doubtful_code(code: &str) -> bool {
    if code.len() == 5 {
        // 08 connection, 0A cached plans, 25 transaction state (read-only, left open), 26 prepared
        // statements, 3F and 42 names, which depend on search path and role, 57P the server's
        // shutdown, XX cached objects that are gone.
        return matches!(&code[..2], "08" | "0A" | "25" | "26" | "3F" | "42" | "XX")
            || code.starts_with("57P");
    }
    // READONLY 8: a file that could not be written to when it was opened. IOERR 10, CANTOPEN 14 and
    // PROTOCOL 15: its handle on the files.
    code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 8 | 10 | 14 | 15))
}

/// PostgreSQL's "cached plan must not change result type": a column has another type since the session
/// prepared its statement. Its code covers everything unsupported, and its text may be translated.
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
            let retryable = blame_of_code(code) == Blame::Database || code == LOCK_TIMEOUT;
            assert!(retryable, "{code}");
        }
        for code in ["1", "19", "1555", "2067", "23505", "42601", "22P02", "0A000", "42P01"] {
            assert_ne!(blame_of_code(code), Blame::Database, "{code}");
        }
    }

    #[test]
    fn only_what_is_wrong_with_the_data_is_the_datas_fault() {
        for code in ["18", "19", "20", "787", "1555", "1811", "22001", "23505", "54000", "P0001"] {
            assert_eq!(blame_of_code(code), Blame::Data, "{code}");
        }
        // No right, no table, no column, the wrong role, a row that is locked, too slow, or unknown.
        for code in [
            "1", "3", "11", "23", "26", "42501", "42P01", "42703", "3F000", "28000", "0P000",
            "55P03", "57014", "XX000", "99999", "",
        ] {
            assert_eq!(blame_of_code(code), Blame::Unclear, "{code}");
        }
        for code in ["5", "6", "7", "8", "10", "13", "14", "1032", "25006", "40001", "53100"] {
            assert_eq!(blame_of_code(code), Blame::Database, "{code}");
        }
        assert_eq!(blame(&std::io::Error::other("the service says so")), Blame::Data);
        assert_eq!(blame(&sqlx::Error::PoolTimedOut), Blame::Database);
        assert_eq!(blame(&sqlx::Error::RowNotFound), Blame::Unclear);
    }

    #[test]
    fn a_conflict_is_a_retryable_error_of_a_healthy_database() {
        for code in ["40001", "40P01", "55P03", "5", "517", "6"] {
            assert!(is_conflict_code(code), "{code}");
            assert_ne!(blame_of_code(code), Blame::Data, "{code}");
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
