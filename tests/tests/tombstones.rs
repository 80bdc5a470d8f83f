//! Unknown is not deleted, unless the owner is said to keep no tombstones.

use nudge_protocol::Version;
use nudge_subscriber_kit::Subscriber;
use nudge_tests::{Fault, Nats, Owner, TestDatabase, copy, eventually, owner::ENTITY};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Follows `owner`, applies "42", then makes the owner forget it. Returns how many copies are left
/// once the key is parked or applied as deleted.
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
