//! The read model's database fails for everything, or for one key only. Only a fault in its own data makes an entity a
//! dead letter.

use std::time::Duration;

use nudge_runtime::Database;
use nudge_testbed::database::execute;
use nudge_tests::{
    Copy, Nats, Owner, ReadModel, Wire,
    copy::{no_room, room},
    eventually,
};
use serde_json::json;

/// What stops all work on the copies, and how it is repaired.
fn ways(db: &Database) -> Vec<(&'static str, &'static str)> {
    let table = ("ALTER TABLE copy RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO copy");
    let column = (
        "ALTER TABLE copy RENAME COLUMN body TO elsewhere",
        "ALTER TABLE copy RENAME COLUMN elsewhere TO body",
    );
    let kits = (
        "ALTER TABLE nudge_applied RENAME TO elsewhere",
        "ALTER TABLE elsewhere RENAME TO nudge_applied",
    );
    let mut ways = vec![table, column, kits];
    // A revoked permission, a wrong role, a read-only server. A superuser may do anything, so a trigger raises the
    // error.
    let postgres = [
        (
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
          $$ BEGIN RAISE EXCEPTION USING ERRCODE = '42501'; END $$; \
          CREATE TRIGGER fails BEFORE INSERT ON copy FOR EACH ROW EXECUTE FUNCTION fails()",
            "DROP FUNCTION fails CASCADE",
        ),
        (
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
          $$ BEGIN RAISE EXCEPTION USING ERRCODE = '0P000'; END $$; \
          CREATE TRIGGER fails BEFORE INSERT ON copy FOR EACH ROW EXECUTE FUNCTION fails()",
            "DROP FUNCTION fails CASCADE",
        ),
        (
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
          $$ BEGIN RAISE EXCEPTION USING ERRCODE = '25006'; END $$; \
          CREATE TRIGGER fails BEFORE INSERT ON copy FOR EACH ROW EXECUTE FUNCTION fails()",
            "DROP FUNCTION fails CASCADE",
        ),
    ];
    ways.extend(db.pick(vec![], postgres.to_vec()));
    ways
}

async fn run(db: &Database, sql: &'static str) {
    let mut tx = db.begin().await.expect("a transaction");
    sqlx::raw_sql(sql).execute(&mut *tx).await.expect("it runs");
    tx.commit().await.expect("it commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_whole_database_is_held_against_no_key() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    for (n, (fails, mended)) in ways(&copy.db).into_iter().enumerate() {
        run(&copy.db, fails).await;
        let ids: Vec<_> = (0..31).map(|m| format!("thing-{n}-{m}")).collect();
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(n))).collect();
        let asked = owner.calls();
        owner.put_all(&things).await;
        eventually("it is tried again and again", || async {
            (owner.calls() >= asked + 4).then_some(())
        })
        .await;
        run(&copy.db, mended).await;
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
        assert_eq!(copy.metric("nudge_dead_lettered_total").await, 0, "{fails}");
    }
}

/// Makes every statement that writes the copy of "bad" fail, with an error that is not about its data.
fn fails_for_bad(db: &Database) -> (&'static str, &'static str) {
    db.pick(
        (
            "CREATE TRIGGER fails BEFORE INSERT ON copy WHEN NEW.id = 'bad' \
             BEGIN SELECT json('{'); END",
            "DROP TRIGGER fails",
        ),
        // Like a statement that takes too long.
        (
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id = 'bad' THEN RAISE EXCEPTION USING ERRCODE = '57014'; END IF; \
             RETURN NEW; END $$; \
             CREATE TRIGGER fails BEFORE INSERT ON copy FOR EACH ROW EXECUTE FUNCTION fails()",
            "DROP FUNCTION fails CASCADE",
        ),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_database_fails_for_is_parked_alone_and_tried_again() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let (fails, mended) = fails_for_bad(&copy.db);
    run(&copy.db, fails).await;
    // It comes first in its batch.
    let ids: Vec<_> = (0..20).map(|n| format!("thing-{n}")).collect();
    let mut things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(1))).collect();
    things.push(("bad", json!(1)));
    owner.put_all(&things).await;
    eventually("the others are applied", || async { (copy.all().await.len() == 20).then_some(()) })
        .await;
    let parked = copy.dead_letters(1).await;
    assert_eq!(parked[0]["id"], "bad");
    assert!(parked[0]["next_at"].is_string(), "{parked:?}");
    assert_eq!(copy.metric("nudge_dead_lettered_total").await, 0);
    run(&copy.db, mended).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

/// There is no other key that would show that the database works. The message must not be held forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_database_fails_for_and_that_is_the_only_one_is_parked_in_the_end() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let mut model = ReadModel::new().await;
    model.settings.max_attempts_in_memory = 3;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    let (fails, mended) = fails_for_bad(&copy.db);
    run(&copy.db, fails).await;
    owner.put("bad", json!(1)).await;
    let parked = copy.dead_letters(1).await;
    assert!(parked[0]["next_at"].is_string(), "{parked:?}");
    eventually("its message is acknowledged", || async {
        (wire.unacknowledged("copies").await == 0).then_some(())
    })
    .await;
    run(&copy.db, mended).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

/// They were parked only because nothing could be applied for so long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_while_the_database_failed_is_tried_as_soon_as_it_works() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut model = ReadModel::new().await;
    model.settings.max_attempts_in_memory = 3;
    model.settings.parked_retry.initial = Duration::from_secs(3_600);
    model.settings.parked_retry.max = model.settings.parked_retry.initial;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    let (fails, mended) = ways(&copy.db)[0];
    run(&copy.db, fails).await;
    owner.put_all(&[("a", json!(1)), ("b", json!(1))]).await;
    let parked = copy.dead_letters(2).await;
    assert!(parked.iter().all(|row| row["next_at"].is_string()), "{parked:?}");
    run(&copy.db, mended).await;
    owner.put("another", json!(1)).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

/// The error of a constraint that is checked at commit is about the data, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_fails_at_the_commit_is_the_entitys_fault() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let (fails, mended) = copy.db.pick(
        (
            "CREATE TABLE known (id TEXT PRIMARY KEY); \
             CREATE TABLE checked (id TEXT REFERENCES known (id) DEFERRABLE INITIALLY DEFERRED); \
             CREATE TRIGGER fails AFTER INSERT ON copy WHEN NEW.id = 'bad' \
             BEGIN INSERT INTO checked VALUES (NEW.id); END",
            "DROP TRIGGER fails",
        ),
        (
            "CREATE TABLE known (id TEXT PRIMARY KEY); \
             CREATE TABLE checked (id TEXT REFERENCES known (id) DEFERRABLE INITIALLY DEFERRED); \
             CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id = 'bad' THEN INSERT INTO checked VALUES (NEW.id); END IF; RETURN NEW; END $$; \
             CREATE TRIGGER fails AFTER INSERT ON copy FOR EACH ROW EXECUTE FUNCTION fails()",
            "DROP FUNCTION fails CASCADE",
        ),
    );
    run(&copy.db, fails).await;
    owner.put_all(&[("a", json!(1)), ("bad", json!(1)), ("c", json!(1))]).await;
    let dead = copy.dead_letters(1).await;
    assert_eq!(dead[0]["id"], "bad");
    assert!(dead[0]["next_at"].is_null(), "{dead:?}");
    eventually("the others are applied", || async { (copy.all().await.len() == 2).then_some(()) })
        .await;
    run(&copy.db, mended).await;
    assert_eq!(copy.post("dead-letters/thing/bad/replay").await, 202);
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_panics_undoes_nothing() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    let mut model = ReadModel::new().await;
    model.after_commit(|| panic!("the hook panics"));
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    for n in 0..3 {
        let asked = owner.times_asked("42");
        copy.wait(&owner.put("42", json!(n)).await).await;
        at_the_end(&copy, &wire).await;
        assert_eq!(owner.times_asked("42"), asked + 1, "it is done");
    }
    // Rows that are read again are handled as well.
    let mut model = copy.stop().await;
    let backup = model.database.back_up().await;
    model.after_commit(|| ());
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    owner.put_all(&[("42", json!("changed")), ("43", json!("new"))]).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
    let mut model = copy.stop().await;
    model.database.put_back(&backup).await;
    model.after_commit(|| panic!("the hook panics"));
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    at_the_end(&copy, &wire).await;
}

/// Waits until everything in the stream is handled.
async fn at_the_end(copy: &Copy, wire: &Wire) {
    eventually("the position is the stream's end", || async {
        (copy.status().await["position"] == wire.last_sequence().await).then_some(())
    })
    .await;
}

/// Otherwise it would be unready again after a restart, for no reason that anybody could see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_only_once_that_is_written() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    eventually("it is ready", || async { copy.subscriber.is_ready().then_some(()) }).await;
    let model = copy.stop().await;
    execute(model.database.url(), "UPDATE nudge_intake SET caught_up_at = NULL").await;
    no_room(&model.database, "UPDATE OF caught_up_at ON nudge_intake", "true").await;
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    eventually("it says what keeps it", || async {
        assert!(!copy.subscriber.is_ready());
        copy.status().await["last_error"].as_str()?.contains("no room").then_some(())
    })
    .await;
    assert!(!copy.subscriber.is_ready());
    room(copy.database()).await;
    eventually("it is ready", || async { copy.subscriber.is_ready().then_some(()) }).await;
}
