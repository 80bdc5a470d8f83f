//! Which errors of a database pass by themselves.

use std::error::Error;

/// Whether the same work may succeed when it is simply tried again: the lock is taken, the
/// database is gone or full, a transaction lost a race. The opposite is an error of the work itself.
pub fn is_retryable(error: &(dyn Error + 'static)) -> bool {
    database_error(error).is_some_and(is_retryable_sqlx)
}

/// Whether a transaction only met another one: a deadlock, a serialization failure, a lock that was
/// not to be had in time. Nothing is wrong with the database, and the same work at once will do.
pub fn is_conflict(error: &(dyn Error + 'static)) -> bool {
    match database_error(error) {
        Some(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| is_conflict_code(&code))
        }
        _ => false,
    }
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
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_retryable_code(&code)),
        _ => false,
    }
}

/// SQLite codes are numbers, PostgreSQL's have five characters and may be numbers too.
fn is_retryable_code(code: &str) -> bool {
    if code.len() == 5 {
        let class = &code[..2];
        // 08 connection, 40 rollback (deadlock, serialization), 53 resources (disk full, too many
        // connections), 57 operator (shutdown), 58 system; 55P03 lock timeout; 25006 a server that
        // is read-only just now (failover); 25P03 we stood still inside a transaction.
        return matches!(class, "08" | "40" | "53" | "57" | "58")
            || matches!(code, "55P03" | "25006" | "25P03");
    }
    // The low byte is the primary code: BUSY 5, LOCKED 6, READONLY 8, INTERRUPT 9, IOERR 10,
    // FULL 13, CANTOPEN 14, PROTOCOL 15.
    code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 9 | 10 | 13 | 14 | 15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_databases_are_told_apart() {
        for code in
            ["5", "517", "13", "266", "40001", "40P01", "53100", "57P01", "08006", "55P03", "25P03"]
        {
            assert!(is_retryable_code(code), "{code}");
        }
        for code in ["1", "19", "1555", "2067", "23505", "42601", "22P02"] {
            assert!(!is_retryable_code(code), "{code}");
        }
    }

    #[test]
    fn a_conflict_is_a_retryable_error_of_a_healthy_database() {
        for code in ["40001", "40P01", "55P03", "5", "517", "6"] {
            assert!(is_conflict_code(code) && is_retryable_code(code), "{code}");
        }
        for code in ["53100", "57P01", "08006", "13", "10", "23505", "1"] {
            assert!(!is_conflict_code(code), "{code}");
        }
    }
}
