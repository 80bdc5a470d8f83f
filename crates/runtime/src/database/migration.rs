//! Migrates a component's tables. Several programs may do so at the same moment.

use std::borrow::Cow;

use futures_util::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, Executor,
    migrate::{MigrateError, MigrationType, Migrator},
};

use super::{Database, Kind, Tx};

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

/// What is done before pending migrations.
pub type Before =
    Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<(), sqlx::Error>> + Send>;

pub(super) async fn run(
    db: &Database,
    component: &str,
    migrations: &[Migration],
    before: Option<Before>,
) -> Result<(), MigrateError> {
    let steps = migrations.iter().map(|m| {
        let sql = sqlx::SqlSafeStr::into_sql_str(db.pick(m.sqlite, m.postgres));
        let kind = MigrationType::Simple;
        sqlx::migrate::Migration::new(m.number, Cow::Borrowed(m.title), kind, sql, false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    // What a newer release has done is not in the way of this one, or a rollback would not start.
    migrator.set_ignore_missing(true);
    let history = format!("nudge_migrations_{}", component.replace('-', "_"));
    let done = is_done(db, &history, migrations.len()).await;
    let before = before.filter(|_| !done);
    migrator.dangerous_set_table_name(history.clone());
    migrate(db, &migrator, before).await?;
    let known = migrations.iter().map(|migration| migration.number).max().unwrap_or(0);
    tell_of_newer(db, component, &history, known).await;
    Ok(())
}

async fn migrate(
    db: &Database,
    migrator: &Migrator,
    before: Option<Before>,
) -> Result<(), MigrateError> {
    match db.kind {
        Kind::Sqlite => {
            // On SQLite sqlx lets programs migrate concurrently. Use one transaction for everything: whoever comes
            // second finds everything done.
            let mut tx = db.begin().await?;
            if let Some(before) = before {
                before(&mut tx).await?;
            }
            migrator.run_direct(None, &mut *tx, false).await?;
            Ok(tx.commit().await?)
        }
        Kind::Postgres => {
            if let Some(before) = before {
                let mut tx = db.begin().await?;
                before(&mut tx).await?;
                tx.commit().await?;
            }
            let mut connection = db.writer.acquire().await?;
            // sqlx lets one program migrate at a time. Wait for the others however long they
            // take; this connection must not serve requests after that.
            connection.close_on_drop();
            // A program that has migrated relies on its tables, also after a crash of the server.
            connection.execute("SET lock_timeout = 0; RESET synchronous_commit").await?;
            migrator.run_direct(None, &mut *connection, false).await
        }
    }
}

/// Says so if a newer release has migrated the tables.
async fn tell_of_newer(db: &Database, component: &str, history: &str, known: i64) {
    let sql = format!("SELECT COALESCE(max(version), 0) FROM {history}");
    let newest = sqlx::query_as::<_, (i64,)>(AssertSqlSafe(sql)).fetch_one(db.reader()).await;
    if let Ok((newest,)) = newest
        && newest > known
    {
        tracing::warn!(component, newest, known, "a newer release has migrated the tables");
    }
}

/// Whether this many migrations are done. Without a history, none are; migrating reports any other problem.
async fn is_done(db: &Database, history: &str, migrations: usize) -> bool {
    let sql = format!("SELECT count(*) FROM {history}");
    let count = sqlx::query_as::<_, (i64,)>(AssertSqlSafe(sql)).fetch_one(db.reader()).await;
    count.is_ok_and(|(count,)| count >= migrations as i64)
}
