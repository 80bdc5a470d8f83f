//! Programs and NATS are frozen for a while, with their connections open, and continue.

use nudge_tests::{
    QUIET, Random, Service, eventually,
    processes::{Further, NATS, World, trial::Trial},
};

use crate::processes::{PROGRAM, in_any_order, one_of_each};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_stands_still_again_and_again() {
    let trial = Trial::start("frozen in turns", one_of_each().await, 4);
    for name in in_any_order(&mut Random::new(4)) {
        trial.writer().more(10).await;
        trial.world.freeze(name);
        // The others continue in the meantime, and those who need it wait for it.
        tokio::time::sleep(QUIET).await;
        trial.world.thaw(name);
    }
    trial.end().await;
}

/// Search gives up on an answer after half a second here, so that its breaker opens soon; review has its usual settings
/// and waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_owner_stands_still_its_subscribers_wait_without_dead_letters() {
    let mut world = World::new(PROGRAM).await;
    world.add("store-info", Service::StoreInfo, Further::default()).await;
    let impatient = Further { called: Some("impatient-search"), ..Further::default() };
    world.add("search", Service::Search, impatient).await;
    world.add("review", Service::Review, Further::default()).await;
    let trial = Trial::start("owner frozen", world, 5);
    trial.writer().write_all().await;
    let world = &trial.world;
    world.freeze("store-info");
    for id in trial.writer().written().newest.keys() {
        world.notify_again(id).await;
    }
    let shows = async |name: &'static str, figure: &'static str, value: &'static str| {
        eventually(&format!("{figure} of {name} is {value}"), || async {
            let status = world.status(name).await?;
            (status[figure] == value).then_some(())
        })
        .await;
    };
    shows("search", "breaker", "open").await;
    eventually("review waits for answers", || async {
        (world.status("review").await?["processing"] != 0).then_some(())
    })
    .await;
    for name in ["search", "review"] {
        let status = world.status(name).await.expect("an answer");
        for figure in ["retrying", "parked", "dead_letters"] {
            assert_eq!(status[figure], 0, "{name}: {figure}");
        }
    }
    world.thaw("store-info");
    shows("search", "breaker", "closed").await;
    trial.writer().more(10).await;
    for name in ["search", "review"] {
        assert_eq!(world.metric(name, "nudge_dead_lettered_total").await, Some(0), "{name}");
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nats_stands_still_writes_and_reads_go_on() {
    let trial = Trial::start("NATS frozen", one_of_each().await, 6);
    trial.writer().more(20).await;
    trial.world.freeze(NATS);
    trial.writer().more(50).await;
    for name in ["search", "review"] {
        eventually(&format!("{name} has noticed"), || async {
            (trial.world.status(name).await?["connected"] == false).then_some(())
        })
        .await;
    }
    trial.world.thaw(NATS);
    trial.writer().more(10).await;
    trial.end().await;
}
