//! An entity that cannot be applied is set aside where people see it. It recovers automatically as soon as it can, and
//! delays nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use nudge_tests::{
    Copy, Fault, Nats, Owner, QUIET, ReadModel, Wire,
    copy::{no_room, quick, room},
    eventually,
};
use serde_json::{Value, json};

/// A batch of ten in one transaction, "bad" in its middle.
async fn put_ten(owner: &Owner, n: usize) {
    let ids = ["a", "b", "b1", "b2", "bad", "c", "d", "e", "f", "g"];
    owner.put_all(&ids.map(|id| (id, json!(n)))).await;
}

/// Waits until all but "bad" is applied.
async fn the_others_are_applied(copy: &Copy, owner: &Owner) {
    eventually("everything but the bad one is applied", || async {
        let good = |rows: Vec<(String, String)>| -> Vec<_> {
            rows.into_iter().filter(|(id, _)| !id.starts_with("bad")).collect()
        };
        (good(copy.all().await) == good(owner.all().await)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_apply_refuses_is_set_aside_and_replayed() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let ways: [fn(&str) -> Option<nudge_runtime::BoxError>; 2] = [
        |id| (id == "bad").then(|| "there is no column for it".into()),
        |id| {
            if id == "bad" { panic!("there is no column for it") } else { None }
        },
    ];
    for (n, way) in ways.into_iter().enumerate() {
        copy.refuse(way);
        put_ten(&owner, n).await;
        the_others_are_applied(&copy, &owner).await;
        let dead = copy.dead_letters(1).await.remove(0);
        assert_eq!((&dead["entity"], &dead["id"]), (&json!("thing"), &json!("bad")));
        assert_eq!(dead["attempts"], 1);
        assert!(dead["next_at"].is_null(), "{dead}");
        let error = dead["error"].as_str().expect("a text");
        assert!(error.contains("there is no column for it"), "{error}");
        assert_eq!(copy.status().await["dead_letters"], 1);

        assert_eq!(copy.post("dead-letters/thing/bad/replay").await, 202);
        eventually("the replay failed as well", || async {
            let dead = copy.dead_letters(1).await.remove(0);
            (dead["last_failed_at"] != dead["first_failed_at"]).then_some(())
        })
        .await;
        copy.accept();
        assert_eq!(copy.post("dead-letters/thing/bad/replay").await, 202);
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
        assert_eq!(copy.post("dead-letters/thing/bad/replay").await, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_can_be_discarded() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    put_ten(&owner, 0).await;
    copy.dead_letters(1).await;
    let discard = || async {
        let request = reqwest::Client::new().delete(copy.admin("dead-letters/thing/bad"));
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(discard().await, 204);
    copy.dead_letters(0).await;
    assert_eq!(discard().await, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_closes_when_a_newer_version_is_applied_by_whichever_replica() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    owner.put("bad", json!("refused")).await;
    copy.dead_letters(1).await;
    let good = copy.replica(&nats.broker("copies").await, &owner).await;
    eventually("the other replica applies a newer one", || async {
        owner.put("bad", json!("better")).await;
        good.applied().iter().any(|(id, _)| id == "bad").then_some(())
    })
    .await;
    copy.accept();
    copy.wait(&owner.put("bad", json!("best")).await).await;
    copy.dead_letters(0).await;
    good.dead_letters(0).await;
    good.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_tries_dead_letters_once() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| id.starts_with("bad").then(|| "refused".into()));
    wire.notify(&owner.put("bad", json!(1)).await).await;
    let first = copy.dead_letters(1).await.remove(0);
    eventually("nothing but the dead letter is left", || async {
        (copy.status().await["position"] == wire.last_sequence().await).then_some(())
    })
    .await;
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    eventually("it was tried and refused again", || async {
        let dead = copy.dead_letters(1).await.remove(0);
        (dead["attempts"] == 2 && dead["next_at"].is_null()).then_some(())
    })
    .await;
    assert_eq!(first["attempts"], 1);
    tokio::time::sleep(3 * QUIET).await;
    assert_eq!(owner.times_asked("bad"), 2, "once is enough");
    copy.accept();
    let copy = copy.restart(&nats.broker("copies").await, &owner).await;
    copy.converged(&owner).await;
    copy.dead_letters(0).await;
    assert_eq!(owner.times_asked("bad"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_read_is_a_dead_letter_until_it_can() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let old = owner.put("bad", json!("old")).await;
    wire.notify(&old).await;
    copy.converged(&owner).await;
    for (field, version) in [("unreadable", None), ("panic", Some(old.version.to_string()))] {
        // Neither message reveals that there is something newer than what the copy has.
        let unreadable = owner.put("bad", json!({field: true})).await;
        wire.announce("bad", version.as_deref()).await;
        let dead = copy.dead_letters(1).await.remove(0);
        let error = dead["error"].as_str().expect("a text");
        assert!(error.contains("unreadable"), "{error}");
        assert_eq!(dead["floor"], unreadable.version.get());
        assert!(dead["next_at"].is_null());
        wire.notify(&owner.put("bad", json!("readable")).await).await;
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
    }
    owner.misbehave(|ids| {
        let no_version = r#"{"items":[{"id":"odd","status":"live","state":1}]}"#;
        ids.contains(&"odd".into()).then_some(Fault::Body(no_version))
    });
    wire.notify(&owner.put("odd", json!(1)).await).await;
    assert_eq!(copy.dead_letters(1).await[0]["id"], "odd");
}

/// No owner has reached such a version. The message counts as one without a version, and a row that an earlier release
/// made from such a message closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_no_clock_has_reached_keeps_no_key_waiting() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    let highest = nudge_protocol::Version::MAX;
    for id in ["told", "parked", "dead"] {
        owner.put(id, json!(1)).await;
    }
    wire.announce("told", Some(&highest.to_string())).await;
    for (id, next_at) in [("parked", Some(0)), ("dead", None)] {
        let sql = "INSERT INTO nudge_dead_letter \
            (entity, id, floor, error, attempts, first_failed_at, last_failed_at, next_at) \
            VALUES ('thing', $1, $2, 'unknown', 9, 0, 0, $3)";
        let row = sqlx::query(sql).bind(id).bind(highest.to_i64()).bind(next_at);
        copy.db.write(row).await.expect("a row");
    }
    eventually("two are applied", || async { (copy.all().await.len() == 2).then_some(()) }).await;
    assert_eq!(copy.dead_letters(1).await[0]["id"], "dead");
    assert_eq!(copy.post("dead-letters/thing/dead/replay").await, 202);
    copy.converged(&owner).await;
    copy.quiet().await;
    copy.dead_letters(0).await;
    assert_eq!(copy.status().await["retrying"], 0);
    for id in ["told", "parked", "dead"] {
        assert_eq!(owner.times_asked(id), 2, "{id}: a second look, and no third");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_answer_that_cannot_be_applied_is_not_the_last_word() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    for (id, old) in [("unreadable", json!({"unreadable": true})), ("refused", json!("old"))] {
        copy.refuse(|id| (id == "refused").then(|| "refused".into()));
        wire.notify(&owner.put(id, old).await).await;
        copy.dead_letters(1).await;
        let (stale, first) = (owner.last_answer(), AtomicUsize::new(1));
        copy.refuse(move |id| {
            let first = id == "refused" && first.swap(0, Ordering::SeqCst) == 1;
            first.then(|| "refused".into())
        });
        // The owner has fixed it, and a lagging replica answers first.
        let mended = owner.put(id, json!("mended")).await;
        let first = AtomicUsize::new(1);
        owner.misbehave(move |ids| {
            let first = !ids.is_empty() && first.swap(0, Ordering::SeqCst) == 1;
            first.then(|| Fault::Replay(stale.clone()))
        });
        wire.notify(&mended).await;
        copy.converged(&owner).await;
        copy.dead_letters(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_busy_makes_no_dead_letters() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    copy.refuse(|id| {
        let busy = id == "bad" && TIMES.fetch_add(1, Ordering::SeqCst) < 9;
        let error = || sqlx::Error::Io(std::io::Error::other("the disk is full"));
        busy.then(|| Box::new(error()) as nudge_runtime::BoxError)
    });
    put_ten(&owner, 0).await;
    copy.converged(&owner).await;
    assert_eq!(copy.metric("nudge_dead_lettered_total").await, 0);
    assert_eq!(TIMES.load(Ordering::SeqCst), 10, "the batch was tried again as it was");
}

async fn put_many(owner: &Owner, prefix: &str, count: usize) {
    let ids: Vec<_> = (0..count).map(|n| format!("{prefix}-{n:05}")).collect();
    for ids in ids.chunks(1_000) {
        let things: Vec<_> = ids.iter().map(|id| (id.as_str(), json!(0))).collect();
        owner.put_all(&things).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_refused_keys_do_not_stop_the_good_ones() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| id.starts_with("bad").then(|| "refused".into()));
    put_many(&owner, "bad", 5_000).await;
    put_many(&owner, "good", 500).await;
    the_others_are_applied(&copy, &owner).await;
    eventually("all bad ones are set aside", || async {
        (copy.status().await["dead_letters"] == 5_000).then_some(())
    })
    .await;
    copy.wait(&owner.put("good-00001", json!("again")).await).await;
    let page = copy.get("dead-letters?limit=1000").await;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1_000));
    let next = copy.get("dead-letters?limit=1000&entity=thing&after=bad-03999").await;
    assert_eq!(next["items"][0]["id"], "bad-04000");
    assert_eq!(next["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_unknown_keys_do_not_stop_the_good_ones() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start(&nats.broker("things").await).await, Wire::open(&nats).await);
    // A long retry time for a single key, which five thousand keys must not use up together.
    let mut settings = quick();
    settings.max_attempts_in_memory = u32::MAX;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    wire.announce_all((0..6_000).map(|n| format!("unknown-{n:05}"))).await;
    put_many(&owner, "good", 500).await;
    copy.converged(&owner).await;
    eventually("most are parked, and few of what the broker lets us hold is theirs", || async {
        let status = copy.status().await;
        let parked = status["parked"].as_u64()? >= 3_500 && status["retrying"].as_u64()? < 2_500;
        (parked && wire.unacknowledged("copies").await < 2_500).then_some(())
    })
    .await;
    copy.wait(&owner.put("good-00001", json!("again")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_text_of_an_error_is_bounded() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|_| Some(format!("a{}", "가".repeat(10_000)).into()));
    owner.put("bad", json!(1)).await;
    let dead = copy.dead_letters(1).await.remove(0);
    let error = dead["error"].as_str().expect("a text");
    assert!(error.starts_with("a가가") && error.len() <= 1_000, "{} bytes", error.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_cannot_be_taken_now_is_refused_instead_of_left_hanging() {
    let nats = Nats::start().await;
    let (owner, wire) = (Owner::start_silent().await, Wire::open(&nats).await);
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    wire.notify(&owner.put("bad", json!(1)).await).await;
    copy.dead_letters(1).await;
    // Nothing is received from the queue's channel while the owner is down.
    owner.misbehave(|_| Some(Fault::Status(503, None)));
    wire.announce("first", None).await;
    eventually("the breaker is open", || async {
        (copy.status().await["breaker"] != "closed").then_some(())
    })
    .await;
    wire.announce_all((0..3_000).map(|n| format!("waiting-{n}"))).await;
    eventually("the way is full", || async {
        (copy.post("dead-letters/thing/bad/replay").await == 503).then_some(())
    })
    .await;
    owner.behave();
    copy.accept();
    eventually("it is replayed later", || async {
        (copy.post("dead-letters/thing/bad/replay").await != 503).then_some(())
    })
    .await;
    eventually("it is applied", || async { copy.body("bad").await }).await;
}

/// Waits until "bad" has been asked for a few times, and then counts how often it is within a second.
async fn times_asked_within_a_second(owner: &Owner) -> usize {
    eventually("it is tried again", || async { (owner.times_asked("bad") >= 5).then_some(()) })
        .await;
    let before = owner.times_asked("bad");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    owner.times_asked("bad") - before
}

/// Intervals short enough to show a flood.
fn slower_each_time() -> nudge_subscriber_kit::Settings {
    let mut settings = quick();
    settings.retry.max = std::time::Duration::from_secs(10);
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_asked_less_and_less_for_what_cannot_be_kept() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut model = ReadModel::new().await;
    model.settings = slower_each_time();
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|id| {
        let full = || sqlx::Error::Io(std::io::Error::other("the disk is full"));
        (id == "bad").then(|| full().into())
    });
    owner.put("bad", json!(1)).await;
    let asked = times_asked_within_a_second(&owner).await;
    assert!(asked <= 5, "{asked} times within a second");
    copy.accept();
    copy.converged(&owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_asked_less_and_less_while_dead_letters_cannot_be_written() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut model = ReadModel::new().await;
    model.settings = slower_each_time();
    let copy = model.start(&nats.broker("copies").await, &owner).await;
    no_room(copy.database(), "INSERT ON nudge_dead_letter", "true").await;
    copy.refuse(|id| (id == "bad").then(|| "there is no column for it".into()));
    owner.put("bad", json!(1)).await;
    let asked = times_asked_within_a_second(&owner).await;
    assert!(asked <= 5, "{asked} times within a second");
    room(copy.database()).await;
    copy.dead_letters(1).await;
}

/// A path cannot contain such an ID, not even percent-encoded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_id_no_path_can_hold_is_replayed_and_discarded_by_query() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let copy = Copy::start(&nats.broker("copies").await, &owner).await;
    copy.refuse(|_| Some("refused".into()));
    for id in [".", ".."] {
        owner.put(id, json!(1)).await;
    }
    copy.dead_letters(2).await;
    assert_eq!(copy.post("dead-letters/discard?entity=thing&id=.").await, 204);
    assert_eq!(copy.post("dead-letters/discard?entity=thing&id=.").await, 404);
    assert_eq!(copy.post("dead-letters/discard?entity=other&id=.").await, 404);
    assert_eq!(copy.post("dead-letters/discard?entity=thing").await, 400);
    copy.dead_letters(1).await;
    copy.accept();
    assert_eq!(copy.post("dead-letters/replay?entity=thing&id=..").await, 202);
    copy.dead_letters(0).await;
}
