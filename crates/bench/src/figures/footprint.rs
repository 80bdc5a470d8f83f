//! What programs take of the machine with a million stores: while they are filled, and when nothing happens.

use std::time::Duration;

use nudge_runtime::BoxError;
use nudge_testbed::Service;
use tokio::time::{Instant, sleep};

use super::{OURS, Run};
use crate::{
    programs::Programs,
    report::{Aim, Figure},
    usage::Usage,
    world::World,
};

pub(super) const NAME: &str = "footprint";
const STORES: usize = 1_000_000;
const IDLE: Duration = Duration::from_secs(20);

pub(super) async fn measure(run: &Run<'_>) -> Result<Vec<Figure>, BoxError> {
    let (kind, stores) = (run.kind(), run.some(STORES));
    if Usage::of(std::process::id()).is_none() {
        return Ok(Vec::new());
    }
    (run.progress)(&format!("{NAME} on {kind:?}: importing"));
    let world = World::start(kind).await?;
    let mut programs = Programs::start(world, run.options, &[Service::StoreInfo]).await?;
    let usage = |programs: &Programs, service| programs.usage(service).ok_or("it has ended");
    let began = usage(&programs, Service::StoreInfo)?;
    programs.import(0..stores, 0).await?;
    programs.published().await?;
    let imported = usage(&programs, Service::StoreInfo)?;
    (run.progress)(&format!("{NAME} on {kind:?}: a subscriber begins"));
    programs.add(Service::Search).await?;
    programs.applied(Service::Search, stores).await?;
    let filled = usage(&programs, Service::Search)?;
    let asked = usage(&programs, Service::StoreInfo)?;
    let each = |seconds: f64| seconds * 1e6 / stores as f64;
    let mut figures = Vec::new();
    let mut add = |title, unit, value, aims| {
        let mut figure = Figure::new(NAME, title, kind, unit, aims);
        figure.add(OURS, value);
        figures.push(figure);
    };
    let aims = vec![Aim::at_most(300.0, None)];
    let title = "peak memory of search, for which a million notifications waited";
    add(title, "MB", filled.peak_mb, aims);
    add("peak memory of store-info", "MB", asked.peak_mb, Vec::new());
    let title = "CPU of store-info for each store imported and published";
    add(title, "µs", each(imported.cpu_seconds - began.cpu_seconds), Vec::new());
    add("CPU of search for each store applied", "µs", each(filled.cpu_seconds), Vec::new());
    let title = "CPU of store-info for each store called back";
    add(title, "µs", each(asked.cpu_seconds - imported.cpu_seconds), Vec::new());
    figures.extend(idle(run, &programs).await?);
    programs.stop().await;
    Ok(figures)
}

async fn idle(run: &Run<'_>, programs: &Programs) -> Result<Vec<Figure>, BoxError> {
    let titles = [
        (Service::Search, "CPU of search, idle with a million stores"),
        (Service::StoreInfo, "CPU of store-info, idle with a million stores"),
    ];
    let mut figures = titles.map(|(service, title)| {
        let aims = vec![Aim::at_most(0.2, None)];
        (service, Figure::new(NAME, title, run.kind(), "% of a core", aims))
    });
    // What is still done after an import is not idle.
    sleep(IDLE).await;
    run.rounds(NAME, async |_| {
        let taken = |service| programs.usage(service).map(|usage| usage.cpu_seconds);
        let (before, began) = (figures.each_ref().map(|(one, _)| taken(*one)), Instant::now());
        sleep(IDLE).await;
        for ((service, figure), before) in figures.iter_mut().zip(before) {
            let taken = taken(*service).zip(before).ok_or("it has ended")?;
            figure.add(OURS, (taken.0 - taken.1) / began.elapsed().as_secs_f64() * 100.0);
        }
        Ok(())
    })
    .await?;
    Ok(figures.into_iter().map(|(_, figure)| figure).collect())
}
