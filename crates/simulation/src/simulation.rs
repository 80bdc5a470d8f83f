//! The entry point: what to simulate, and running it.

use std::ops::Range;

use crate::{
    cast::Cast,
    mutant::Mutant,
    only::Only,
    plan::Plan,
    profile::Profile,
    report::{self, Outcome, Summary},
    run,
    service::Service,
    shrink,
};

/// The name of a single service in stories.
const ONLY: &str = "subscriber";

/// Any number of services, each with its own database and replicas, and the owners of the entities that they
/// follow.
///
/// [`explore`](crate::explore) runs one service that follows one entity; this runs several together, or
/// several entities, or more replicas. There are examples on the crate's page.
#[derive(Clone)]
#[must_use]
pub struct Simulation {
    cast: Cast,
    mutant: Option<Mutant>,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.cast.members.iter().map(|member| &member.name).collect();
        let mut debug = f.debug_struct("Simulation");
        debug.field("services", &names).field("replicas", &self.cast.replicas).finish()
    }
}

impl Simulation {
    /// One service, and its name in stories. Of each entity, the states of the first service that follows it
    /// are used for all.
    pub fn of(name: &str, service: impl Service) -> Self {
        Self { cast: Cast::default(), mutant: None }.and(name, service)
    }

    /// One service, which needs no name.
    pub(crate) fn only(service: impl Service) -> Self {
        Self::of(ONLY, service)
    }

    /// Adds a service, which has its own database.
    ///
    /// # Panics
    ///
    /// If the name is empty, taken, or ends with `relay`.
    pub fn and(mut self, name: &str, service: impl Service) -> Self {
        self.cast.add(name, service);
        self
    }

    /// The service that was added last also follows this entity: in the same programs, with the same
    /// database.
    ///
    /// # Panics
    ///
    /// If it follows that entity already.
    pub fn also(mut self, service: impl Service) -> Self {
        self.cast.add_entity(service);
        self
    }

    /// All entities have one owner, which publishes each to a stream of its own, edits several in one
    /// transaction, and is restored as a whole. By default each has its own.
    pub fn one_owner(mut self) -> Self {
        self.cast.one_owner = true;
        self
    }

    /// Sets the number of replicas of each service, and of relays, in every profile. The default is two of
    /// each in `two-replicas`, and one in the other profiles.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn replicas(mut self, replicas: usize) -> Self {
        assert!(replicas > 0, "a simulation needs at least one replica");
        self.cast.replicas = Some(replicas);
        self
    }

    /// Plants a fault, for tests that show that it is found.
    ///
    /// # Panics
    ///
    /// When a run begins, if the code was built without the fault: see
    /// [`Mutant::is_in_this_build`].
    #[doc(hidden)]
    pub fn planted(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }

    /// Runs one seed, always with the same story.
    pub fn run(&self, profile: Profile, seed: u64) -> Outcome {
        run::run(&self.cast, Plan { mutant: self.mutant, ..Plan::new(profile, seed) })
    }

    /// Runs every seed, and panics at the first that breaks a rule: with the story, reduced to the
    /// necessary faults, and the command that repeats it.
    ///
    /// With `SIMULATION_SEED` set, only that seed is run; with `SIMULATION_PROFILE`, only that profile.
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
                let run = |allowed| {
                    let plan = Plan::new(profile, seed);
                    run::run(
                        &self.cast,
                        Plan { allowed: Some(allowed), mutant: self.mutant, ..plan },
                    )
                };
                let small = shrink::shrink(&outcome, run);
                panic!("{}", report::failure(&outcome, &small));
            }
            summary.add(&outcome);
        }
        summary
    }
}
