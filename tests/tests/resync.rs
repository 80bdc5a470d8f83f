//! What no notification tells of is found by comparing with the owner, and repaired.

mod certificate;
mod contents;
mod full;
mod losses;
mod rebuild;

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};

use nudge_protocol::{EntityId, EntityName, sync_api::ItemsRequest};
use nudge_runtime::auth::Credentials;
use nudge_runtime::{Broker, Database};
use nudge_subscriber_kit::{
    Mirror, ResyncSettings, Settings, Subscriber,
    owner_client::{Asking, Fetching, HttpOwner, OwnerClient, Probing},
};
use nudge_tests::{
    Copy, Fault, Nats, Owner, QUIET, TestDatabase, Wire, copy::quick, eventually, owner::ENTITY,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// More than a page holds.
const THINGS: usize = 300;

/// Compares versions all the time.
fn eager() -> Settings {
    let resync = ResyncSettings {
        enabled: true,
        interval: Duration::from_millis(50),
        owner_percent: 100,
        recent_interval: Duration::from_secs(600),
        confirm_after: Duration::from_millis(200),
        overdue_after: Duration::from_secs(600),
        contents_interval: Duration::from_secs(600),
        newest_contents_interval: Duration::from_secs(600),
        page: 128,
        ready_when_equal: false,
    };
    Settings { resync, ..quick() }
}

async fn filled(owner: &Owner, things: usize) {
    let ids: Vec<_> = (0..things).map(|n| format!("t{n:03}")).collect();
    let things: Vec<_> = ids.iter().map(|id| (&**id, json!({"name": id}))).collect();
    owner.put_all(&things).await;
}

/// An owner, and a copy that equals it.
struct World {
    nats: Nats,
    broker: Broker,
    owner: Owner,
    copy: Copy,
}

impl World {
    async fn start(things: usize, settings: Settings) -> Self {
        let nats = Nats::start().await;
        let broker = nats.broker("things").await;
        let owner = Owner::start(&broker).await;
        filled(&owner, things).await;
        let copy = Copy::start_with(&broker, &owner, settings).await;
        equal(&copy, &owner).await;
        Self { nats, broker, owner, copy }
    }
}

async fn versions(db: &Database, sql: &'static str) -> BTreeMap<String, (i64, i64)> {
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as(sql).fetch_all(db.reader()).await.expect("rows");
    rows.into_iter().map(|(id, version, deleted)| (id, (version, deleted))).collect()
}

/// Waits until the copy has the owner's states and versions, tombstones included.
async fn equal(copy: &Copy, owner: &Owner) {
    copy.converged(owner).await;
    eventually("the versions are equal, too", || async {
        let applied = versions(&copy.db, "SELECT id, version, deleted FROM nudge_applied").await;
        let log = versions(&owner.db, "SELECT id, version, deleted FROM nudge_change_log").await;
        (applied == log).then_some(())
    })
    .await;
}

/// Asks for a comparison.
async fn ask(copy: &Copy, body: Value) {
    let request = reqwest::Client::new().post(copy.admin("resync")).json(&body);
    assert_eq!(request.send().await.unwrap().status(), 202);
}

async fn alter(db: &Database, sql: &'static str) {
    db.write(sqlx::query(sql)).await.expect("the row is altered");
}

/// The number of differences of this kind so far.
async fn found(copy: &Copy, kind: &str) -> u64 {
    let url = copy.admin("").replace("/nudge/v1/", "/metrics");
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let series = format!("nudge_resync_differences_total{{entity=\"{ENTITY}\",kind=\"{kind}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0, |count| count.parse().expect("a number"))
}

/// The last comparison that began from now on.
async fn swept(copy: &Copy) -> Value {
    let before = nudge_runtime::clock::now().to_string();
    eventually("everything is compared", || async {
        let last = copy.status().await["resync"]["last"].take();
        (last["began_at"].as_str()? > before.as_str()).then_some(last)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_deleted_altered_and_added_by_hand_are_found_and_repaired() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    filled(&owner, THINGS).await;
    owner.delete("t299").await;
    let copy = Copy::start_with(&broker, &owner, eager()).await;
    equal(&copy, &owner).await;
    copy.handled(&owner).await;
    assert_eq!(swept(&copy).await["compared"], THINGS);
    for sql in [
        "DELETE FROM nudge_applied WHERE id IN ('t001', 't200', 't299')",
        "DELETE FROM copy WHERE id IN ('t001', 't200')",
        "UPDATE nudge_applied SET version = version - 5 WHERE id IN ('t002', 't128')",
        "UPDATE nudge_applied SET version = version + 5 WHERE id = 't003'",
        "UPDATE nudge_applied SET version = 9007199254740991 WHERE id = 't004'",
        "UPDATE nudge_applied SET deleted = 1 WHERE id = 't005'",
        "UPDATE copy SET body = '{}' WHERE id IN ('t002', 't003', 't004', 't005', 't128')",
        "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) \
         VALUES ('thing', 'ghost', 7, 0, 0), ('thing', 'a grave', 7, 1, 0)",
        "INSERT INTO copy (id, version, body) VALUES ('ghost', 7, '{}')",
    ] {
        alter(&copy.db, sql).await;
    }
    equal(&copy, &owner).await;
    for (kind, count) in [("missing", 3), ("lagging", 2), ("ghost", 2), ("stale", 1)] {
        assert_eq!(found(&copy, kind).await, count, "{kind}");
    }
    // Once with the version that nobody can have given, and once lowered.
    assert_eq!(found(&copy, "ahead").await, 3);
    // And that is all.
    swept(&copy).await;
    let calls = owner.calls();
    assert_eq!(swept(&copy).await["differences"]["missing"], 0);
    tokio::time::sleep(QUIET).await;
    assert_eq!(owner.calls(), calls);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_suddenly_knows_little_removes_nothing_without_an_operators_word() {
    let World { nats: _nats, broker, owner, copy, .. } = World::start(THINGS, eager()).await;
    // The relay would notice, too.
    owner.go_away().await;
    alter(&owner.db, "DELETE FROM nudge_change_log WHERE id > 't100'").await;
    alter(&owner.db, "DELETE FROM thing WHERE id > 't100'").await;
    owner.come_back().await;
    let status = eventually("the removals wait", || async {
        let status = copy.status().await["resync"].take();
        (status["removals_waiting"] == 199).then_some(status)
    })
    .await;
    assert_eq!(status["last"]["differences"]["ghosts"], 199);
    assert_eq!(copy.metric("nudge_resync_removals_waiting").await, 199);
    swept(&copy).await;
    assert_eq!(copy.all().await.len(), THINGS);

    let allow = json!({"entity": ENTITY, "allow_removals": true});
    ask(&copy, allow).await;
    owner.second_relay(&broker);
    equal(&copy, &owner).await;
    assert_eq!(copy.all().await.len(), 101);
    eventually("nothing waits any more", || async {
        let status = copy.status().await["resync"].take();
        (status["removals_waiting"] == 0 && status["last"]["removals"] == 0).then_some(())
    })
    .await;
    // The word is used up.
    let query = sqlx::query_as("SELECT allow_removals, wanted FROM nudge_resync");
    let row: (i64, i64) = query.fetch_one(copy.db.reader()).await.unwrap();
    assert_eq!(row, (0, 0));
    copy.stop().await;
}

/// In each comparison, a page fails after the one with the ghost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_removed_survives_a_page_that_fails() {
    let World { nats: _nats, owner, copy, .. } = World::start(THINGS, eager()).await;
    copy.handled(&owner).await;
    let calls = std::sync::atomic::AtomicUsize::new(0);
    owner.misbehave(move |ids| {
        let nth = calls.fetch_add(usize::from(ids.is_empty()), Relaxed) + 1;
        (ids.is_empty() && nth.is_multiple_of(4)).then_some(Fault::Status(500, None))
    });
    for sql in [
        "INSERT INTO nudge_applied (entity, id, version, deleted, applied_at) VALUES ('thing', 'a ghost', 7, 0, 0)",
        "INSERT INTO copy (id, version, body) VALUES ('a ghost', 7, '{}')",
    ] {
        alter(&copy.db, sql).await;
    }
    equal(&copy, &owner).await;
    assert!(owner.probes() > 4);
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_never_published_arrives_all_the_same() {
    let mut settings = eager();
    settings.resync.overdue_after = Duration::from_secs(1);
    let World { nats: _nats, owner, copy, .. } = World::start(3, settings).await;
    // Without its relay.
    owner.go_away().await;
    owner.come_back().await;
    owner.put("t001", json!({"name": "달빛국수"})).await;
    owner.put("t100", json!({"name": "별빛우동"})).await;
    owner.delete("t002").await;
    equal(&copy, &owner).await;
    copy.stop().await;
}

/// Comparing everything would find them too, but much later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_among_the_newest_is_found_at_once() {
    let mut settings = eager();
    settings.resync.interval = Duration::from_secs(3_600);
    settings.resync.recent_interval = Duration::from_millis(100);
    let World { nats: _nats, owner, copy, .. } = World::start(THINGS, settings).await;
    copy.handled(&owner).await;
    for sql in [
        "DELETE FROM nudge_applied WHERE id = 't001'",
        "DELETE FROM copy WHERE id = 't001'",
        "UPDATE nudge_applied SET version = version + 5 WHERE id = 't003'",
        "UPDATE copy SET body = '{}' WHERE id = 't003'",
    ] {
        alter(&copy.db, sql).await;
    }
    equal(&copy, &owner).await;
    assert_eq!((found(&copy, "missing").await, found(&copy, "ahead").await), (1, 1));
    assert_eq!(copy.metric("nudge_resync_sweeps_total").await, 0);
    copy.stop().await;
}

/// Whatever a subscriber cannot know yet is no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_in_flight_are_no_differences() {
    let mut settings = eager();
    settings.resync.interval = Duration::ZERO;
    settings.resync.confirm_after = Duration::ZERO;
    let World { nats: _nats, owner, copy, .. } = World::start(THINGS, settings).await;
    let sweeps = copy.metric("nudge_resync_sweeps_total").await;
    let mut edits = 0;
    while copy.metric("nudge_resync_sweeps_total").await < sweeps + 20 {
        for n in 0..20 {
            let id = format!("t{:03}", (edits * 7 + n) % (THINGS + 50));
            match (edits + n) % 11 {
                0 => owner.delete(&id).await,
                _ => owner.put(&id, json!({"edit": edits})).await,
            };
        }
        edits += 20;
    }
    equal(&copy, &owner).await;
    for kind in ["missing", "lagging", "ahead", "stale", "ghost"] {
        assert_eq!(found(&copy, kind).await, 0, "{kind} after {edits} edits");
    }
    copy.stop().await;
}

/// What is known to differ is left to those who retry it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_not_asked_for_again_and_again() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    filled(&owner, 3).await;
    let copy = Copy::start_with(&broker, &owner, eager()).await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    let good = owner.put("good", json!({})).await;
    owner.put("bad", json!({})).await;
    copy.wait(&good).await;
    copy.dead_letters(1).await;
    copy.handled(&owner).await;
    let asked = owner.times_asked("bad");
    let sweep = swept(&copy).await;
    assert_eq!((&sweep["set_aside"], &sweep["differences"]["missing"]), (&json!(1), &json!(0)));
    swept(&copy).await;
    assert_eq!(owner.times_asked("bad"), asked);
    // A later version is lost, and it can be applied.
    copy.accept();
    owner.go_away().await;
    owner.come_back().await;
    owner.put("bad", json!({"name": "good"})).await;
    alter(&owner.db, "UPDATE nudge_change_log SET published_version = version").await;
    equal(&copy, &owner).await;
    copy.dead_letters(0).await;
    copy.stop().await;
}

/// No retry can finish what waits for a version that the owner lost, or for an ID that it never had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_something_that_the_owner_denies_comes_to_an_end() {
    let mut settings = eager();
    settings.resync.overdue_after = Duration::from_secs(1);
    // Once parked, they would be retried much later.
    settings.parked_retry.initial = Duration::from_secs(600);
    settings.parked_retry.max = settings.parked_retry.initial;
    settings.unknown_retry = settings.parked_retry;
    let World { nats, owner, copy, .. } = World::start(3, settings).await;
    // Its relay would find the versions that it does not have.
    owner.go_away().await;
    owner.come_back().await;
    let ahead = nudge_runtime::clock::now().unix_micros() + 3_600_000_000;
    let wire = Wire::open(&nats).await;
    for id in ["t001", "nobody"] {
        wire.announce(id, Some(&ahead.to_string())).await;
    }
    eventually("both were parked, and are no longer", || async {
        let status = copy.status().await;
        (copy.metric("nudge_given_up_total").await == 1 && status["parked"] == 0).then_some(())
    })
    .await;
    equal(&copy, &owner).await;
    let log = versions(&owner.db, "SELECT id, version, deleted FROM nudge_change_log").await;
    assert!(log["t001"].0 > ahead && !log.contains_key("nobody"));
    copy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_replicas_compares_and_another_goes_on_when_it_stops_or_pauses() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    filled(&owner, 3).await;
    let first = Copy::start_with(&broker, &owner, eager()).await;
    equal(&first, &owner).await;
    swept(&first).await;
    let second = first.replica(&broker, &owner).await;
    let sweeps = async |copy: &Copy| copy.metric("nudge_resync_sweeps_total").await;
    let before = sweeps(&first).await;
    eventually("the first goes on", || async { (sweeps(&first).await > before + 3).then_some(()) })
        .await;
    assert_eq!(sweeps(&second).await, 0);
    assert_eq!(first.post("pause").await, 200);
    eventually("the second compares", || async { (sweeps(&second).await > 0).then_some(()) }).await;
    first.stop().await;
    second.stop().await;
}

#[derive(Serialize, Deserialize)]
struct Thing {
    name: String,
}

/// An owner in another language that offers no digests.
struct OnlyItems(HttpOwner);

impl OwnerClient for OnlyItems {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        self.0.batch_get(entity, ids, fields)
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        self.0.probe(entity)
    }

    fn items<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a ItemsRequest,
    ) -> Asking<'a, nudge_protocol::sync_api::ItemsPage> {
        self.0.items(entity, request)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_only_lists_its_entities_is_compared_with_too() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    // More than a page of its list.
    filled(&owner, 1_200).await;
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let stop = CancellationToken::new();
    let mut settings = eager();
    settings.resync.confirm_after = Duration::from_millis(20);
    let client =
        OnlyItems(HttpOwner::new(&owner.url(), &settings, &Credentials::default()).unwrap());
    let subscriber = Subscriber::builder("mirrors", &db, &broker)
        .follow_with(ENTITY, std::sync::Arc::new(client), Mirror::<Thing>::table("mirrored"))
        .settings(settings)
        .start(stop.clone())
        .await
        .unwrap();
    let count = || async {
        let query = sqlx::query_as("SELECT count(*) FROM mirrored WHERE name <> ''");
        let row: Option<(i64,)> = query.fetch_one(db.reader()).await.ok();
        row.map(|(count,)| count)
    };
    let all = || eventually("all are there", || async { (count().await? == 1_200).then_some(()) });
    all().await;
    for sql in [
        "DELETE FROM nudge_applied WHERE id IN ('t000', 't1100')",
        "DELETE FROM mirrored WHERE id IN ('t000', 't1100')",
    ] {
        alter(&db, sql).await;
    }
    all().await;
    stop.cancel();
    subscriber.stopped().await;
}

/// A restart goes on where the last page ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_is_interrupted_goes_on_where_it_was() {
    let mut settings = eager();
    settings.resync.page = 10;
    // After each page, so long a pause that it is stopped in the middle.
    settings.resync.interval = Duration::from_millis(1);
    let World { nats: _nats, broker, owner, copy, .. } = World::start(THINGS, settings).await;
    let stored = async |copy: &Copy| {
        let query = sqlx::query_as("SELECT sweep FROM nudge_resync");
        let row: Option<(Option<String>,)> = query.fetch_optional(copy.db.reader()).await.unwrap();
        let sweep: Option<Value> = serde_json::from_str(&row?.0?).ok();
        sweep.filter(|sweep| !sweep["after"].is_null())
    };
    let mut model = copy.stop().await;
    let copy = loop {
        let copy = model.start(&broker, &owner).await;
        let interrupted = eventually("it is in the middle", || async { stored(&copy).await }).await;
        copy.begin_to_stop();
        copy.subscriber.stopped().await;
        if let Some(sweep) = stored(&copy).await {
            let (before, compared) = (interrupted["began_at"].clone(), sweep["compared"].as_u64());
            // It was the same sweep that was stopped, and not the next one.
            if before == sweep["began_at"] && compared < Some(THINGS as u64 - 20) {
                break copy;
            }
        }
        model = copy.stop().await;
    };
    let before = stored(&copy).await.unwrap();
    let copy = copy.restart(&broker, &owner).await;
    let last = eventually("that comparison ends", || async {
        let last = copy.status().await["resync"]["last"].take();
        (last["began_at"] == before["began_at"]).then_some(last)
    })
    .await;
    assert_eq!(last["compared"], THINGS);
    copy.stop().await;
}
