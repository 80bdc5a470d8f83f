//! Where a database is, to tell a copy from the original.

use std::{os::unix::fs::MetadataExt, time::UNIX_EPOCH};

use super::{Database, Kind};

impl Database {
    /// A text that is the same for as long as `table` is in this place, and another in every copy of it: of the
    /// file, or in a database into which a dump was read. A SQLite file that is moved keeps it, and so does a
    /// PostgreSQL server that takes over from another. `table` must be there.
    ///
    /// A copy of a whole disk or of a PostgreSQL server's directory has the same: nothing in it differs.
    ///
    /// # Errors
    /// When the database fails, or its file cannot be looked at.
    pub async fn place_of(&self, table: &'static str) -> Result<String, sqlx::Error> {
        let place = async {
            match self.kind {
                Kind::Sqlite => self.file().await,
                Kind::Postgres => self.server(table).await,
            }
        };
        self.run(place).await
    }

    /// The file, by its number in the file system. Such numbers are given out again, times of birth are not; but
    /// not every file system knows those.
    async fn file(&self) -> Result<String, sqlx::Error> {
        let list = "SELECT file FROM pragma_database_list WHERE name = 'main'";
        let (file,): (String,) = sqlx::query_as(list).fetch_one(&self.reader).await?;
        if file.is_empty() {
            return Ok("memory".to_owned());
        }
        let file = std::fs::metadata(&file).map_err(sqlx::Error::Io)?;
        let born = file.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Ok(format!("file {} {}", file.ino(), born.unwrap_or_default().as_nanos()))
    }

    /// The server by the number that it was given when it was made, if we may ask, and in it the database and the
    /// table.
    async fn server(&self, table: &'static str) -> Result<String, sqlx::Error> {
        let may = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')::int::bigint";
        let (may,): (i64,) = sqlx::query_as(may).fetch_one(&self.reader).await?;
        let server = match may {
            0 => String::new(),
            _ => {
                let server = "SELECT system_identifier::text FROM pg_control_system()";
                sqlx::query_as::<_, (String,)>(server).fetch_one(&self.reader).await?.0
            }
        };
        let inside = "SELECT oid::text || ' ' || ($1::text)::regclass::oid::text FROM pg_database \
                      WHERE datname = current_database()";
        let (inside,): (String,) =
            sqlx::query_as(inside).bind(table).fetch_one(&self.reader).await?;
        Ok(format!("server {server} {inside}"))
    }
}
