//! Everything is applied again, if an operator wants it.

use super::*;

/// Asks for everything to be compared, and applied again.
async fn ask_in_full(copy: &Copy) {
    ask(copy, json!({"entity": ENTITY, "full": true})).await;
}

/// The last comparison, if everything was applied again with it.
async fn ended_in_full(copy: &Copy) -> Value {
    eventually("everything is applied again", || async {
        let last = copy.status().await["resync"]["last"].take();
        (last["full"] == true).then_some(last)
    })
    .await
}

/// Even what a service does not say how to read is right afterwards; and it goes on after a restart in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_applied_again_if_an_operator_wants_it_even_across_a_restart() {
    let World { nats: _nats, broker, owner, copy, .. } = World::start(THINGS, eager()).await;
    owner.delete("t299").await;
    equal(&copy, &owner).await;
    let applied = copy.applied().len();
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id IN ('t000', 't150')").await;
    alter(&copy.db, "DELETE FROM copy WHERE id = 't298'").await;
    alter(&copy.db, "INSERT INTO copy (id, version, body) VALUES ('t299', 7, '{}')").await;
    swept(&copy).await;
    // By versions alone, nothing differs.
    assert_eq!(copy.applied().len(), applied);

    let hold = copy.hold();
    ask_in_full(&copy).await;
    eventually("it has begun", || async { hold.begun().then_some(()) }).await;
    copy.begin_to_stop();
    hold.end();
    let copy = copy.restart(&broker, &owner).await;
    let last = ended_in_full(&copy).await;
    assert_eq!(last["compared"], THINGS);
    copy.converged(&owner).await;
    let applied = copy.applied().split_off(applied);
    let ids: std::collections::BTreeSet<_> = applied.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), THINGS);
    // The next comparison is an ordinary one.
    let ordinary = swept(&copy).await;
    assert_eq!(
        (&ordinary["full"], ordinary["differences"]["lagging"].as_u64()),
        (&json!(false), Some(0))
    );
    copy.stop().await;
}

/// What the owner cannot answer for is parked and does not hold up the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_cannot_be_applied_again_does_not_hold_up_the_rest() {
    let mut settings = eager();
    settings.max_attempts_in_memory = 2;
    let world = World::start(THINGS, settings).await;
    let World { owner, copy, .. } = &world;
    copy.refuse(|id| (id == "t100").then(|| "it is refused".into()));
    ask_in_full(copy).await;
    ended_in_full(copy).await;
    assert_eq!(copy.dead_letters(1).await[0]["id"], "t100");
    copy.accept();
    copy.converged(owner).await;
}

/// Somebody else asks for an ordinary comparison before it has begun, or while it is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_comparison_waits_until_everything_is_applied_again() {
    let world = World::start(THINGS, eager()).await;
    let World { copy, .. } = &world;
    let applied = copy.applied().len();
    ask_in_full(copy).await;
    // An ordinary one may end between two looks: what is applied again is there to stay.
    eventually("everything is applied again", || async {
        ask(copy, json!({"entity": ENTITY})).await;
        let again: std::collections::BTreeSet<_> =
            copy.applied().split_off(applied).into_iter().map(|(id, _)| id).collect();
        (again.len() == THINGS).then_some(())
    })
    .await;
    let asked = nudge_runtime::clock::now().to_string();
    ask(copy, json!({"entity": ENTITY})).await;
    eventually("the ordinary one has ended, too", || async {
        let last = copy.status().await["resync"]["last"].take();
        (last["full"] == false && last["began_at"].as_str()? > asked.as_str()).then_some(())
    })
    .await;
}
