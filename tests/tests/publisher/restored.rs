//! The owner is restored from a backup, and so forgets versions that everyone else knows.

use std::sync::Arc;

use nudge_tests::{
    Backup, Copy, Nats, Owner, QUIET, Wire, eventually, keep_tables, put_tables_back,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::publisher::support::{Interrupted, Step, execute, message, published, row, shown};

/// An owner of three things, and a copy of its database.
async fn backed_up(nats: &Nats) -> (Owner, Backup) {
    let owner = Owner::start(&nats.broker("owner").await).await;
    for id in ["a", "b", "c"] {
        owner.put(id, json!("old")).await;
    }
    published(&owner.db).await;
    owner.back_up().await
}

/// After the backup, one thing is changed, one deleted, one created, and one left alone.
async fn changed_since(nats: &Nats, owner: &Owner, copy: &Copy) {
    owner.second_relay(&nats.broker("owner").await);
    owner.put("a", json!("new")).await;
    owner.delete("b").await;
    owner.put("d", json!("new")).await;
    published(&owner.db).await;
    copy.converged(owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_comes_back_to_what_a_restored_owner_says() {
    let nats = Nats::start().await;
    let (owner, backup) = backed_up(&nats).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    changed_since(&nats, &owner, &copy).await;
    let mut before = Vec::new();
    for id in ["a", "b", "c", "d"] {
        before.push((id, row(&owner.db, id).await.version));
    }
    let owner = owner.put_back(&backup).await;
    owner.second_relay(&nats.broker("owner").await);
    copy.converged(&owner).await;
    let is = |id: &str| (id.to_owned(), "\"old\"".to_owned());
    assert_eq!(copy.all().await, [is("a"), is("b"), is("c")]);
    shown(&nats, &owner.db).await;
    for (id, version) in before {
        let now = row(&owner.db, id).await.version;
        // The one that was left alone needs no new version.
        assert_eq!(now > version, id != "c", "{id}: {version}, {now}");
    }
    assert_eq!(message(&nats, "d").await.change(), "deleted");
    owner.put("d", json!("newest")).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_writer_has_a_restored_row_nothing_is_published_over_the_newer_version() {
    let nats = Nats::start().await;
    let (owner, _) = backed_up(&nats).await;
    // No relay runs, so it is pending in the backup.
    owner.put("a", json!("pending")).await;
    let (owner, backup) = owner.back_up().await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    changed_since(&nats, &owner, &copy).await;
    let newer = row(&owner.db, "a").await.version;
    let owner = owner.put_back(&backup).await;
    let mut writer = owner.database.open().await.begin().await.unwrap();
    let hold = "UPDATE nudge_change_log SET change = change WHERE id = 'a'";
    sqlx::query(hold).execute(&mut *writer).await.unwrap();
    owner.second_relay(&nats.broker("owner").await);
    tokio::time::sleep(QUIET).await;
    assert_eq!(message(&nats, "a").await.version(), newer);
    writer.rollback().await.unwrap();
    copy.converged(&owner).await;
    assert!(row(&owner.db, "a").await.version > newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_before_the_first_relay_is_as_good_as_any() {
    let nats = Nats::start().await;
    let owner = Owner::start_silent().await;
    owner.put("a", json!("old")).await;
    let (owner, backup) = owner.back_up().await;
    owner.second_relay(&nats.broker("owner").await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let newer = owner.put("a", json!("new")).await.version.get();
    owner.put("b", json!("new")).await;
    copy.converged(&owner).await;
    published(&owner.db).await;
    let owner = owner.put_back(&backup).await;
    owner.second_relay(&nats.broker("owner").await);
    copy.converged(&owner).await;
    assert_eq!(copy.all().await, [("a".to_owned(), "\"old\"".to_owned())]);
    assert!(row(&owner.db, "a").await.version > newer);
}

const KEPT: [&str; 3] = ["thing", "nudge_change_log", "nudge_relay_stream"];

/// Nothing restarts, and the relay has nothing to publish that would make it check.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_notices_that_its_database_was_put_back_under_it() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("owner").await).await;
    for id in ["a", "b", "c"] {
        owner.put(id, json!("old")).await;
    }
    published(&owner.db).await;
    keep_tables(&owner.db, &KEPT).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put("a", json!("new")).await;
    owner.delete("b").await;
    owner.put("d", json!("new")).await;
    published(&owner.db).await;
    copy.converged(&owner).await;
    let newer = row(&owner.db, "a").await.version;
    put_tables_back(&owner.db, &KEPT).await;
    eventually("the owner has a fresh version", || async {
        (row(&owner.db, "a").await.version > newer).then_some(())
    })
    .await;
    copy.converged(&owner).await;
    let is = |id: &str| (id.to_owned(), "\"old\"".to_owned());
    assert_eq!(copy.all().await, [is("a"), is("b"), is("c")]);
    shown(&nats, &owner.db).await;
}

/// Rows that were pending in the backup are published at once. If the relay did not check the log before, it would
/// publish over the only message that reveals the newer version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_from_a_log_that_was_put_back_before_the_stream_is_read() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("owner").await).await;
    owner.put("a", json!("old")).await;
    published(&owner.db).await;
    keep_tables(&owner.db, &KEPT).await;
    execute(&owner.db, "UPDATE kept_nudge_change_log SET published_version = 0").await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put("a", json!("new")).await;
    published(&owner.db).await;
    copy.converged(&owner).await;
    let newer = row(&owner.db, "a").await.version;
    put_tables_back(&owner.db, &KEPT).await;
    published(&owner.db).await;
    copy.converged(&owner).await;
    assert_eq!(copy.all().await, [("a".to_owned(), "\"old\"".to_owned())]);
    assert!(row(&owner.db, "a").await.version > newer);
}

/// What the relay found out earlier does not apply to the restored log, and must not be recorded there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_put_back_while_the_relay_looks_at_its_stream_is_compared_with_all_of_it() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let (broker, db) = (nats.broker("owner").await, owner.db.clone());
    let sink = Arc::new(Interrupted::new(broker));
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    owner.publisher.spawn_relay_to(sink.clone(), stop);
    for id in ["a", "b"] {
        owner.put(id, json!("old")).await;
    }
    published(&owner.db).await;
    keep_tables(&owner.db, &KEPT).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    owner.put("a", json!("new")).await;
    owner.delete("b").await;
    published(&owner.db).await;
    copy.converged(&owner).await;
    let newer = row(&owner.db, "a").await.version;
    // Before it reads on, and after it has asked everything else.
    sink.before(Step::ReadOn, async move { put_tables_back(&db, &KEPT).await });
    // There is something to read on, which does not reveal what was lost.
    wire.send("changes.thing.%00", None, b"").await.expect("the stream takes it");
    eventually("it is put back", || async { sink.is_done().then_some(()) }).await;
    eventually("the owner has a fresh version", || async {
        (row(&owner.db, "a").await.version > newer).then_some(())
    })
    .await;
    copy.converged(&owner).await;
}
