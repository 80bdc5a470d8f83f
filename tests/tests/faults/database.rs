//! The database of the owner, or of the read model, is busy, full, or not itself for a while.

use nudge_runtime::{
    Database, Tx,
    database::{Kind, is_conflict},
};
use nudge_tests::{Trial, database, eventually};
use sqlx::AssertSqlSafe;

async fn run(tx: &mut Tx, sql: &str) {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    query.execute(&mut **tx).await.expect("the statement runs");
}

/// Somebody has a transaction open that nobody else can write beside.
async fn lock(db: &Database, table: &str) -> Tx {
    // A handle of its own: in this process writers on SQLite queue before they reach the database.
    let mut tx = db.begin().await.expect("a transaction");
    let sql = db.pick("SELECT 1".to_owned(), format!("LOCK TABLE {table} IN SHARE MODE"));
    run(&mut tx, &sql).await;
    tx
}

/// Waits until a statement that holds this word waits for a lock of PostgreSQL.
async fn somebody_waits(url: &str, word: &str) {
    let waits = format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%{word}%') \
         THEN RAISE 'nobody waits'; END IF; END $$"
    );
    eventually(&format!("a statement about {word} waits"), || async {
        database::try_execute(url, &waits).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_is_locked() {
    let mut trial = Trial::start("read model: locked").await;
    let other = trial.copy.database().open().await;
    let locked = lock(&other, "copy").await;
    trial.some_edits().await;
    match other.kind() {
        // It gives up waiting, and the batch is tried again.
        Kind::Sqlite => {
            eventually("a batch failed", || async {
                (trial.copy.metric("nudge_retried_total").await > 0).then_some(())
            })
            .await;
        }
        Kind::Postgres => somebody_waits(trial.copy.database().url(), "INTO copy").await,
    }
    locked.rollback().await.expect("the lock is let go");
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_database_is_locked() {
    let mut trial = Trial::start("owner's database: locked").await;
    let other = trial.owner.database.open().await;
    // What was published is acknowledged under the lock: then the relay meets it too.
    trial.nats.freeze();
    trial.some_edits().await;
    let locked = lock(&other, "nudge_change_log").await;
    trial.nats.thaw();
    match other.kind() {
        // Longer than anyone waits for the file: who writes is turned away, and tries again.
        Kind::Sqlite => trial.an_edit_fails("database is locked").await,
        Kind::Postgres => {
            let url = trial.owner.database.url();
            somebody_waits(url, "INSERT INTO nudge_change_log").await;
            somebody_waits(url, "SET published_version").await;
        }
    }
    locked.rollback().await.expect("the lock is let go");
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_is_full() {
    let mut trial = Trial::start("read model: full").await;
    let db = &trial.copy.db;
    let full = db.pick(
        // For the one connection that writes: what is there may stay, no page may be added.
        "PRAGMA max_page_count = 1",
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
         CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON copy EXECUTE FUNCTION no_room()",
    );
    let free = db.pick("PRAGMA max_page_count = 1073741823", "DROP TRIGGER no_room ON copy");
    set(db, full).await;
    // Larger things than the free pages can take.
    let large = serde_json::json!("x".repeat(20_000));
    for n in 0..20 {
        trial.owner.put(&format!("large-{n}"), large.clone()).await;
    }
    eventually("a batch failed", || async {
        let error = trial.copy.status().await["last_error"].as_str()?.to_owned();
        (error.contains("full") || error.contains("extend")).then_some(())
    })
    .await;
    trial.some_edits().await;
    set(db, free).await;
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

/// Runs a statement on the connection that writes, outside of any transaction of the subscriber.
async fn set(db: &Database, sql: &str) {
    let mut tx = db.begin().await.expect("a transaction");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.expect("it runs");
    tx.commit().await.expect("it commits");
}

async fn empty(db: &Database) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    for table in ["copy", "nudge_applied", "nudge_intake", "nudge_dead_letter"] {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *tx).await?;
    }
    tx.commit().await
}

/// Everything that the subscriber has in its database goes, while it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_is_emptied() {
    let mut trial = Trial::start("read model: emptied twice").await;
    for _ in 0..2 {
        // PostgreSQL may end this transaction, and not the subscriber's, when the two deadlock.
        while let Err(error) = empty(&trial.copy.db).await {
            assert!(is_conflict(&error), "{error}");
        }
        trial.mended().await;
        trial.some_edits().await;
    }
    // A thing that is not there is answered with 404: reads may fail here.
    trial.end().await;
}
