//! Programs and NATS stop or are killed, and are started again.

use std::time::Duration;

use nudge_tests::{
    Random, Service, Way, eventually, line_to,
    processes::{Further, World, trial::Trial},
};

use crate::processes::{EVERYONE, PROGRAM, ROUNDS, in_any_order, one_of_each};

/// Number of edits between two faults.
const EDITS: u64 = 10;
/// A little longer than the interval at which a subscriber stores its position.
const POSITION_RECORDED: Duration = Duration::from_millis(1_200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_is_killed_again_and_again() {
    let mut trial = Trial::start("killed in turns", one_of_each().await, 1);
    for name in in_any_order(&mut Random::new(1)) {
        trial.writer().more(EDITS).await;
        trial.world.kill(name).await;
        trial.world.start(&[name]).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_is_stopped_again_and_again_and_stops_in_order() {
    let mut trial = Trial::start("stopped in turns", one_of_each().await, 2);
    for name in in_any_order(&mut Random::new(2)) {
        trial.writer().more(EDITS).await;
        trial.world.stop(name).await;
        trial.world.start(&[name]).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_killed_at_once_and_started_in_any_order() {
    let mut trial = Trial::start("all killed at once", one_of_each().await, 3);
    let mut random = Random::new(3);
    for _ in 0..ROUNDS {
        trial.writer().more(EDITS).await;
        for name in EVERYONE {
            trial.world.kill(name).await;
        }
        let mut names = EVERYONE;
        random.shuffle(&mut names);
        for name in names {
            trial.world.start(&[name]).await;
        }
    }
    trial.end().await;
}

/// The subscriber has time to store a position that wrongly covers its unfinished work. Nobody else ends in the
/// meantime: a relay that reconnects publishes recent changes again, and so would hide what a subscriber had lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_killed_with_work_in_hand_loses_none_of_it() {
    let mut world = World::new(PROGRAM).await;
    world.add("store-info", Service::StoreInfo, Further::default()).await;
    let line = line_to(world.port("store-info")).await;
    let owner_url = Some(format!("http://{}", line.address()));
    world.add("search", Service::Search, Further { owner_url, ..Further::default() }).await;
    world.add("review", Service::Review, Further::default()).await;
    let mut trial = Trial::start("killed with work in hand", world, 9);
    for _ in 0..ROUNDS {
        trial.writer().more(EDITS).await;
        line.hold(Way::Back);
        eventually("answers are on their way", || async {
            (!line.said(Way::Back).is_empty()).then_some(())
        })
        .await;
        tokio::time::sleep(POSITION_RECORDED).await;
        trial.world.kill("search").await;
        line.release();
        trial.world.start(&["search"]).await;
    }
    trial.end().await;
}
