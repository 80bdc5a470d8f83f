//! Why a database cannot be had, in a line that names what to do about it.

use std::str::FromStr;

use sqlx::{migrate::MigrateError, postgres::PgConnectOptions};

use super::{Durability, Kind, error::is_damage};
use crate::BoxError;

/// Why a database cannot be opened or migrated.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one of the two kinds. What follows its scheme may hold a password, and is not
    /// repeated.
    #[error("DATABASE_URL must begin with sqlite: or postgres:, not {0:?}")]
    Url(String),
    /// The database refused, or is not there.
    #[error("DATABASE_URL: cannot open {place}")]
    Connect {
        /// Where it is.
        place: String,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// What is in the file is no database any more.
    #[error("DATABASE_URL: {place} is damaged; {remedy}")]
    Damaged {
        /// Where it is.
        place: String,
        /// What can be done.
        remedy: &'static str,
        /// What the database said.
        #[source]
        source: BoxError,
    },
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

impl OpenError {
    /// The error of a damaged file, or the error itself.
    pub(super) fn damaged<E>(place: &str, durability: Durability, error: E) -> Result<Self, E>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        if !is_damage(&error) {
            return Err(error);
        }
        let remedy = match durability {
            Durability::Full => "put back a backup of it",
            Durability::Refillable => {
                "deleting it is safe, with its -wal and -shm beside it: it is filled again from the owner"
            }
        };
        Ok(Self::Damaged { place: place.to_owned(), remedy, source: error.into() })
    }
}

/// Where a database is, without what may be a password.
pub(super) fn place(url: &str, kind: Kind) -> String {
    match kind {
        Kind::Sqlite => {
            let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
            path.split('?').next().unwrap_or_default().to_owned()
        }
        Kind::Postgres => match PgConnectOptions::from_str(url) {
            Ok(options) => format!("PostgreSQL at {}:{}", options.get_host(), options.get_port()),
            Err(_) => "PostgreSQL".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_without_its_password() {
        for (url, told) in [
            ("postgres://nudge:hunter2@db:5433/stores?sslmode=disable", "PostgreSQL at db:5433"),
            ("postgres://nudge:hunter2/x@db/stores", "PostgreSQL"),
            ("postgres://db/stores?password=hunter2", "PostgreSQL at db:5432"),
        ] {
            assert_eq!(place(url, Kind::Postgres), told);
        }
        assert_eq!(place("sqlite:/var/a.db?mode=ro", Kind::Sqlite), "/var/a.db");
        assert_eq!(place("sqlite://a.db", Kind::Sqlite), "a.db");
    }
}
