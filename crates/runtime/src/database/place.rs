//! The place of a database, to tell a copy from the original.

use std::{os::unix::fs::MetadataExt, time::UNIX_EPOCH};

use super::{Database, Kind};

impl Database {
    /// A text that stays the same while `table` is in this place, and is different in every copy: of the
    /// file, or in a database into which a dump was restored. A SQLite file that is moved keeps it, and so does a
    /// PostgreSQL server that takes over from another. `table` must exist.
    ///
    /// A copy of a whole disk or of a PostgreSQL server's directory has the same: nothing in it differs.
    ///
    /// # Errors
    /// If the database fails, or its file cannot be examined.
    pub async fn place_of(&self, table: &'static str) -> Result<String, sqlx::Error> {
        let place = async {
            match self.kind {
                Kind::Sqlite => self.file().await,
                Kind::Postgres => self.server(table).await,
            }
        };
        self.run(place).await
    }

    /// The file, by inode number and birth time. Inode numbers are reused, birth times are not; but
    /// not every file system has those.
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

    /// The server by its system identifier, if we may read it, with the database and the
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
