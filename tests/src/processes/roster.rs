//! Which programs run just now, as far as the test has not taken them away.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::Service;

/// One program.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is.
    pub service: Service,
    /// Where it listens.
    pub url: String,
    /// Whether it is expected to answer.
    pub up: bool,
    /// Counts how often that has changed.
    pub turn: u64,
}

/// See the module's description. Cloning shares it.
#[derive(Clone)]
pub struct Roster(Arc<watch::Sender<BTreeMap<&'static str, Place>>>);

impl Default for Roster {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Roster {
    pub(super) fn add(&self, name: &'static str, service: Service, url: String) {
        self.0.send_modify(|places| {
            places.insert(name, Place { service, url, up: false, turn: 0 });
        });
    }

    /// Says that a program is expected to answer from now on, or no more.
    pub fn set(&self, name: &str, up: bool) {
        self.0.send_modify(|places| {
            let place = places.get_mut(name).expect("a program of this name");
            place.up = up;
            place.turn += 1;
        });
    }

    /// One program, whether it is up or not.
    pub fn place(&self, name: &str) -> Place {
        self.0.borrow().get(name).expect("a program of this name").clone()
    }

    /// The programs of a service that are up.
    pub fn up(&self, service: Service) -> Vec<(&'static str, Place)> {
        let places = self.0.borrow();
        let up = places.iter().filter(|(_, place)| place.up && place.service == service);
        up.map(|(name, place)| (*name, place.clone())).collect()
    }

    /// Waits until a program is no longer what it was in this turn.
    pub async fn left(&self, name: &str, turn: u64) {
        let mut changes = self.0.subscribe();
        // The sender lives as long as we do.
        let _ = changes.wait_for(|places| places[name].turn != turn).await;
    }

    /// Waits until some program of a service is up.
    pub async fn some_up(&self, service: Service) {
        let mut changes = self.0.subscribe();
        let up = |place: &Place| place.up && place.service == service;
        let _ = changes.wait_for(|places| places.values().any(up)).await;
    }
}
