//! A read model is built anew beside the one that serves, and is ready once it is equal.

use nudge_testbed::database::execute;
use nudge_tests::{
    ReadModel,
    copy::{no_room, room},
};

use super::*;

/// The status of the readiness check, and what it says.
async fn readiness(copy: &Copy) -> (u16, Value) {
    let answer = reqwest::get(copy.admin("../../readyz")).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_that_is_built_anew_is_ready_only_once_it_equals_its_owner() {
    let World { nats: _nats, broker, owner, copy } = World::start(THINGS, eager()).await;
    // Nobody notices by a notification that one is missing.
    owner.forget("t100").await;
    owner.put("t200", json!({"name": "refused"})).await;
    let mut settings = eager();
    settings.resync.interval = Duration::from_secs(600);
    settings.resync.ready_when_equal = true;
    let mut model = ReadModel::new().await;
    model.settings = settings;
    model.refuse(|id| (id == "t200").then(|| "it is refused".into()));
    let new = model.start(&broker, &owner).await;
    new.dead_letters(1).await;
    eventually("all is compared", || async {
        let last = new.status().await["resync"]["last"].take();
        (last["set_aside"] == 1).then_some(())
    })
    .await;
    let (status, said) = readiness(&new).await;
    assert_eq!(
        (status, &said["catching_up"], &said["comparing"]),
        (503, &json!([]), &json!([ENTITY]))
    );
    // The one that serves is none the worse for it.
    assert_eq!(readiness(&copy).await.0, 200);

    new.accept();
    owner.put("t200", json!({"name": "accepted"})).await;
    equal(&new, &owner).await;
    ask(&new, json!({"entity": ENTITY})).await;
    eventually("it is ready", || async { (readiness(&new).await.0 == 200).then_some(()) }).await;
    // It stays ready, also after a restart, and whatever differs later is repaired as ever.
    let new = new.restart(&broker, &owner).await;
    eventually("it is ready", || async { (readiness(&new).await.0 == 200).then_some(()) }).await;
    copy.stop().await;
    new.stop().await;
}

/// Otherwise it would be unready again after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_equal_to_its_owner_only_once_that_is_written() {
    let World { nats: _nats, broker, owner, copy } = World::start(THINGS, eager()).await;
    let mut model = copy.stop().await;
    let url = model.database.url();
    execute(url, "UPDATE nudge_resync SET sweep = NULL, last_sweep = NULL").await;
    no_room(&model.database, "UPDATE ON nudge_resync", "NEW.last_sweep IS NOT NULL").await;
    model.settings.resync.ready_when_equal = true;
    let copy = model.start(&broker, &owner).await;
    eventually("it says what keeps it", || async {
        assert_eq!(readiness(&copy).await.0, 503);
        let resync = copy.status().await["resync"].take();
        resync["waits_for"].as_str()?.contains("no room").then_some(())
    })
    .await;
    // The last page is compared again, and no other.
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(readiness(&copy).await.0, 503);
        let compared = copy.status().await["resync"]["current"]["compared"].as_u64();
        assert!(compared <= Some(THINGS as u64), "{compared:?}");
    }
    room(copy.database()).await;
    eventually("it is ready", || async { (readiness(&copy).await.0 == 200).then_some(()) }).await;
    copy.stop().await;
}
