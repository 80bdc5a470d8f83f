//! Who is in a run: the services that follow, and how many programs there are of each.

use std::{ops::Range, sync::Arc};

use crate::{
    only::Only,
    profile::Profile,
    report::{self, Outcome, Summary},
    run,
    service::{AnyService, Service},
    shrink,
    world::Plan,
};

/// What the story calls the only service there is.
const ONLY: &str = "subscriber";
/// What it calls the owner's relays.
pub(crate) const RELAY: &str = "relay";

/// One owner and any number of services that follow it, each with a database and replicas of its own.
///
/// [`explore`](crate::explore) runs one service; this runs several together, or more replicas. There is an
/// example on the crate's page.
#[derive(Clone)]
#[must_use]
pub struct Simulation {
    pub(crate) services: Vec<(String, Arc<dyn AnyService>)>,
    replicas: Option<usize>,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.services.iter().map(|(name, _)| name).collect();
        let mut debug = f.debug_struct("Simulation");
        debug.field("services", &names).field("replicas", &self.replicas).finish()
    }
}

impl Simulation {
    /// One service, and what stories call it. What it says of an owner's states holds for all.
    pub fn of(name: &str, service: impl Service) -> Self {
        Self { services: Vec::new(), replicas: None }.and(name, service)
    }

    /// One service, which needs no name.
    pub(crate) fn only(service: impl Service) -> Self {
        Self::of(ONLY, service)
    }

    /// Another service, which follows the same entity into a database of its own.
    ///
    /// # Panics
    ///
    /// When it follows another entity, or when the name is empty, taken, or that of the relays.
    pub fn and(mut self, name: &str, service: impl Service) -> Self {
        let service: Arc<dyn AnyService> = Arc::new(service);
        let taken = name == RELAY || self.services.iter().any(|(other, _)| other == name);
        assert!(!name.is_empty() && !taken, "a service of a simulation is called {name:?}");
        if let Some((first, other)) = self.services.first() {
            let (entity, other) = (service.entity(), other.entity());
            assert_eq!(entity, other, "{name} follows another entity than {first}");
        }
        self.services.push((name.to_owned(), service));
        self
    }

    /// So many replicas of each service, and relays, in every profile. Otherwise there are two of each in
    /// `two-replicas`, and one in the others.
    ///
    /// # Panics
    ///
    /// When there is to be none.
    pub fn replicas(mut self, replicas: usize) -> Self {
        assert!(replicas > 0, "a simulation with no program of any service");
        self.replicas = Some(replicas);
        self
    }

    pub(crate) fn replicas_in(&self, profile: Profile) -> usize {
        self.replicas.unwrap_or(profile.replicas())
    }

    /// Runs one seed: always the same story.
    pub fn run(&self, profile: Profile, seed: u64) -> Outcome {
        run::run(self, Plan { profile, seed, allowed: None })
    }

    /// Runs every seed, and panics at the first that breaks a rule: with the story, shortened to the
    /// faults that are needed, and the command that runs it again.
    ///
    /// With `SIMULATION_SEED` set, just that seed is run; with `SIMULATION_PROFILE`, just that profile.
    ///
    /// # Panics
    ///
    /// See above.
    pub fn explore(&self, profile: Profile, seeds: Range<u64>) -> Summary {
        let only = Only::from(|name| std::env::var(name).ok());
        let mut summary = Summary { is_part: only != Only::default(), ..Summary::default() };
        for seed in only.seeds(profile, seeds) {
            let outcome = self.run(profile, seed);
            if !outcome.is_good() {
                let small = shrink::shrink(self, &outcome);
                panic!("{}", report::failure(&outcome, &small));
            }
            summary.add(&outcome);
        }
        summary
    }
}
