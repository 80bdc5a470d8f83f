//! Why a database cannot be opened, in a line that says what to do about it.

use std::str::FromStr;

use sqlx::{migrate::MigrateError, postgres::PgConnectOptions};

use super::{Durability, Kind, error::is_damage};
use crate::BoxError;

/// Why a database cannot be opened or migrated.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one of the two kinds. The rest may contain a password, and is not
    /// repeated.
    #[error("DATABASE_URL must begin with sqlite: or postgres:, not {0:?}")]
    Url(String),
    /// The database refused, or does not exist.
    #[error("DATABASE_URL: cannot open {place}")]
    Connect {
        /// Its location.
        place: String,
        /// Its error.
        #[source]
        source: sqlx::Error,
    },
    /// The file is damaged.
    #[error("DATABASE_URL: {place} is damaged; {remedy}")]
    Damaged {
        /// Its location.
        place: String,
        /// What to do.
        remedy: &'static str,
        /// The database's error.
        #[source]
        source: BoxError,
    },
    /// The file stores text in another encoding, in which IDs have other bytes.
    #[error(
        "DATABASE_URL: {place} stores text as {encoding}; copy its rows into a new file, which is UTF-8"
    )]
    Encoding {
        /// Its location.
        place: String,
        /// The encoding.
        encoding: String,
    },
    /// A migration failed.
    #[error("DATABASE_URL: cannot migrate the tables of {component}")]
    Migrate {
        /// The component.
        component: &'static str,
        /// The database's error.
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
            Durability::Full => "restore it from a backup",
            Durability::Refillable => {
                "it is safe to delete it, along with its -wal and -shm files: it refills from the owner"
            }
        };
        Ok(Self::Damaged { place: place.to_owned(), remedy, source: error.into() })
    }
}

/// The location of a database, without what may be a password.
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
