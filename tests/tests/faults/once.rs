//! Faults that only PostgreSQL has: servers that stop and freeze, deadlocks, serialization failures. These run once,
//! whatever database is under test.

mod locked_row;

use std::{sync::Arc, time::Duration};

use nudge_runtime::{
    Database,
    database::{Durability, Kind},
};
use nudge_tests::{
    Nats, Owner, Postgres, ReadModel, TestDatabase, Trial, Wire, database, eventually,
};
use serde_json::json;
use sqlx::{AnyConnection, Connection};
use tokio_util::sync::CancellationToken;

/// Somewhat longer than anyone waits for a connection to the database.
const LONGER_THAN_A_POOL: Duration = Duration::from_secs(15);

/// A trial whose read model is on a separate server.
async fn with_the_read_model_apart(name: &str) -> (Arc<Postgres>, Trial) {
    let server = Postgres::start().await;
    let (owners, copys) = (TestDatabase::of(Kind::Postgres).await, TestDatabase::on(&server).await);
    let trial = Trial::start_on(name, owners, copys).await;
    (server, trial)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_models_server_stops_and_crashes() {
    let (server, mut trial) = with_the_read_model_apart("read model: server gone twice").await;
    for n in 0..2 {
        if n == 0 {
            server.stop().await;
        } else {
            server.crash().await;
        }
        trial.some_edits().await;
        server.restart().await;
        trial.mended().await;
        trial.some_edits().await;
    }
    trial.end().await;
}

/// A read model's commits do not wait for the disk, so a crash takes away the last ones; an owner's do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_read_model_loses_in_a_crash_of_its_server_comes_again() {
    let (server, nats) = (Postgres::start().await, Nats::start().await);
    for (durability, waits) in [(Durability::Full, "on"), (Durability::Refillable, "off")] {
        let db = Database::open(server.url(), durability).await.expect("it opens");
        let asked = sqlx::query_as("SELECT current_setting('synchronous_commit')");
        let mut tx = db.begin().await.expect("it begins");
        let written: (String,) = asked.fetch_one(&mut *tx).await.expect("a setting");
        assert_eq!(written.0, waits);
        tx.rollback().await.expect("it ends");
    }
    // What nobody waits for is not even handed to the operating system.
    database::execute(server.url(), "ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    database::execute(server.url(), "SELECT pg_reload_conf()").await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let model = ReadModel::on(Arc::new(TestDatabase::on(&server).await));
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| id.starts_with("bad").then(|| "no".into()));
    let lost = async || copy.metric("nudge_read_model_replaced_total").await;
    let holds = async |count: i64| {
        // The copy's own connections may still be those of before the crash.
        let db = copy.database().open().await;
        eventually("all are there again", || async {
            let counted = sqlx::query_as("SELECT count(*) FROM copy").fetch_one(db.reader()).await;
            let (counted,): (i64,) = counted.ok()?;
            (counted == count).then_some(())
        })
        .await;
        db.close().await;
    };
    for n in 0..3 {
        let before = lost().await;
        let ids: Vec<_> = (0..30).map(|id| format!("{n}-{id}")).collect();
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(n))).collect();
        owner.put_all(&things).await;
        let last = owner.put("good", json!(n)).await;
        copy.wait(&last).await;
        if n == 2 {
            // Everything is recorded and on the disk. What is lost now is nothing that was applied, and no mark.
            copy.handled(&owner).await;
            database::execute(server.url(), "CHECKPOINT").await;
        }
        owner.put(&format!("bad {n}"), json!(n)).await;
        copy.dead_letters(n as usize + 1).await;
        server.crash().await;
        server.restart().await;
        eventually("it notices", || async { (lost().await > before).then_some(()) }).await;
        holds((n + 1) * 30 + 1).await;
        copy.dead_letters(n as usize + 1).await;
    }
    copy.accept();
    for n in 0..3 {
        let replay = format!("dead-letters/replay?entity=thing&id=bad%20{n}");
        assert_eq!(copy.post(&replay).await, 202);
    }
    holds(3 * 30 + 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_models_server_stands_still() {
    let (server, mut trial) = with_the_read_model_apart("read model: server frozen").await;
    server.freeze().await;
    trial.some_edits().await;
    // Those with a connection wait for its answer, and others for a connection, but not forever.
    let patient = reqwest::Client::builder().timeout(LONGER_THAN_A_POOL).build();
    let patient = patient.expect("a client");
    eventually("a read fails because there is no free connection", || async {
        let answer = patient.get(trial.copy.admin("applied/thing/thing-0")).send().await;
        (answer.ok()?.status() == 503).then_some(())
    })
    .await;
    server.thaw().await;
    trial.mended().await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_server_stands_still() {
    let server = Postgres::start().await;
    let (owners, copys) = (TestDatabase::on(&server).await, TestDatabase::of(Kind::Postgres).await);
    let mut trial = Trial::start_on("owner's database: server frozen", owners, copys).await;
    let wire = Wire::open(&trial.nats).await;
    server.freeze().await;
    // All earlier changes may have been asked for already, and nothing is published now.
    wire.announce("thing-0", None).await;
    eventually("the breaker opens", || async {
        (trial.copy.status().await["breaker"] == "open").then_some(())
    })
    .await;
    let turned_away = eventually("an edit is turned away", || async {
        let things = [("thing-0", json!("by another client"))];
        let edit = tokio::time::timeout(LONGER_THAN_A_POOL, trial.owner.try_put_all(&things));
        edit.await.ok()?.err()
    })
    .await;
    assert!(matches!(turned_away, sqlx::Error::PoolTimedOut), "{turned_away}");
    server.thaw().await;
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_server_stops_and_crashes() {
    let server = Postgres::start().await;
    let (owners, copys) = (TestDatabase::on(&server).await, TestDatabase::of(Kind::Postgres).await);
    let mut trial = Trial::start_on("owner's database: server gone twice", owners, copys).await;
    for n in 0..2 {
        if n == 0 {
            server.stop().await;
        } else {
            server.crash().await;
        }
        eventually("the relay notices", || async {
            (!trial.owner.publisher.health().connected).then_some(())
        })
        .await;
        server.restart().await;
        trial.mended().await;
        trial.some_edits().await;
    }
    trial.end_with_every_read_answered().await;
}

/// A request whose client has gone is dropped halfway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_is_given_up_leaves_no_transaction_behind() {
    let server = Postgres::start().await;
    let open = || Database::open(server.url(), Durability::Full);
    let (db, other) = (open().await.expect("it opens"), open().await.expect("it opens"));
    other.write(sqlx::query("CREATE TABLE t AS SELECT 0 AS n")).await.expect("a table");
    for snapshot in [false, true] {
        server.freeze().await;
        // Both on connections that are used for reads afterwards.
        let begin =
            async { if snapshot { db.snapshot().await } else { db.begin_skipping_locked().await } };
        let given_up = tokio::time::timeout(Duration::from_millis(100), begin).await;
        assert!(given_up.is_err(), "the server is frozen");
        server.thaw().await;
        eventually("the connection is back in the pool", || async {
            (db.reader().num_idle() == db.reader().size() as usize).then_some(())
        })
        .await;
        for _ in 0..5 {
            other.write(sqlx::query("UPDATE t SET n = n + 1")).await.expect("it writes");
            let sql = "SELECT n FROM t";
            let now: (i32,) = sqlx::query_as(sql).fetch_one(other.reader()).await.expect("a row");
            let read: (i32,) = sqlx::query_as(sql).fetch_one(db.reader()).await.expect("a row");
            assert_eq!(read, now, "it reads what is there now");
            db.snapshot().await.expect("it begins").rollback().await.expect("it ends");
        }
    }
}

/// Someone locks copies in another order than the subscriber does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_deadlocks() {
    let (_server, mut trial) = with_the_read_model_apart("read model: deadlocks").await;
    let deadlocks = || async {
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        let (count,): (i64,) =
            sqlx::query_as(sql).fetch_one(trial.copy.db.reader()).await.expect("a count");
        (count > 2).then_some(())
    };
    let rival = spawn_rival(
        &trial,
        "BEGIN; SET deadlock_timeout = '1s'; \
         SELECT id FROM copy WHERE id >= 'thing-4' ORDER BY id FOR UPDATE; SELECT pg_sleep(0.02); \
         SELECT id FROM copy ORDER BY id FOR UPDATE; COMMIT",
    );
    eventually("some deadlocks", deadlocks).await;
    trial.some_edits().await;
    rival.cancel();
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

/// Every transaction on the database runs at the strictest level, and someone changes the same copies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_model_cannot_serialize() {
    let server = Postgres::start().await;
    let (owners, copys) = (TestDatabase::of(Kind::Postgres).await, TestDatabase::on(&server).await);
    let name = copys.url().rsplit('/').next().expect("a name").to_owned();
    let strict =
        format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    database::execute(copys.url(), &strict).await;
    let mut trial = Trial::start_on("read model: serialization failures", owners, copys).await;
    let rival = spawn_rival(
        &trial,
        "BEGIN; UPDATE copy SET version = version; SELECT pg_sleep(0.01); COMMIT",
    );
    eventually("a batch could not be serialized", || async {
        let error = trial.copy.status().await["last_error"].as_str()?.to_owned();
        error.contains("could not serialize").then_some(())
    })
    .await;
    trial.some_edits().await;
    rival.cancel();
    trial.mended().await;
    trial.end_with_every_read_answered().await;
}

/// Runs statements on the read model over and over, whether they succeed or not.
fn spawn_rival(trial: &Trial, sql: &'static str) -> CancellationToken {
    let (url, stop) = (trial.copy.database().url().to_owned(), CancellationToken::new());
    let until = stop.clone();
    tokio::spawn(async move {
        let mut connection = AnyConnection::connect(&url).await.expect("a connection");
        while !until.is_cancelled() {
            let failed = sqlx::raw_sql(sql).execute(&mut connection).await.is_err();
            // Once the server is gone, the test is over.
            if failed && sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.is_err() {
                return;
            }
        }
        let _ = connection.close().await;
    });
    stop
}
