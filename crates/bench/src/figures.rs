//! What is measured, one module for each figure.

mod backlog;
mod drain;
mod duplicates;
mod fan_out;
mod footprint;
mod growth;
mod idle;
mod import;
mod load;
mod outage;
mod relay;
mod rewrite;
mod search;
mod watched;
mod write;

use std::{ops::Deref, time::Duration};

use nudge_runtime::{BoxError, clock, database::Kind};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    Options,
    report::Figure,
    thing::id,
    world::{Owner, World},
};

/// The names of all figures, in the order in which they are measured.
pub const NAMES: [&str; 15] = [
    drain::NAME,
    idle::NAME,
    load::NAME,
    rewrite::NAME,
    duplicates::NAME,
    fan_out::NAME,
    watched::NAME,
    write::NAME,
    relay::NAME,
    backlog::NAME,
    outage::NAME,
    growth::NAME,
    import::NAME,
    search::NAME,
    footprint::NAME,
];

/// How often changes are committed where they flow at 5,000 a second, and how many at a time.
const TICK: Duration = Duration::from_millis(10);
const AT_A_TICK: usize = 50;
/// The least that counts as 5,000 a second.
const LEAST_RATE: f64 = 4_750.0;

/// Ours, in each figure.
const OURS: &str = "nudge";

/// How a figure is measured.
#[derive(Clone, Copy)]
struct Run<'a> {
    kind: Kind,
    options: &'a Options,
    progress: &'a dyn Fn(&str),
}

/// What a figure is measured with, in this process.
struct Bench<'a> {
    run: Run<'a>,
    world: World,
    /// It has [`things`](Self::things).
    owner: Owner,
    /// Entities in a backlog.
    things: usize,
}

impl<'a> Deref for Bench<'a> {
    type Target = Run<'a>;

    fn deref(&self) -> &Run<'a> {
        &self.run
    }
}

impl Bench<'_> {
    /// Commits so many changes, 5,000 a second, and returns the last thing, its edition, and how many a second it really were.
    async fn change(&self, changes: usize) -> Result<(String, i64, f64), BoxError> {
        let began = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let first_edition = clock::now().unix_micros();
        for first in (0..changes).step_by(AT_A_TICK) {
            ticks.tick().await;
            let ids: Vec<_> = (first..first + AT_A_TICK).map(|n| id(n % self.things)).collect();
            self.owner.write(&ids, first_edition + first as i64).await?;
        }
        // The first ones were committed at once.
        let pace = (changes - AT_A_TICK) as f64 / began.elapsed().as_secs_f64();
        Ok((id((changes - 1) % self.things), first_edition + (changes - AT_A_TICK) as i64, pace))
    }
}

impl Run<'_> {
    fn kind(&self) -> Kind {
        self.kind
    }

    /// So many, or a tenth of them if it must be quick.
    fn some(&self, count: usize) -> usize {
        if self.options.quick { count / 10 } else { count }
    }

    /// Measures once in each round. `once` is given the number of the round.
    async fn rounds(
        &self,
        name: &str,
        mut once: impl AsyncFnMut(usize) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        for round in 1..=self.options.rounds {
            let kind = self.kind();
            (self.progress)(&format!(
                "{name} on {kind:?}, round {round} of {}",
                self.options.rounds
            ));
            once(round).await?;
        }
        Ok(())
    }
}

/// Measures what is asked for on one kind of database, and adds it to the figures.
pub(crate) async fn all(
    kind: Kind,
    options: &Options,
    progress: &dyn Fn(&str),
    figures: &mut Vec<Figure>,
) -> Result<(), BoxError> {
    let wants = |name: &str| options.only.is_empty() || options.only.iter().any(|one| one == name);
    let run = Run { kind, options, progress };
    let of_programs = [import::NAME, search::NAME, footprint::NAME];
    if NAMES.iter().any(|name| wants(name) && !of_programs.contains(name)) {
        in_this_process(run, wants, figures).await?;
    }
    if wants(import::NAME) {
        figures.extend(import::measure(&run).await?);
    }
    if wants(search::NAME) {
        figures.extend(search::measure(&run).await?);
    }
    if wants(footprint::NAME) {
        figures.extend(footprint::measure(&run).await?);
    }
    Ok(())
}

/// Measures with an owner and subscribers in this process.
async fn in_this_process(
    run: Run<'_>,
    wants: impl Fn(&str) -> bool,
    figures: &mut Vec<Figure>,
) -> Result<(), BoxError> {
    (run.progress)(&format!("an owner on {:?}", run.kind));
    let world = World::start(run.kind).await?;
    let owner = world.owner().await?;
    let things = if run.options.quick { 4_000 } else { 100_000 };
    owner.fill(things, 0).await?;
    let bench = Bench { run, world, owner, things };
    if wants(drain::NAME) {
        figures.extend(drain::measure(&bench).await?);
    }
    if wants(idle::NAME) {
        figures.extend(idle::measure(&bench).await?);
    }
    if wants(load::NAME) {
        figures.extend(load::measure(&bench).await?);
    }
    if wants(rewrite::NAME) {
        figures.extend(rewrite::measure(&bench).await?);
    }
    if wants(duplicates::NAME) {
        figures.extend(duplicates::measure(&bench).await?);
    }
    if wants(fan_out::NAME) {
        figures.extend(fan_out::measure(&bench).await?);
    }
    if wants(watched::NAME) {
        figures.extend(watched::measure(&bench).await?);
    }
    if wants(write::NAME) {
        figures.extend(write::measure(&bench).await?);
    }
    if wants(relay::NAME) {
        figures.extend(relay::measure(&bench).await?);
    }
    if wants(backlog::NAME) {
        figures.extend(backlog::measure(&bench).await?);
    }
    if wants(outage::NAME) {
        figures.extend(outage::measure(&bench).await?);
    }
    if wants(growth::NAME) {
        figures.extend(growth::measure(&bench).await?);
    }
    bench.owner.stop().await;
    Ok(())
}
