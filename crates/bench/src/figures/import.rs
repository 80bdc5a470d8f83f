//! An import through the demo: from its first line until both subscribers have applied all of it.

use std::time::Instant;

use nudge_runtime::{BoxError, database::Kind};
use nudge_testbed::Service;

use super::{OURS, Run};
use crate::{
    programs::Programs,
    report::{Aim, Figure},
    world::World,
};

pub(super) const NAME: &str = "import";
const STORES: usize = 100_000;
const SERVICES: [Service; 3] = [Service::StoreInfo, Service::Search, Service::Review];
/// By then, the subscribers have applied a part of them.
const OWNER: &str = "its owner has written them";

pub(super) async fn measure(run: &Run<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = run.kind();
    let aim = match kind {
        Kind::Sqlite => 14_000.0,
        Kind::Postgres => 6_000.0,
    };
    let title = "stores imported through the demo, search and review done";
    let mut figure = Figure::new(NAME, title, kind, "/s", vec![Aim::least(aim)]);
    let stores = run.some(STORES);
    run.rounds(NAME, async |_| {
        let world = World::start(kind).await?;
        let programs = Programs::start(world, run.options, &SERVICES).await?;
        let began = Instant::now();
        programs.import(0..stores, 0).await?;
        let written = began.elapsed();
        programs.applied(Service::Search, stores).await?;
        programs.applied(Service::Review, stores).await?;
        figure.add(OURS, stores as f64 / began.elapsed().as_secs_f64());
        figure.add(OWNER, stores as f64 / written.as_secs_f64());
        programs.stop().await;
        Ok(())
    })
    .await?;
    Ok(vec![figure])
}
