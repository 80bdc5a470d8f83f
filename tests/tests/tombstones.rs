//! Unknown does not mean deleted, unless the owner is declared to keep no tombstones.

use std::{collections::VecDeque, time::Duration};

use nudge_runtime::Database;
use nudge_subscriber_kit::{Settings, Subscriber};
use nudge_tests::{
    Fault, Nats, Owner, ReadModel, TestDatabase, Wire,
    copy::{self, quick},
    eventually,
    owner::ENTITY,
};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

/// An owner of "42", which is applied, and a subscriber that may be told that the owner keeps no tombstones.
struct Following {
    owner: Owner,
    wire: Wire,
    db: Database,
    _nats: Nats,
    _database: TestDatabase,
    _stop: DropGuard,
}

/// An owner, or a replica of it that lags, does not know 42.
const UNKNOWN: Fault = Fault::Body(r#"{"items":[{"id":"42","status":"unknown"}]}"#);
const DELETED: &str = "SELECT count(*) FROM nudge_applied WHERE deleted = 1";
const PARKED: &str = "SELECT count(*) FROM nudge_dead_letter";
const COPIES: &str = "SELECT count(*) FROM copy";

fn parks_at_once() -> Settings {
    let mut settings = quick();
    settings.max_attempts_in_memory = 1;
    settings.unknown_retry.initial = Duration::from_millis(300);
    settings
}

impl Following {
    async fn start(no_tombstones: bool, settings: Settings) -> Self {
        let nats = Nats::start().await;
        let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
        let database = TestDatabase::new().await;
        let db = database.open().await;
        let create = "CREATE TABLE copy (id TEXT PRIMARY KEY, version BIGINT, body TEXT)";
        db.write(sqlx::query(create)).await.unwrap();
        let stop = CancellationToken::new();
        let builder = Subscriber::builder("copies", &db, &nats.broker("copies").await)
            .follow(ENTITY, &owner.url(), copy::Keep::default())
            .settings(settings);
        let builder =
            if no_tombstones { builder.owner_keeps_no_tombstones(ENTITY) } else { builder };
        builder.start(stop.clone()).await.unwrap();
        wire.notify(&owner.put("42", json!({})).await).await;
        let _stop = stop.drop_guard();
        let following = Self { owner, wire, db, _nats: nats, _database: database, _stop };
        eventually("42 is applied", || async {
            (following.count(COPIES).await == 1).then_some(())
        })
        .await;
        following
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_as::<_, (i64,)>(sql).fetch_one(self.db.reader()).await.unwrap().0
    }

    /// What the owner answers, the next times that it is asked for 42. Then it tells the truth.
    fn answers(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults = Mutex::new(VecDeque::from_iter(faults));
        self.owner.misbehave(move |ids| {
            let asked = ids.contains(&"42".to_owned());
            asked.then(|| faults.lock().pop_front()).flatten()
        });
    }

    /// Makes it ask for 42, at least so many times until it is content.
    async fn looks_at_it(&self, times: usize) {
        let before = self.owner.times_asked("42");
        self.wire.announce("42", None).await;
        eventually("42 is looked at so often, or taken for deleted", || async {
            let asked = self.owner.times_asked("42") - before;
            (asked >= times || self.count(DELETED).await == 1).then_some(())
        })
        .await;
        eventually("its message is acknowledged", || async {
            (self.wire.unacknowledged("copies").await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_does_not_know_stays_and_is_parked() {
    let following = Following::start(false, quick()).await;
    following.owner.misbehave(|ids| ids.contains(&"42".to_owned()).then_some(UNKNOWN));
    following.owner.delete("42").await;
    following.wire.announce("42", None).await;
    eventually("42 is parked", || async { (following.count(PARKED).await == 1).then_some(()) })
        .await;
    assert_eq!(following.count(COPIES).await, 1);
}

/// In memory, or after it was parked for the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_keeps_no_tombstones_deletes_by_not_knowing_twice() {
    for settings in [quick(), parks_at_once()] {
        let following = Following::start(true, settings).await;
        following.owner.misbehave(|ids| ids.contains(&"42".to_owned()).then_some(UNKNOWN));
        following.owner.delete("42").await;
        following.wire.announce("42", None).await;
        eventually("42 is deleted", || async {
            (following.count(DELETED).await == 1).then_some(())
        })
        .await;
        assert_eq!(following.count(COPIES).await, 0);
    }
}

/// A lagging replica of the owner may not know it yet, or no longer: only the second look counts. A failed callback
/// before that, or being parked for it, is no look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_owner_that_keeps_no_tombstones_the_first_unknown_deletes_nothing() {
    let fails = || Fault::Status(500, None);
    for (settings, faults) in [
        (quick(), vec![UNKNOWN]),
        (quick(), vec![fails(), UNKNOWN]),
        (quick(), vec![fails(), fails(), UNKNOWN]),
        (parks_at_once(), vec![fails(), UNKNOWN]),
    ] {
        let following = Following::start(true, settings).await;
        let looks = faults.len() + 1;
        following.answers(faults);
        following.looks_at_it(looks).await;
        eventually("nothing is parked", || async {
            (following.count(PARKED).await == 0).then_some(())
        })
        .await;
        assert_eq!((following.count(COPIES).await, following.count(DELETED).await), (1, 0));
    }
}

/// Notifications that follow at once make it ask again before a replica can have caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_owner_that_keeps_no_tombstones_two_unknowns_in_quick_succession_delete_nothing() {
    let mut settings = quick();
    settings.second_look_after = Duration::from_secs(3_600);
    let following = Following::start(true, settings).await;
    let asked = following.owner.times_asked("42");
    following.answers([UNKNOWN, UNKNOWN]);
    for times in 1..=3 {
        following.wire.announce("42", Some("1")).await;
        eventually("42 is asked for", || async {
            (following.owner.times_asked("42") >= asked + times).then_some(())
        })
        .await;
    }
    eventually("its messages are acknowledged", || async {
        (following.wire.unacknowledged("copies").await == 0).then_some(())
    })
    .await;
    assert_eq!((following.count(COPIES).await, following.count(DELETED).await), (1, 0));
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
