use nudge_runtime::{Database, database::Driver};

use super::*;
use crate::{
    plain::{database, helper},
    plan::Plan,
    profile::Profile,
};

/// A subscriber, and a database with one row in it.
async fn program() -> (Arc<Node>, Database) {
    let world = World::new(Plan::new(Profile::Benign, 0));
    let node = Node::new("it", (0, 1), Role::Subscriber, world, helper());
    let db = database(&helper()).await.with_driver(Driver::Stepped(node.clone()));
    db.write(sqlx::query("CREATE TABLE thing (n BIGINT)")).await.unwrap();
    insert(&db).await;
    (node, db)
}

async fn insert(db: &Database) {
    db.write(sqlx::query("INSERT INTO thing VALUES (1)")).await.unwrap();
}

/// What those see who are still there.
async fn rows(node: &Arc<Node>, db: &Database) -> i64 {
    let other = Node::new("other", (0, 1), Role::Subscriber, node.world.clone(), helper());
    let db = db.clone().with_driver(Driver::Stepped(other));
    let count = sqlx::query_as("SELECT count(*) FROM thing").fetch_one(db.reader());
    let (count,): (i64,) = db.run(count).await.unwrap();
    count
}

fn counted(node: &Arc<Node>) -> Vec<Fault> {
    node.world.happened().iter().map(|one| one.fault).collect()
}

#[tokio::test(start_paused = true)]
async fn a_program_that_stands_still_does_no_database_work_either() {
    let (node, db) = program().await;
    node.world.force(Fault::FreezeSubscriber);
    let frozen = tokio::spawn({
        let node = node.clone();
        async move { node.boundary(Fault::CrashBeforeFetch).await }
    });
    tokio::task::yield_now().await;
    let until = *node.frozen_until.lock();
    assert!(!until.is_zero());
    let began = db.run(async { Ok::<_, sqlx::Error>(node.world.elapsed()) }).await.unwrap();
    assert!(began >= until, "{began:?} {until:?}");
    frozen.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transaction_in_which_a_program_ends_is_rolled_back() {
    let (node, db) = program().await;
    let crash = Fault::CrashInTransaction;
    // Now and then it is the second transaction of the work, and there is none.
    node.world.force(crash);
    let work = tokio::spawn({
        let db = db.clone();
        async move { insert(&db).await }
    });
    node.death().await;
    assert!(!work.is_finished());
    let done = counted(&node) == [Fault::CrashAfterDatabase];
    assert!(done || counted(&node) == [crash]);
    assert_eq!(rows(&node, &db).await, if done { 2 } else { 1 });
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_a_transaction_that_never_begins_is_one_after_the_work() {
    let (node, db) = program().await;
    node.world.force(Fault::CrashInTransaction);
    let reading = tokio::spawn({
        let db = db.clone();
        async move { db.run(async { Ok::<_, sqlx::Error>(()) }).await }
    });
    node.death().await;
    assert!(!reading.is_finished());
    assert_eq!(counted(&node), [Fault::CrashAfterDatabase]);
}
