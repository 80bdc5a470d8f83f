//! The database of the owner or of the read model is locked, full, or otherwise broken for a while.

use nudge_runtime::{
    Database, Tx,
    database::{Kind, is_conflict, is_retryable},
};
use nudge_tests::{Trial, Wire, database, eventually};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

async fn run(tx: &mut Tx, sql: &str) {
    let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    query.execute(&mut **tx).await.expect("the statement runs");
}

/// Someone has a transaction open that blocks all other writers.
async fn lock(db: &Database, table: &str) -> Tx {
    // A separate handle: within one handle, writers on SQLite queue before they reach the database.
    let mut tx = db.begin().await.expect("a transaction");
    let sql = db.pick("SELECT 1".to_owned(), format!("LOCK TABLE {table} IN SHARE MODE"));
    run(&mut tx, &sql).await;
    tx
}

/// Waits until a statement that contains this word waits for a lock in PostgreSQL.
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
        // It gives up waiting, and the batch is retried.
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
    // Acknowledgements of what was published arrive under the lock, so the relay encounters it, too.
    trial.nats.freeze();
    trial.some_edits().await;
    let locked = lock(&other, "nudge_change_log").await;
    trial.nats.thaw();
    match other.kind() {
        // Longer than anyone waits for the file: writers are turned away, and retry.
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
    fill(db, "copy").await;
    // Things that are too large for the free pages.
    let large = json!("x".repeat(20_000));
    for n in 0..20 {
        trial.owner.put(&format!("large-{n}"), large.clone()).await;
    }
    eventually("a batch failed", || async {
        let error = trial.copy.status().await["last_error"].as_str()?.to_owned();
        (error.contains("full") || error.contains("extend")).then_some(())
    })
    .await;
    trial.some_edits().await;
    free(db, "copy").await;
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

/// Nothing can be written, but existing data is read and published, and callbacks are answered, as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_database_is_full() {
    let mut trial = Trial::start("owner's database: full").await;
    let owner = trial.owner.clone();
    fill(&owner.db, "thing").await;
    let (mut refused, mut tried) = (Vec::new(), 0);
    while refused.len() < 10 {
        // SQLite connections that hit the limit are replaced by ones without it: see `Database`.
        set(&owner.db, owner.db.pick(NO_MORE_PAGES, "SELECT 1")).await;
        tried += 1;
        assert!(tried < 1_000, "there is always room");
        let id = format!("large-{tried}");
        if let Err(error) = owner.try_put_all(&[(&id, json!("x".repeat(100_000)))]).await {
            assert!(is_retryable(&error), "{error}");
            refused.push(id);
        }
    }
    // What is stored is answered, and what was refused never existed.
    let url = format!("{}/sync/v1/thing/batch-get", owner.url());
    let asked = reqwest::Client::new().post(url).json(&json!({"ids": ["thing-0", refused[0]]}));
    let answer = asked.send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("JSON");
    let statuses =
        [0, 1].map(|n| (answer["items"][n]["id"].clone(), answer["items"][n]["status"].clone()));
    assert_eq!(
        statuses,
        [(json!("thing-0"), json!("live")), (json!(refused[0]), json!("unknown"))]
    );
    free(&owner.db, "thing").await;
    trial.copy.wait(&owner.put("large", json!("fits")).await).await;
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

/// Business continues, but the relay cannot mark what it publishes. It would publish the same over and over, so it
/// waits until it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_database_takes_no_note_of_what_is_published() {
    let mut trial = Trial::start("owner's database: relay cannot record").await;
    let owner = trial.owner.clone();
    let event = "TRIGGER no_note BEFORE UPDATE OF published_version ON nudge_change_log";
    let refuse = owner.db.pick(
        format!("CREATE {event} BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"),
        format!("{NO_ROOM}; CREATE {event} EXECUTE FUNCTION no_room()"),
    );
    set(&owner.db, &refuse).await;
    eventually("the relay says that it fails", || async {
        let health = owner.publisher.health();
        (!health.connected && health.pending > 0).then_some(())
    })
    .await;
    let wire = Wire::open(&trial.nats).await;
    let published = wire.last_sequence().await;
    let last = owner.put("unrecorded", json!("waits")).await;
    trial.some_edits().await;
    assert_eq!(wire.last_sequence().await, published, "nothing is published in vain");
    assert!(owner.publisher.health().pending > 0);

    let accept = owner.db.pick("DROP TRIGGER no_note", "DROP TRIGGER no_note ON nudge_change_log");
    set(&owner.db, accept).await;
    trial.mended().await;
    trial.copy.wait(&last).await;
    eventually("the relay is well", || async { owner.publisher.health().connected.then_some(()) })
        .await;
    trial.end_with_every_read_answered().await;
}

/// For SQLite's single writing connection: existing pages may stay, but none may be added.
const NO_MORE_PAGES: &str = "PRAGMA max_page_count = 1";
/// For PostgreSQL: the function of a trigger that lets nothing be written.
const NO_ROOM: &str = "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                       RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$";

/// Fills a database: on SQLite every table, on PostgreSQL this one.
async fn fill(db: &Database, table: &str) {
    let full = db.pick(
        NO_MORE_PAGES.to_owned(),
        format!(
            "{NO_ROOM}; CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION no_room()"
        ),
    );
    set(db, &full).await;
}

/// Undoes [`fill`].
async fn free(db: &Database, table: &str) {
    let free = format!("DROP TRIGGER no_room ON {table}");
    set(db, &db.pick("PRAGMA max_page_count = 1073741823".to_owned(), free)).await;
}

/// Runs a statement on the writing connection, outside of the subscriber's transactions.
async fn set(db: &Database, sql: &str) {
    let mut tx = db.begin().await.expect("a transaction");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.expect("it runs");
    tx.commit().await.expect("it commits");
}

async fn empty(db: &Database) -> Result<(), sqlx::Error> {
    let mut tx = db.begin().await?;
    for table in
        ["copy", "nudge_applied", "nudge_intake", "nudge_intake_replica", "nudge_dead_letter"]
    {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *tx).await?;
    }
    tx.commit().await
}

/// Everything in the subscriber's database is deleted while it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_is_emptied() {
    let mut trial = Trial::start("read model: emptied twice").await;
    for _ in 0..2 {
        // If the two deadlock, PostgreSQL may abort this transaction instead of the subscriber's.
        while let Err(error) = empty(&trial.copy.db).await {
            assert!(is_conflict(&error), "{error}");
        }
        trial.mended().await;
        trial.some_edits().await;
    }
    // A missing thing is answered with 404, so reads may fail here.
    trial.end().await;
}
