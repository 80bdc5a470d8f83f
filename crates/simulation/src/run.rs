//! One run: owners write, faults happen, everything heals, and everyone must converge.

mod accident;
mod end;
mod theatre;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use nudge_runtime::clock;
use tokio::time::sleep;

use crate::{
    cast::Cast, link::LATE, mutant, plain::helper, plan::Plan, processor::OneProcessor,
    report::Outcome, world::World,
};
use end::Except;
use theatre::{Program, Theatre};

/// Edits of each entity in a run, on average.
const EDITS: usize = 24;
/// How many more faults may happen after the owner's last edit: no later edit of the same
/// entity then makes up for what was lost.
const MORE_ACCIDENTS: usize = 6;
/// Longest pause between two edits.
const MAX_PAUSE: Duration = Duration::from_millis(1_500);

/// Runs a plan from beginning to end. A panic is also a broken rule, reported with the
/// seed and the story.
pub(crate) fn run(cast: &Cast, plan: Plan) -> Outcome {
    let _one = OneProcessor::of_this_thread();
    let _wrong_turn = mutant::WrongTurn::of(plan.mutant);
    let helper = helper();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
    // The world's time is this runtime's, also when nothing runs on it any more.
    let within = runtime.enter();
    let world = World::new(plan.clone());
    let time = world.clone();
    let simulated = clock::simulate(move || time.now());
    let whole = async {
        let theatre = Theatre::open(cast, world.clone(), helper).await;
        play(&theatre).await;
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(whole))) {
        world.panicked(&*panic);
    }
    let outcome = Outcome::of(&plan, &world);
    drop(simulated);
    drop(within);
    outcome
}

async fn play(theatre: &Arc<Theatre>) {
    let world = &theatre.world;
    for replica in 0..theatre.replicas {
        let relays = theatre.owners.iter().cloned().map(Program::Relay);
        let subscribers = theatre.followers.iter().cloned().map(Program::Subscriber);
        for program in relays.chain(subscribers) {
            tokio::spawn(theatre.clone().keep_running(program, replica));
        }
    }
    let entities = theatre.owners.iter().map(|owner| owner.entities.len()).sum::<usize>();
    let edits = EDITS * entities;
    for n in 0..edits + MORE_ACCIDENTS {
        sleep(world.up_to(MAX_PAUSE)).await;
        if world.is_violated() {
            return;
        }
        theatre.accident().await;
        if n < edits {
            theatre.edit().await;
        }
    }
    world.heal();
    world.skew(0);
    // Frozen programs wake up, and what was sent before still arrives.
    let standing_still = theatre.nodes.lock().values().map(|node| node.frozen_for()).max();
    sleep(standing_still.unwrap_or_default() + LATE).await;
    theatre.poison_stays.store(true, SeqCst);
    let contents = theatre.followers.iter().map(|follower| &follower.contents);
    if contents.clone().any(|contents| contents.was_spoilt()) {
        // Entities that cannot be applied stay so for now. Nobody else may wait for them.
        theatre.in_step(Except::Spoilt).await;
        let read_models = contents.flat_map(|contents| &contents.read_models);
        read_models.for_each(|read_model| read_model.followed.mend());
        // A release that fixes them; it gives dead letters one more try.
        theatre.crash_all("for a new release");
    }
    theatre.in_step(Except::None).await;
    if !world.is_violated() {
        theatre.nothing_is_left().await;
        theatre.stays_in_step().await;
        theatre.no_difference_is_invented().await;
    }
    theatre.stop.cancel();
}
