//! Everything that a service keeps: a read model of each entity that it follows, and what it makes of several
//! together.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_util::FutureExt;
use parking_lot::Mutex;

use crate::{read_model::ReadModel, service::States, world::World};

/// See the module documentation.
pub(crate) struct Contents {
    world: Arc<World>,
    pub(crate) read_models: Vec<Arc<ReadModel>>,
    /// After how much work of everyone's what is joined was last looked at.
    looked: Mutex<Option<u64>>,
}

impl Contents {
    pub(crate) fn new(world: Arc<World>, read_models: Vec<Arc<ReadModel>>) -> Arc<Self> {
        Arc::new(Self { world, read_models, looked: Mutex::default() })
    }

    /// The read model of this entity, if the service follows it.
    pub(crate) fn of(&self, entity: &str) -> Option<&Arc<ReadModel>> {
        self.read_models.iter().find(|read_model| read_model.service.entity() == entity)
    }

    /// Whether anything could not be applied or answered for at some time.
    pub(crate) fn was_spoilt(&self) -> bool {
        self.read_models.iter().any(|read_model| !read_model.followed.spoilt().is_empty())
    }

    /// After every commit. A panic, of the service's own code for instance, would be lost in the task of
    /// the kit that calls this.
    pub(crate) fn check(&self) {
        let look = || {
            self.read_models.iter().for_each(|read_model| read_model.look_closely());
            self.look_at_what_is_joined();
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(look)) {
            self.world.panicked(&*panic);
        }
    }

    /// What is joined follows at every commit from the versions that are there; but not while somebody's edit
    /// is.
    fn look_at_what_is_joined(&self) {
        let works = self.world.works_so_far();
        let is_new = self.looked.lock().replace(works) != Some(works);
        let is_edited = self.read_models.iter().any(|read_model| read_model.is_edited());
        if !is_new || is_edited {
            return;
        }
        let now = self.states(ReadModel::applied);
        if let Some(difference) = now.and_then(|now| self.joined(&now)) {
            self.world.violated(difference);
        }
    }

    /// What differs from the owners, if anything: also in what is joined, unless IDs that cannot be applied
    /// are left out.
    pub(crate) fn differs(&self, spoilt_too: bool) -> Option<String> {
        let mut read_models = self.read_models.iter();
        read_models.find_map(|read_model| read_model.differs(spoilt_too)).or_else(|| {
            let now = spoilt_too.then(|| self.states(|read_model| Some(read_model.at_the_owner())));
            now.flatten().and_then(|now| self.joined(&now))
        })
    }

    fn states(
        &self,
        of: impl Fn(&ReadModel) -> Option<States>,
    ) -> Option<BTreeMap<&'static str, States>> {
        let states = self.read_models.iter().map(|one| Some((one.service.entity(), of(one)?)));
        states.collect()
    }

    /// How what readers see of all entities together differs from these states, as the test joins them.
    fn joined(&self, states: &BTreeMap<&'static str, States>) -> Option<String> {
        self.read_models.iter().find_map(|read_model| {
            let ReadModel { service, db, whose, .. } = &**read_model;
            let read = service.read_joined(db).now_or_never().expect("it does not wait");
            let (read, expected) = (read.expect("it can be read"), service.joined(states));
            (read != expected).then(|| {
                let entity = service.entity();
                format!("{whose}{entity}: joined, it reads {read}, not {expected}")
            })
        })
    }
}
