//! Programs and NATS end, in order or at once, and are started again.

use nudge_tests::{Random, processes::trial::Trial};

use crate::{EVERYONE, ROUNDS, in_any_order, one_of_each};

/// Edits between one fault and the next.
const EDITS: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_is_killed_again_and_again() {
    let mut trial = Trial::start("killed in turns", one_of_each().await, 1);
    for name in in_any_order(&mut Random(1)) {
        trial.writer().more(EDITS).await;
        trial.world.kill(name).await;
        trial.world.start(&[name]).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_is_stopped_again_and_again_and_stops_in_order() {
    let mut trial = Trial::start("stopped in turns", one_of_each().await, 2);
    for name in in_any_order(&mut Random(2)) {
        trial.writer().more(EDITS).await;
        trial.world.stop(name).await;
        trial.world.start(&[name]).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_killed_at_once_and_started_in_any_order() {
    let mut trial = Trial::start("all killed at once", one_of_each().await, 3);
    let mut random = Random(3);
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
