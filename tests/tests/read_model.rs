//! The read model's database may be emptied, lost or restored: it refills automatically. It reports that it is ready
//! once it is full, and keeps doing so, whatever else fails.

use std::time::Duration;

use nudge_tests::{
    Copy, Fault, Nats, Owner, QUIET, ReadModel, Wire, eventually, keep_tables, put_tables_back,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

async fn put_some(owner: &Owner, n: usize) {
    let ids: Vec<_> = (0..50).map(|m| format!("thing-{n}-{m}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(n))).collect();
    owner.put_all(&things).await;
}

/// The answer of `/readyz`.
async fn ready(copy: &Copy) -> (u16, bool) {
    let answer = reqwest::get(copy.admin("../../readyz")).await.expect("an answer");
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.expect("JSON");
    (status, body["ready"] == true)
}

async fn becomes_ready(copy: &Copy) {
    let ready = || async { (ready(copy).await == (200, true)).then_some(()) };
    eventually("it is ready", ready).await;
}

/// Waits until everything in the stream is handled and the database has the position.
async fn at_the_end(copy: &Copy, wire: &Wire) {
    eventually("the position is the stream's end", || async {
        let sql = "SELECT position FROM nudge_intake";
        let row: Option<(i64,)> =
            sqlx::query_as(sql).fetch_optional(copy.db.reader()).await.expect("a row");
        (row?.0 as u64 == wire.last_sequence().await).then_some(())
    })
    .await;
}

/// An owner of some things, and a copy that has all of them and has stored its position.
async fn followed(nats: &Nats) -> (Owner, Wire, Copy) {
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    put_some(&owner, 1).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    (owner, wire, copy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_whose_database_is_lost_refills() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    put_some(&owner, 1).await;
    owner.delete("thing-1-7").await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let model = copy.stop().await;
    model.database.lose().await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    becomes_ready(&copy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_that_is_emptied_while_it_runs_refills() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    put_some(&owner, 1).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    for n in 2..=3 {
        let mut tx = copy.db.begin().await.expect("a transaction");
        for sql in [
            "DELETE FROM copy",
            "DELETE FROM nudge_applied",
            "DELETE FROM nudge_intake",
            "DELETE FROM nudge_intake_replica",
            "DELETE FROM nudge_dead_letter",
        ] {
            sqlx::query(sql).execute(&mut *tx).await.expect("rows are deleted");
        }
        tx.commit().await.expect("it commits");
        put_some(&owner, n).await;
        copy.converged(&owner).await;
        becomes_ready(&copy).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_whose_rows_are_put_back_reads_the_gap_again() {
    let nats = Nats::start().await;
    let (owner, wire, copy) = followed(&nats).await;
    keep_tables(&copy.db, &TABLES).await;
    // Changed, new, deleted, and left alone.
    owner.put("thing-1-1", json!("changed")).await;
    put_some(&owner, 2).await;
    owner.delete("thing-1-2").await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let model = copy.stop().await;
    let db = model.open().await;
    put_tables_back(&db, &TABLES).await;
    db.close().await;
    let asked = owner.times_asked("thing-1-3");
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    assert_eq!(owner.times_asked("thing-1-3"), asked, "only the gap is read again");
    becomes_ready(&copy).await;
}

/// Empties the read model and changes its position, as an older copy of its rows would.
async fn forget_all(model: &ReadModel, position: &'static str) {
    let db = model.open().await;
    for sql in ["DELETE FROM nudge_applied", "DELETE FROM copy", position] {
        db.write(sqlx::query(sql)).await.expect("it is written");
    }
    db.close().await;
}

/// The consumer has delivered everything, so nothing but the gap is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_before_the_gap_is_read_again() {
    let nats = Nats::start().await;
    let (owner, _, copy) = followed(&nats).await;
    let model = copy.stop().await;
    forget_all(&model, "UPDATE nudge_intake SET position = 0, caught_up_at = NULL").await;
    owner.go_away().await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    eventually("the owner was asked", || async {
        (copy.status().await["breaker"] == "open").then_some(())
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert!(!ready(&copy).await.1);
    owner.come_back().await;
    copy.converged(&owner).await;
    becomes_ready(&copy).await;
}

/// Another replica has followed the new stream in the meantime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_in_another_stream_says_nothing_of_this_one() {
    let nats = Nats::start().await;
    let (owner, wire, copy) = followed(&nats).await;
    let model = copy.stop().await;
    forget_all(&model, "UPDATE nudge_intake SET position = 1000000, stream_created = 'another'")
        .await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    becomes_ready(&copy).await;
}

/// Another file, or another database in the server: others may have one with the same rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_put_back_from_a_backup_refills() {
    let nats = Nats::start().await;
    let (owner, wire, copy) = followed(&nats).await;
    let model = copy.stop().await;
    let backup = model.database.back_up().await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    owner.put("thing-1-1", json!("changed")).await;
    put_some(&owner, 2).await;
    owner.delete("thing-1-2").await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let model = copy.stop().await;
    model.database.put_back(&backup).await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    becomes_ready(&copy).await;
}

/// As above, but the program ends before the messages in between are handled. The position must stay until then;
/// otherwise the next program would never ask for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_put_back_whose_subscriber_ends_before_it_has_caught_up_catches_up() {
    let nats = Nats::start().await;
    let (owner, wire, copy) = followed(&nats).await;
    keep_tables(&copy.db, &TABLES).await;
    put_some(&owner, 2).await;
    owner.delete("thing-1-2").await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let model = copy.stop().await;
    let db = model.open().await;
    put_tables_back(&db, &TABLES).await;
    db.close().await;
    let before = position(&model).await;
    // The owner cannot be asked now.
    owner.go_away().await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    eventually("it is connected", || async {
        (copy.status().await["connected"] == true).then_some(())
    })
    .await;
    // It checks its position once a second.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let model = copy.stop().await;
    assert_eq!(position(&model).await, before);
    owner.come_back().await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
}

/// The broker uses the same sequences again: a position beyond them would count future messages as handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_position_goes_back_with_the_broker() {
    let mut nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let some = async |n: usize| {
        for m in 0..10 {
            wire.notify(&owner.put(&format!("thing-{n}-{m}"), json!(n)).await).await;
        }
        copy.converged(&owner).await;
        at_the_end(&copy, &wire).await;
    };
    some(1).await;
    nats.kill();
    let backup = nats.back_up();
    nats.restart().await;
    some(2).await;
    nats.kill();
    nats.put_back(backup);
    nats.restart().await;
    at_the_end(&copy, &wire).await;
    assert_eq!(wire.last_sequence().await, 10);
    some(3).await;
}

/// The position in a read model on which nothing runs.
async fn position(model: &ReadModel) -> i64 {
    let db = model.open().await;
    let sql = "SELECT position FROM nudge_intake";
    let (position,) = sqlx::query_as(sql).fetch_one(db.reader()).await.expect("a row");
    db.close().await;
    position
}

async fn identity(copy: &Copy) -> String {
    let row = sqlx::query_as("SELECT consumer FROM nudge_intake").fetch_one(copy.db.reader());
    let (consumer,): (String,) = row.await.expect("a row");
    consumer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_read_model_beside_the_original_is_told_of_everything() {
    let nats = Nats::start().await;
    let (owner, wire, original) = followed(&nats).await;
    let first = identity(&original).await;
    let model = original.stop().await;
    let mut beside = model.clone();
    beside.database = std::sync::Arc::new(model.database.duplicate().await);
    // A change that only the original gets.
    let original = model.start(&nats.broker("copies").await, &owner).await;
    owner.put("thing-1-1", json!("changed")).await;
    owner.delete("thing-1-2").await;
    original.converged(&owner).await;
    at_the_end(&original, &wire).await;
    let copy = beside.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    for n in 2..5 {
        put_some(&owner, n).await;
        owner.put("thing-1-1", json!(n)).await;
        original.converged(&owner).await;
        copy.converged(&owner).await;
    }
    assert_eq!(identity(&original).await, first, "the original goes on as what it was");
    let of_its_own = identity(&copy).await;
    assert_ne!(of_its_own, first);
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    becomes_ready(&copy).await;
    assert_eq!(identity(&copy).await, of_its_own, "once is enough");
}

/// A row of a release that did not store its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_of_an_earlier_release_goes_on_where_it_was() {
    let nats = Nats::start().await;
    let (owner, wire, copy) = followed(&nats).await;
    let first = identity(&copy).await;
    let forget = sqlx::query("UPDATE nudge_intake SET place = NULL");
    copy.db.write(forget).await.expect("it is forgotten");
    let calls = owner.calls();
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    goes_on(&copy, &wire).await;
    assert_eq!((identity(&copy).await, owner.calls()), (first, calls));
    let place = sqlx::query_as("SELECT place FROM nudge_intake").fetch_one(copy.db.reader());
    let (place,): (Option<String>,) = place.await.expect("a row");
    assert!(place.is_some());
}

mod once {
    use nudge_runtime::database::{Database, Durability, Kind};
    use nudge_tests::TestDatabase;

    #[tokio::test]
    async fn a_file_that_is_moved_stays_in_its_place_and_one_that_is_copied_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = async |name: &str| {
            let url = format!("sqlite:{}", dir.path().join(name).display());
            let db = Database::open(&url, Durability::Full).await.expect("it opens");
            let place = db.place_of("anything").await.expect("a place");
            db.close().await;
            place
        };
        let path = |name: &str| dir.path().join(name);
        let first = place("search.db").await;
        assert_eq!(place("search.db").await, first);
        std::fs::rename(path("search.db"), path("moved.db")).expect("it is moved");
        assert_eq!(place("moved.db").await, first);
        std::fs::copy(path("moved.db"), path("copy.db")).expect("it is copied");
        assert_ne!(place("copy.db").await, first);
        // The number of a removed file is used again.
        std::fs::remove_file(path("moved.db")).expect("it is removed");
        std::fs::copy(path("copy.db"), path("moved.db")).expect("it is copied");
        assert_ne!(place("moved.db").await, first);
    }

    #[tokio::test]
    async fn a_dump_that_is_read_elsewhere_in_the_server_is_in_another_place() {
        let database = TestDatabase::of(Kind::Postgres).await;
        let db = database.open().await;
        let make = "CREATE TABLE here (id TEXT)";
        db.write(sqlx::query(make)).await.expect("a table");
        let first = db.place_of("here").await.expect("a place");
        assert!(first.split(' ').all(|part| !part.is_empty()), "{first:?}");
        assert_eq!(db.place_of("here").await.expect("a place"), first);
        // Like `pg_dump --schema`.
        db.write(sqlx::query("ALTER TABLE here RENAME TO original")).await.expect("renamed");
        db.write(sqlx::query(make)).await.expect("a table");
        assert_ne!(db.place_of("here").await.expect("a place"), first);
        db.close().await;
        let copy = database.duplicate().await;
        let copy = copy.open().await;
        assert_ne!(copy.place_of("original").await.expect("a place"), first);
        copy.close().await;
    }
}

/// The tables of a read model of things.
const TABLES: [&str; 5] =
    ["copy", "nudge_applied", "nudge_intake", "nudge_intake_replica", "nudge_dead_letter"];

/// Like a database server that is restored to an earlier time: nothing restarts, and the consumer's name in the row is
/// the same. Two replicas, so that neither may take the other's progress for a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_put_back_while_it_runs_catches_up() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let other = copy.replica(&nats.broker("copies").await, &owner).await;
    put_some(&owner, 1).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    keep_tables(&copy.db, &TABLES).await;
    owner.put("thing-1-1", json!("changed")).await;
    put_some(&owner, 2).await;
    owner.delete("thing-1-2").await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let replaced = async || {
        let replaced = "nudge_read_model_replaced_total";
        copy.metric(replaced).await + other.metric(replaced).await
    };
    assert_eq!(replaced().await, 0, "each may find the other ahead");
    put_tables_back(&copy.db, &TABLES).await;
    // Other changes continue, so the position would move past what was lost.
    owner.put("thing-1-3", json!("changed")).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    assert!(replaced().await > 0);
}

/// While an unhandled message keeps the position in place, only the commits reveal it, and the last of them may have
/// been overwritten already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_put_back_below_a_position_that_stands_still_catches_up() {
    let nats = Nats::start().await;
    let (owner, _, copy) = followed(&nats).await;
    let gate = CancellationToken::new();
    let (held, _open) = (gate.clone(), gate.clone().drop_guard());
    owner.misbehave(move |ids| ids.contains(&"held".into()).then(|| Fault::Until(held.clone())));
    owner.put("held", json!(1)).await;
    eventually("it is asked for", || async { (owner.times_asked("held") > 0).then_some(()) }).await;
    keep_tables(&copy.db, &TABLES).await;
    for id in ["thing-1-1", "thing-1-2"] {
        copy.wait(&owner.put(id, json!("changed")).await).await;
        // One of the checks, which are a second apart, finds it in the database now.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    put_tables_back(&copy.db, &TABLES).await;
    copy.wait(&owner.put("thing-1-2", json!("changed again")).await).await;
    gate.cancel();
    copy.converged(&owner).await;
}

/// It has committed nothing itself that it could miss: only its position reveals it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_put_back_under_a_subscriber_that_has_just_started_catches_up() {
    let nats = Nats::start().await;
    let (owner, wire, copy) = followed(&nats).await;
    keep_tables(&copy.db, &TABLES).await;
    owner.put("thing-1-1", json!("changed")).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    goes_on(&copy, &wire).await;
    put_tables_back(&copy.db, &TABLES).await;
    owner.put("thing-1-2", json!("changed")).await;
    copy.converged(&owner).await;
}

/// Waits until it is connected and has read its position.
async fn goes_on(copy: &Copy, wire: &Wire) {
    eventually("it is connected", || async {
        let status = copy.status().await;
        (status["connected"] == true && status["position"] == wire.last_sequence().await)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_was() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    put_some(&owner, 1).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let calls = owner.calls();
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    goes_on(&copy, &wire).await;
    copy.quiet().await;
    assert_eq!(owner.calls(), calls, "nothing is asked for again");
    copy.wait(&owner.put("new", json!(1)).await).await;
    assert_eq!(owner.calls(), calls + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_once_it_has_caught_up_and_stays_so() {
    let mut nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    for n in 0..5 {
        wire.notify(&owner.put(&format!("thing-{n}"), json!(n)).await).await;
    }
    let gate = CancellationToken::new();
    let held = gate.clone();
    owner.misbehave(move |_| Some(Fault::Until(held.clone())));
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    eventually("it is catching up", || async {
        (copy.status().await["processing"].as_u64()? > 0).then_some(())
    })
    .await;
    assert_eq!(ready(&copy).await, (503, false));
    gate.cancel();
    becomes_ready(&copy).await;
    assert_eq!(copy.all().await, owner.all().await, "ready means full");

    nats.kill();
    owner.go_away().await;
    eventually("it has noticed", || async {
        (copy.status().await["connected"] == false).then_some(())
    })
    .await;
    assert_eq!(ready(&copy).await, (200, true));

    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    // The broker is gone, so it can only become ready from what it has stored.
    becomes_ready(&copy).await;
    assert_eq!(copy.all().await, owner.all().await);
    let status = copy.status().await;
    assert_eq!((&status["connected"], &status["caught_up"]), (&json!(false), &json!(true)));
}
