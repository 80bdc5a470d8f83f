//! One run: edits and faults of a plan, healing, and the final comparison.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use nudge_testbed::{
    Comparison,
    compare::{Difference, Entities, Thoroughness},
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    board::Board,
    edits::{self, Written},
    follow,
    picture::Picture,
    plan::{Databases, Fault, Kind, Plan},
    report::{Ending, Report},
    reviews,
    world::World,
};

/// Time after the plan's end in which the remaining edits are made.
const EDIT_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between comparisons.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// From the first comparison in which everything is equal to one more: a subscriber that has not settled
/// would still change something.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Interval between frames of the display.
const FRAME: Duration = Duration::from_millis(100);

/// A run in progress.
pub(super) struct Run<'a> {
    pub(super) world: &'a World,
    pub(super) plan: &'a Plan,
    pub(super) databases: Databases,
    pub(super) picture: &'a Picture,
    /// Time allowed from the last fault until everything is equal.
    pub(super) patience: Duration,
}

impl Run<'_> {
    /// Carries out the plan and reports the result.
    pub(super) async fn carry_out(&self) -> Report {
        let (world, subscribers) = (self.world, self.world.subscribers());
        let board = Board::new(subscribers.iter().map(|subscriber| subscriber.name.clone()));
        let written = Arc::<Mutex<Written>>::default();
        let start = Instant::now();
        let background = async {
            let reads = subscribers.iter().enumerate();
            let reads = join_all(reads.map(|(place, one)| follow::read(one, &board, place)));
            join(join(follow::watch(world, &board), reads), self.draw(start, &board, &written))
                .await
        };
        let ending = tokio::select! {
            ending = self.work(start, &board, &written) => ending,
            _ = background => unreachable!("the background never returns"),
        };
        self.picture.done();
        world.note_panics().await;
        let (state, written) = (board.with(|state| state.clone()), snapshot(&written));
        let on = self.databases;
        Report::new(self.plan, on, &written, state, &world.lines.counts, ending, world.surprises())
    }

    async fn work(&self, start: Instant, board: &Board, written: &Arc<Mutex<Written>>) -> Ending {
        let end = start + Duration::from_millis(self.plan.millis);
        let deadline = end + EDIT_PATIENCE;
        let faults = self.plan.faults.iter().enumerate();
        let faults = join_all(faults.map(|(place, fault)| self.fault(start, place, fault, board)));
        let writing = join(
            edits::write(self.world, self.plan, start, deadline, written),
            reviews::write(self.world, self.plan, start, deadline, written),
        );
        join(writing, faults).await;
        self.world.heal().await;
        if !self.world.broken().is_empty() {
            return Ending { broken: self.world.broken(), ..Ending::default() };
        }
        self.picture.tell("healed; comparing everything");
        let ending = self.converge(&snapshot(written)).await;
        match ending.converged_after {
            Some(_) => self.find_planted(&snapshot(written), ending).await,
            None => ending,
        }
    }

    /// Notifications have done their part. What is planted now, only comparing finds.
    async fn find_planted(&self, written: &Written, ending: Ending) -> Ending {
        let planted = match self.world.plant().await {
            Ok(planted) => planted,
            Err(why) => {
                self.world.broke(format!("differences could not be planted: {why}"));
                return Ending { broken: self.world.broken(), ..ending };
            }
        };
        self.picture.tell(&format!("planted {planted} differences; waiting until they are found"));
        let found = self.converge(written).await;
        let found_after = found.converged_after;
        let converged_after = found_after.and(ending.converged_after);
        Ending { converged_after, planted, found_after, ..found }
    }

    async fn fault(&self, start: Instant, place: usize, fault: &Fault, board: &Board) {
        sleep_until(start + Duration::from_millis(fault.at_millis)).await;
        let seconds = fault.at_millis as f64 / 1e3;
        if let Err(why) = self.world.begin(fault).await {
            self.picture.say(&format!("{seconds:>6.1} s  {fault} could not be done: {why}"));
            board.with(|state| state.skipped(fault, &why));
            return;
        }
        board.with(|state| state.began(place, fault));
        let lasts = fault.for_millis as f64 / 1e3;
        let lasts = if fault.for_millis > 0 { format!(" for {lasts:.1} s") } else { String::new() };
        self.picture.tell(&format!("{seconds:>6.1} s  {fault}{lasts}"));
        sleep_until(start + Duration::from_millis(fault.at_millis + fault.for_millis)).await;
        if let Err(why) = self.world.end(fault).await {
            let what = format!("{fault} could not be ended: {why}");
            self.picture.say(&what);
            // Faults still active at the end are ended once more then.
            if fault.kind == Kind::NatsRollback {
                self.world.broke(what);
            }
        }
        board.with(|state| state.under_way.remove(&place));
    }

    /// Compares until everything is equal, and still is a while later.
    async fn converge(&self, written: &Written) -> Ending {
        let (began, comparison) = (Instant::now(), self.world.comparison());
        let mut same_after = None;
        loop {
            // All that differs is only told at the end.
            let last = began.elapsed() > self.patience;
            let how = if last { Thoroughness::Everything } else { Thoroughness::FirstThatDiffers };
            let looked = comparison.look(&written.newest, how).await;
            let after = began.elapsed();
            let ending = ending(&comparison, looked).await;
            let same = ending.differences.is_empty() && ending.not_compared.is_none();
            match (same, same_after) {
                (true, Some(converged_after)) => {
                    return Ending { converged_after: Some(converged_after), ..ending };
                }
                (true, None) => same_after = Some(after.as_secs_f64()),
                (false, Some(seconds)) => {
                    let what = ending.differences.first().map(ToString::to_string);
                    let what = what.or(ending.not_compared.clone()).unwrap_or_default();
                    self.world.surprise(format!(
                        "everything was equal after {seconds:.1} s, but then {what}"
                    ));
                    same_after = None;
                }
                (false, None) => {}
            }
            if !same && last {
                return ending;
            }
            sleep(if same { SETTLE } else { LOOK_INTERVAL }).await;
        }
    }

    async fn draw(&self, start: Instant, board: &Board, written: &Arc<Mutex<Written>>) {
        loop {
            let made = written.lock().made;
            board.with(|state| self.picture.draw(start.elapsed(), made, state));
            sleep(FRAME).await;
        }
    }
}

/// The result of a comparison, with a closer look if nothing else differs.
async fn ending(
    comparison: &Comparison,
    looked: Result<(Entities, Vec<Difference>), String>,
) -> Ending {
    let looked = match looked {
        Ok((owner, same)) if same.is_empty() => comparison.look_closely(&owner).await,
        Ok((_, differences)) => Ok(differences),
        Err(why) => Err(why),
    };
    let (differences, not_compared) = match looked {
        Ok(differences) => (differences, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    Ending { differences, not_compared, ..Ending::default() }
}

fn snapshot(written: &Mutex<Written>) -> Written {
    written.lock().clone()
}
