//! Which programs the test expects to be up.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::Service;

/// One program.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its service.
    pub service: Service,
    /// Its base URL.
    pub url: String,
    /// Whether it is expected to answer.
    pub up: bool,
    /// How often that has changed.
    pub turn: u64,
}

/// See the module documentation. Clones share it.
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

    /// Says whether a program is expected to answer from now on.
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

    /// Waits until the expectation for a program has changed since this turn.
    pub async fn left(&self, name: &str, turn: u64) {
        let mut changes = self.0.subscribe();
        // Cannot fail: the sender lives as long as we do.
        let _ = changes.wait_for(|places| places[name].turn != turn).await;
    }

    /// Waits until any program of a service is up.
    pub async fn some_up(&self, service: Service) {
        let mut changes = self.0.subscribe();
        let up = |place: &Place| place.up && place.service == service;
        let _ = changes.wait_for(|places| places.values().any(up)).await;
    }
}
