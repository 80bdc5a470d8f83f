//! Tables that are put back to an older state under everyone who uses them.

use nudge_runtime::Database;
use sqlx::AssertSqlSafe;

/// Keeps a copy of these tables, in tables whose names begin with `kept_`.
pub async fn keep_tables(db: &Database, tables: &[&str]) {
    copy_tables(db, tables, "", "kept_").await;
}

/// Puts them back, in one transaction.
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
