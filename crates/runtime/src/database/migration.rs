//! Brings a component's tables up to date. Several programs may do so at the same moment.

use std::borrow::Cow;

use sqlx::{
    Executor,
    migrate::{MigrateError, MigrationType, Migrator},
};

use super::{Database, Kind};

/// One step of a component's schema. The number and the text never change once released.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Position in the component's history, from 1.
    pub number: i64,
    /// What it does, in a few words.
    pub title: &'static str,
    /// The statements for SQLite.
    pub sqlite: &'static str,
    /// The statements for PostgreSQL.
    pub postgres: &'static str,
}

pub(super) async fn run(
    db: &Database,
    component: &str,
    migrations: &[Migration],
) -> Result<(), MigrateError> {
    let steps = migrations.iter().map(|m| {
        let sql = sqlx::SqlSafeStr::into_sql_str(db.pick(m.sqlite, m.postgres));
        let kind = MigrationType::Simple;
        sqlx::migrate::Migration::new(m.number, Cow::Borrowed(m.title), kind, sql, false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    migrator.dangerous_set_table_name(format!("nudge_migrations_{}", component.replace('-', "_")));
    match db.kind {
        Kind::Sqlite => {
            // sqlx lets programs migrate side by side here. All of it in one transaction: whoever comes
            // second finds everything done.
            let mut tx = db.begin().await?;
            migrator.run_direct(None, &mut *tx, false).await?;
            Ok(tx.commit().await?)
        }
        Kind::Postgres => {
            let mut connection = db.writer.acquire().await?;
            // sqlx lets one program at a time migrate. However long the others take, they are waited
            // for; so this connection is not to serve requests after that.
            connection.close_on_drop();
            connection.execute("SET lock_timeout = 0").await?;
            migrator.run_direct(None, &mut *connection, false).await
        }
    }
}
