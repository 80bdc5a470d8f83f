//! Tables that are restored to an older state while programs use them.

use nudge_runtime::Database;
use sqlx::AssertSqlSafe;

/// Copies these tables to tables whose names begin with `kept_`.
pub async fn keep_tables(db: &Database, tables: &[&str]) {
    copy_tables(db, tables, "", "kept_").await;
}

/// Restores them, in one transaction.
pub async fn put_tables_back(db: &Database, tables: &[&str]) {
    copy_tables(db, tables, "kept_", "").await;
}

async fn copy_tables(db: &Database, tables: &[&str], from: &str, to: &str) {
    let mut tx = db.begin().await.expect("a transaction");
    for table in tables {
        let make = format!("CREATE TABLE IF NOT EXISTS kept_{table} AS SELECT * FROM {table}");
        let empty = format!("DELETE FROM {to}{table}");
        let fill = format!("INSERT INTO {to}{table} SELECT * FROM {from}{table}");
        for sql in [make, empty, fill] {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await.expect("the rows are copied");
        }
    }
    tx.commit().await.expect("it commits");
}
