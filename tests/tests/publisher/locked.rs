//! Rows that a writer keeps locked, which only PostgreSQL has.

use std::sync::Arc;

use nudge_protocol::subject;
use nudge_runtime::database::Kind;
use nudge_tests::{Nats, Owner, TestDatabase, eventually};
use serde_json::json;
use sqlx::{AnyConnection, Connection};

use crate::publisher::support::{STREAM, age, message, published, row, thing};

/// On its subject stands no entity, so that the stream holds as many messages as it should.
const STRAY: &str = "changes.thing.%";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_locked_when_it_has_to_be_published_again_is_not_forgotten() {
    assert!(subject::decode_subject(&thing(), STRAY).is_err());
    let nats = Nats::start().await;
    let database = Arc::new(TestDatabase::of(Kind::Postgres).await);
    let owner = Owner::start_silent_on(database, "thing").await;
    owner.put_all(&[("free", json!({})), ("locked", json!({}))]).await;
    owner.second_relay(&nats.broker("things").await);
    published(&owner.db).await;
    age(&owner.db).await;
    let mut writer = AnyConnection::connect(owner.database.url()).await.unwrap();
    let lock = "BEGIN; SELECT id FROM nudge_change_log WHERE id = 'locked' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut writer).await.unwrap();
    let jetstream = nats.jetstream().await;
    jetstream.delete_stream(STREAM).await.unwrap();
    assert_eq!(message(&nats, "free").await.id(), "free");
    let stray = jetstream.publish(STRAY, "{}".into()).await.unwrap();
    stray.await.unwrap();
    let locked = row(&owner.db, "locked").await;
    assert_eq!(locked.version, locked.published_version, "it looks published");

    drop(writer);
    eventually("it is published again", || async {
        let stream = jetstream.get_stream(STREAM).await.ok()?;
        (stream.cached_info().state.messages == 3).then_some(())
    })
    .await;
}
