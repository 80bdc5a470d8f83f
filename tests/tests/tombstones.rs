//! Unknown does not mean deleted, unless the owner is declared to keep no tombstones.

use std::time::Duration;

use nudge_protocol::Version;
use nudge_subscriber_kit::Subscriber;
use nudge_tests::{
    Fault, Nats, Owner, ReadModel, TestDatabase, Wire, copy, eventually, owner::ENTITY,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Follows `owner`, applies "42", then makes the owner forget it. Returns the number of copies once the key is parked
/// or applied as deleted.
async fn copies_left_after_the_owner_forgot(no_tombstones: bool) -> i64 {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let mut tx = db.begin().await.unwrap();
    let create = "CREATE TABLE copy (id TEXT PRIMARY KEY, version BIGINT, body TEXT)";
    sqlx::query(create).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let broker = nats.broker("copies").await;
    let builder = Subscriber::builder("copies", &db, &broker)
        .follow(ENTITY, &owner.url(), copy::Keep::default())
        .settings(copy::quick());
    let builder = if no_tombstones { builder.owner_keeps_no_tombstones(ENTITY) } else { builder };
    let stop = CancellationToken::new();
    let subscriber = builder.start(stop.clone()).await.unwrap();

    let row = |sql: &'static str| {
        let db = db.clone();
        async move { sqlx::query_as::<_, (i64,)>(sql).fetch_one(db.reader()).await.unwrap().0 }
    };
    let token = owner.put("42", json!({})).await;
    eventually("42 is applied", || async {
        let version = row("SELECT COALESCE(max(version), 0) FROM nudge_applied").await;
        (Version::try_from(version) == Ok(token.version)).then_some(())
    })
    .await;
    owner.misbehave(|ids| {
        let forgotten = Fault::Body(r#"{"items":[{"id":"42","status":"unknown"}]}"#);
        ids.contains(&"42".to_owned()).then_some(forgotten)
    });
    owner.delete("42").await;
    eventually("42 is settled", || async {
        let deleted = row("SELECT count(*) FROM nudge_applied WHERE deleted = 1").await;
        let parked = row("SELECT count(*) FROM nudge_dead_letter").await;
        (deleted + parked > 0).then_some(())
    })
    .await;
    let left = row("SELECT count(*) FROM copy").await;
    stop.cancel();
    subscriber.stopped().await;
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_does_not_know_stays_and_is_parked() {
    assert_eq!(copies_left_after_the_owner_forgot(false).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_keeps_no_tombstones_deletes_by_not_knowing_twice() {
    assert_eq!(copies_left_after_the_owner_forgot(true).await, 0);
}

/// A lagging replica of the owner may not know it yet, or no longer: only the second look counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_owner_that_keeps_no_tombstones_the_first_unknown_deletes_nothing() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let mut tx = db.begin().await.unwrap();
    let create = "CREATE TABLE copy (id TEXT PRIMARY KEY, version BIGINT, body TEXT)";
    sqlx::query(create).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let stop = CancellationToken::new();
    let subscriber = Subscriber::builder("copies", &db, &nats.broker("copies").await)
        .follow(ENTITY, &owner.url(), copy::Keep::default())
        .owner_keeps_no_tombstones(ENTITY)
        .settings(copy::quick())
        .start(stop.clone())
        .await
        .unwrap();
    let count = |sql: &'static str| {
        let db = db.clone();
        async move { sqlx::query_as::<_, (i64,)>(sql).fetch_one(db.reader()).await.unwrap().0 }
    };
    owner.put("42", json!({})).await;
    eventually("42 is applied", || async {
        (count("SELECT count(*) FROM nudge_applied WHERE deleted = 0").await == 1).then_some(())
    })
    .await;
    // Answered first by a replica that does not know it, and then by one that does.
    let stale = std::sync::atomic::AtomicBool::new(true);
    owner.misbehave(move |ids| {
        let asked = ids.contains(&"42".to_owned());
        let forgotten = Fault::Body(r#"{"items":[{"id":"42","status":"unknown"}]}"#);
        (asked && stale.swap(false, std::sync::atomic::Ordering::SeqCst)).then_some(forgotten)
    });
    let before = owner.times_asked("42");
    wire.announce("42", None).await;
    eventually("42 is looked at twice, or taken for deleted", || async {
        let deleted = count("SELECT count(*) FROM nudge_applied WHERE deleted = 1").await;
        (owner.times_asked("42") >= before + 2 || deleted == 1).then_some(())
    })
    .await;
    eventually("42 is settled", || async {
        (count("SELECT count(*) FROM nudge_dead_letter").await == 0).then_some(())
    })
    .await;
    assert_eq!(count("SELECT count(*) FROM copy").await, 1);
    assert_eq!(count("SELECT count(*) FROM nudge_applied WHERE deleted = 1").await, 0);
    stop.cancel();
    subscriber.stopped().await;
}

/// Someone publishes on subjects of things that never existed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_ids_are_kept_in_bounded_number_and_given_up_in_the_end() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let mut model = ReadModel::new().await;
    model.settings.max_unknown_keys = 100;
    model.settings.max_attempts_in_memory = 2;
    model.settings.max_unknown_attempts = 4;
    model.settings.unknown_retry.initial = Duration::from_secs(3_600);
    model.settings.unknown_retry.max = Duration::from_secs(3_600);
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    wire.announce_all((0..1_000).map(|n| format!("made-up-{n}"))).await;
    eventually("all but a few are given up", || async {
        let given_up = copy.metric("nudge_given_up_total").await;
        (given_up >= 900 && copy.status().await["parked"] == 100).then_some(())
    })
    .await;
    // True changes are followed in the meantime.
    copy.wait(&owner.put("42", json!(1)).await).await;
    // One of them is created, and is applied as usual.
    copy.wait(&owner.put("made-up-7", json!(1)).await).await;
    copy.converged(&owner).await;
}

/// With short delays, so that the end is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_stays_unknown_is_given_up_unless_it_is_applied_here() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let mut model = ReadModel::new().await;
    model.settings.max_attempts_in_memory = 2;
    model.settings.max_unknown_attempts = 4;
    model.settings.unknown_retry.initial = Duration::from_millis(200);
    model.settings.unknown_retry.max = Duration::from_millis(400);
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    let applied = owner.put("applied", json!(1)).await;
    wire.notify(&applied).await;
    copy.wait(&applied).await;
    owner.forget("applied").await;
    for id in ["applied", "never"] {
        wire.announce(id, None).await;
    }
    eventually("the one that never was is given up", || async {
        (copy.metric("nudge_given_up_total").await == 1).then_some(())
    })
    .await;
    let asked = owner.times_asked("applied");
    eventually("the other is still asked for", || async {
        (owner.times_asked("applied") > asked + 2).then_some(())
    })
    .await;
    let left = copy.dead_letters(1).await;
    assert_eq!(left[0]["id"], "applied");
    assert_eq!(copy.metric("nudge_given_up_total").await, 1);
    assert_eq!(copy.body("applied").await, Some(json!(1)), "unknown is not deleted");
}
