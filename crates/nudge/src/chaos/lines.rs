//! The lines between programs, each of which can be disturbed alone: from each service to NATS, and to each service that it
//! asks. `nudge chaos` and `nudge dev --chaos` share them.

use std::{collections::BTreeMap, sync::Arc};

use nudge_testbed::{
    Line, Way,
    line::{Counts, Settings},
};

use super::plan::{Place, Target, Who};
use crate::{client::Service, failure::Failure};

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: BTreeMap<Place, Line>,
    /// What was done to notifications on any of them.
    pub(in crate::chaos) counts: Arc<Counts>,
}

impl Lines {
    /// Those of the demo whose ports begin at `port_base`.
    pub(crate) async fn of_the_demo(port_base: u16, nats_port: u16) -> Result<Self, Failure> {
        let mut lines = Self::default();
        for service in Service::ALL {
            let port = |other: Service| other.port(port_base);
            lines.add(service.into(), 1, nats_port, port, 0).await?;
        }
        Ok(lines)
    }

    /// Adds those of a program. `port` is that of each service that it may ask.
    pub(in crate::chaos) async fn add(
        &mut self,
        who: Who,
        replica: u64,
        nats_port: u16,
        port: impl Fn(Service) -> u16,
        seed: u64,
    ) -> Result<(), Failure> {
        // What an owner publishes, and what others are told.
        let notifications = match who {
            Who::Demo(Service::StoreInfo) => Way::There,
            _ => Way::Back,
        };
        let to_nats = (Target::ToNats(who), nats_port, Some(notifications));
        let to_others =
            who.asks().iter().map(|(_, other)| (Target::Line(who, *other), port(*other), None));
        for (on, port, notifications) in [to_nats].into_iter().chain(to_others) {
            let seed = seed.wrapping_add(self.lines.len() as u64);
            let counts = self.counts.clone();
            let line = Line::to(port, Settings { notifications, seed, counts, keeps: false }).await;
            let line = line.map_err(|error| Failure::failed(format!("cannot listen: {error}")))?;
            self.lines.insert(Place { on, replica }, line);
        }
        Ok(())
    }

    /// A line.
    pub(in crate::chaos) fn at(&self, at: Place) -> Result<&Line, String> {
        self.lines.get(&at).ok_or_else(|| format!("{at} is not a line"))
    }

    /// Those whose target is one of these.
    pub(in crate::chaos) fn of(&self, is: impl Fn(Target) -> bool) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |(place, _)| is(place.on)).map(|(_, line)| line)
    }

    /// The settings by which a service of the demo uses its lines.
    pub(crate) fn settings_of(&self, service: Service) -> Vec<(&'static str, String)> {
        self.settings(service.into(), 1)
    }

    /// The settings by which a program uses its lines.
    pub(in crate::chaos) fn settings(&self, who: Who, replica: u64) -> Vec<(&'static str, String)> {
        let address = |on| self.lines[&Place { on, replica }].address();
        let nats = ("NATS_URL", format!("nats://{}", address(Target::ToNats(who))));
        let asks = who.asks().iter().map(|(setting, other)| {
            (*setting, format!("http://{}", address(Target::Line(who, *other))))
        });
        [nats].into_iter().chain(asks).collect()
    }

    /// Ends every disturbance.
    pub(in crate::chaos) fn heal(&self) {
        for line in self.lines.values() {
            line.set(|trouble| *trouble = Default::default());
        }
    }
}
