//! The chaos drawer: breaks one thing at a time while `nudge dev --chaos` runs, by hand, and heals it.
//!
//! ```text
//! the page, nudge break ► http ► fault ► act ► a line, a program or a row     until it is healed, or its time is over
//! ```

mod act;
mod fault;
pub(crate) mod http;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use futures_util::future::join_all;
use nudge_protocol::{EntityName, Timestamp, admin::ResyncRequest};
use nudge_runtime::{Problem, clock};
use parking_lot::Mutex;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::interval};

use self::act::Act;
#[cfg(test)]
pub(crate) use self::act::MAX_SECONDS;
pub(crate) use self::fault::Fault;
use super::{
    lines::Lines,
    plan::{Place, Target},
    plant::{self, Edited},
};
use crate::client::{Api, Service};

/// Most things that are broken at a time.
const MAX_BROKEN: usize = 32;
/// Time between two looks at whether something is over.
const TICK: Duration = Duration::from_millis(200);

/// See the module documentation. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Drawer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines: Lines,
    services: BTreeMap<Service, Handle>,
    api: Api,
    /// How this program is called on a command line.
    command: String,
    state: Mutex<State>,
}

/// What is needed to break a service.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Whether it is to be down.
    pub(crate) down: watch::Sender<bool>,
    /// Its `DATABASE_URL`.
    pub(crate) database_url: String,
}

#[derive(Debug, Default)]
struct State {
    broken: Vec<Broken>,
    healed_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Broken {
    told: Told,
    act: Act,
    row: Option<Edited>,
}

/// Something that is broken, as it is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Told {
    /// What is broken, for people.
    pub(crate) words: String,
    /// Since when.
    pub(crate) since: Timestamp,
    /// When it heals by itself, at the latest.
    pub(crate) until: Timestamp,
}

/// What the drawer tells.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Shown {
    /// How this program is called on a command line.
    command: String,
    /// Everything that is broken on purpose.
    pub(crate) broken: Vec<Told>,
    /// When the last of it was healed, or its time was over; `None` while something is broken, and before anything was.
    healed_at: Option<Timestamp>,
    /// Notifications that are held back now.
    held: u64,
    /// Notifications so far that were let through in another order, that came twice, and that were lost.
    reordered: u64,
    duplicated: u64,
    dropped: u64,
}

impl Drawer {
    /// For these services, which are started so that they use these lines.
    pub(crate) fn new(
        lines: Lines,
        services: BTreeMap<Service, Handle>,
        api: Api,
        command: String,
    ) -> Self {
        Self(Arc::new(Inner { lines, services, api, command, state: Mutex::default() }))
    }

    /// What is broken now, and what was.
    pub(crate) fn shown(&self) -> Shown {
        use std::sync::atomic::Ordering::Relaxed;
        let (state, counts) = (self.0.state.lock(), &self.0.lines.counts);
        Shown {
            command: self.0.command.clone(),
            broken: state.broken.iter().map(|one| one.told.clone()).collect(),
            healed_at: state.healed_at,
            held: counts.held.load(Relaxed),
            reordered: counts.reordered.load(Relaxed),
            duplicated: counts.duplicated.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
        }
    }

    /// Breaks something. What was broken in its place before is healed first.
    async fn begin(&self, fault: &Fault) -> Result<(), Problem> {
        let act = fault.act()?;
        let row = match &act {
            Act::Edit(service, id, edits) => Some(self.edit(*service, id, edits).await?),
            _ => None,
        };
        let since = clock::now();
        let until = Timestamp::from_unix_micros(
            since.unix_micros().saturating_add_unsigned(fault.seconds() * 1_000_000),
        );
        let told = Told { words: fault.words(), since, until };
        let mut state = self.0.state.lock();
        let before = state.broken.iter().position(|one| act.replaces(&one.act));
        if let Some(before) = before.map(|place| state.broken.remove(place)) {
            self.0.change(&before.act, false);
        }
        if state.broken.len() >= MAX_BROKEN {
            let detail = format!("{MAX_BROKEN} things are broken already: heal them first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        self.0.change(&act, true);
        state.broken.push(Broken { told, act, row });
        state.healed_at = None;
        Ok(())
    }

    async fn edit(&self, service: Service, id: &str, edits: &[&str]) -> Result<Edited, Problem> {
        let url = &self.0.services[&service].database_url;
        let edited = plant::edit(service, url, edits, id).await;
        let away = |error: Box<dyn std::error::Error + Send + Sync>| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{}: {error}", service.name()))
        };
        let none = || Problem::parameter("id", format!("{} has no copy of it", service.name()));
        edited.map_err(away)?.ok_or_else(none)
    }

    /// Heals everything. Returns how many things were broken.
    fn heal(&self) -> usize {
        self.end(|_| true)
    }

    /// Heals whatever is over, for as long as it is polled.
    pub(crate) async fn keep(self) {
        let mut ticks = interval(TICK);
        loop {
            ticks.tick().await;
            let rows: Vec<_> = {
                let state = self.0.state.lock();
                state
                    .broken
                    .iter()
                    .filter_map(|one| Some((one.told.since, one.row.clone()?)))
                    .collect()
            };
            let mended = join_all(
                rows.into_iter().map(async |(since, row)| row.is_mended().await.then_some(since)),
            );
            let mended: Vec<_> = mended.await.into_iter().flatten().collect();
            let now = clock::now();
            self.end(|one| {
                one.told.until <= now || one.row.is_some() && mended.contains(&one.told.since)
            });
        }
    }

    fn end(&self, is_over: impl Fn(&Broken) -> bool) -> usize {
        let mut state = self.0.state.lock();
        let (over, broken): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.broken).into_iter().partition(is_over);
        state.broken = broken;
        for one in &over {
            self.0.change(&one.act, false);
        }
        if !over.is_empty() && state.broken.is_empty() {
            state.healed_at = Some(clock::now());
            let edited = over.iter().any(|one| one.row.is_some());
            tokio::spawn(compare(self.0.api.clone(), edited));
        }
        over.len()
    }
}

impl Inner {
    /// Breaks something, or heals it.
    fn change(&self, act: &Act, begins: bool) {
        let owners = |service: Service| {
            self.lines.of(move |on| {
                service.follows().any(|owner| on == Target::Line(service.into(), owner))
            })
        };
        match *act {
            Act::Disturb(service, disturb) => {
                let at = Place::first(Target::ToNats(service.into()));
                let line = self.lines.at(at).expect("each service has a line to NATS");
                line.set(|trouble| trouble.disturb = begins.then_some(disturb));
            }
            // A request is late, and so is its answer.
            Act::Delay(service, late) => owners(service).for_each(|line| {
                line.set(|trouble| trouble.late = begins.then_some(late / 2));
            }),
            Act::Sever(owner, sever) => {
                let its = move |on| matches!(on, Target::Line(_, to) if to == owner);
                self.lines.of(its).for_each(|line| {
                    line.set(|trouble| trouble.sever = begins.then_some(sever));
                });
            }
            Act::Down(service) => {
                self.services[&service].down.send_replace(begins);
            }
            // Its subscriber mends it.
            Act::Edit(..) => {}
        }
    }
}

/// Has every subscriber compare with the owners now, so that nobody has to wait for what it does by itself. Whoever cannot
/// be asked does so later. If rows may have been edited, their contents are read again, too.
async fn compare(api: Api, edited: bool) {
    let asked = Service::SUBSCRIBERS.into_iter().flat_map(|service| {
        service.follows().filter_map(Service::owns).map(move |entity| (service, entity))
    });
    join_all(asked.map(async |(service, entity)| {
        let entity = EntityName::new(entity).expect("a good name");
        let body = ResyncRequest { entity, full: edited, allow_removals: false };
        let peer = api.of(service);
        let request = api.request(Method::POST, peer, "/nudge/v1/resync").json(&body);
        let _ = api.send(peer, request).await;
    }))
    .await;
}

#[cfg(test)]
mod tests;
