//! `record` inside the caller's transaction, and the versions that it gives.

use nudge_protocol::{Change, Version, version::VERSION_LIMIT};
use nudge_tests::{Nats, Owner, id};
use serde_json::json;

use crate::publisher::support::{another_program, execute, messages, published, row, rows, shown};

#[tokio::test]
async fn versions_rise_with_every_change_in_one_transaction_too() {
    let owner = Owner::start_silent().await;
    let mut tx = owner.publisher.begin().await.unwrap();
    let before = nudge_runtime::clock::now().unix_micros();
    let mut versions = Vec::new();
    for _ in 0..100 {
        let version = owner.publisher.record(&mut tx, &id("42"), Change::Updated).await.unwrap();
        versions.push(version);
    }
    owner.publisher.commit(tx).await.unwrap();
    assert_eq!(row(&owner.db, "42").await.version, versions[99].get());
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    // They are times, so they keep rising after the database was restored from a backup.
    assert!(versions[0].to_i64() >= before, "{versions:?}");
    let later = nudge_runtime::clock::now().unix_micros();
    assert!(owner.put("42", json!({})).await.version.to_i64() >= later);
    assert!(versions[99].get() < VERSION_LIMIT);
}

#[tokio::test]
async fn a_version_goes_on_above_one_that_is_ahead_of_the_clock() {
    let owner = Owner::start_silent().await;
    let first = owner.put("42", json!({})).await.version.get();
    owner.put("43", json!({})).await;
    execute(
        &owner.db,
        "UPDATE nudge_change_log SET version = version + 3600000000 WHERE id = '42'",
    )
    .await;
    // The clock seems to have stopped for 42, as it does within one microsecond.
    let mut expected = first + 3_600_000_000;
    for _ in 0..3 {
        expected += 1;
        assert_eq!(owner.put("42", json!({})).await.version.get(), expected);
    }
    assert_eq!(owner.delete("42").await.version.get(), expected + 1);
    // Other things are not affected.
    let other = owner.put("43", json!({})).await.version.to_i64();
    assert!(other <= nudge_runtime::clock::now().unix_micros());
}

#[tokio::test]
async fn versions_rise_through_delete_and_re_creation() {
    let owner = Owner::start_silent().await;
    let mut last = Version::NONE;
    for _ in 0..3 {
        let created = owner.put("42", json!({})).await.version;
        let deleted = owner.delete("42").await.version;
        assert!(last < created && created < deleted);
        last = deleted;
        let mut tx = owner.db.snapshot().await.unwrap();
        let recorded = owner.publisher.recorded(&mut tx, &[id("42"), id("43")]).await.unwrap();
        assert_eq!(recorded.len(), 1, "43 was never recorded");
        assert!(recorded[&id("42")].deleted);
        assert_eq!(recorded[&id("42")].version, deleted);
    }
    assert_eq!(rows(&owner.db).await.len(), 1);
}

#[tokio::test]
async fn many_are_recorded_at_once_and_answered_in_the_order_asked() {
    let owner = Owner::start_silent().await;
    owner.put_all(&[("나", json!({})), ("a", json!({}))]).await;
    execute(&owner.db, "UPDATE nudge_change_log SET version = version + 3600000000 WHERE id = 'a'")
        .await;
    let ids = ["z", "나", "a", "10", "9", "B"];
    let changes = ids.map(|text| (id(text), Change::Updated));
    let mut tx = owner.publisher.begin().await.unwrap();
    let versions = owner.publisher.record_all(&mut tx, &changes).await.unwrap();
    owner.publisher.commit(tx).await.unwrap();
    let rows = rows(&owner.db).await;
    assert_eq!(rows.len(), ids.len());
    let logged = ids.map(|id| rows[id].version);
    assert_eq!(versions.iter().map(|v| v.get()).collect::<Vec<_>>(), logged);
}

#[tokio::test]
async fn a_version_beyond_the_limit_is_refused_and_the_old_row_stays() {
    let owner = Owner::start_silent().await;
    owner.put("42", json!({})).await;
    // 2^53 - 1, the last one.
    execute(&owner.db, "UPDATE nudge_change_log SET version = 9007199254740991").await;
    let mut tx = owner.publisher.begin().await.unwrap();
    let recorded = owner.publisher.record(&mut tx, &id("42"), Change::Updated).await;
    assert!(recorded.is_err(), "{recorded:?}");
    drop(tx);
    assert_eq!(row(&owner.db, "42").await.version, VERSION_LIMIT - 1);
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_or_dropped_publishes_nothing_and_leaves_no_row() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    for dropped in [false, true] {
        let mut tx = owner.publisher.begin().await.unwrap();
        sqlx::query("INSERT INTO thing VALUES ('42', '{}')").execute(&mut *tx).await.unwrap();
        owner.publisher.record(&mut tx, &id("42"), Change::Created).await.unwrap();
        if dropped {
            drop(tx);
        } else {
            tx.rollback().await.unwrap();
        }
        owner.publisher.wake();
        // What comes after it in the log is published, so the relay has passed this row.
        owner.put(if dropped { "dropped" } else { "rolled back" }, json!({})).await;
        published(&owner.db).await;
    }
    let logged: Vec<_> = rows(&owner.db).await.into_keys().collect();
    assert_eq!(logged, ["dropped", "rolled back"]);
    let shown: Vec<_> = messages(&nats).await.iter().map(|message| message.id()).collect();
    assert_eq!(shown, ["rolled back", "dropped"]);
}

#[tokio::test]
async fn a_commit_by_another_program_is_published_without_being_told() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    owner.put("mine", json!({})).await;
    published(&owner.db).await;
    let other = another_program(&owner.db).await;
    let publisher = nudge_publisher::Publisher::open(&other, crate::publisher::support::thing());
    let publisher = publisher.await.unwrap();
    let mut tx = publisher.begin().await.unwrap();
    publisher.record(&mut tx, &id("theirs"), Change::Updated).await.unwrap();
    publisher.commit(tx).await.unwrap();
    shown(&nats, &owner.db).await;
    assert_eq!(messages(&nats).await.len(), 2);
}
