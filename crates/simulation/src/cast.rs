//! Who is in a run: the services, what they follow, who owns that, and how many programs there are of each.

use std::sync::Arc;

use crate::{
    plan::RELAY,
    profile::Profile,
    service::{AnyService, Service},
};

/// A service by its name in stories, and the entities that it follows with one database.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) follows: Vec<Arc<dyn AnyService>>,
}

/// See the module documentation.
#[derive(Clone, Default)]
pub(crate) struct Cast {
    pub(crate) members: Vec<Member>,
    pub(crate) replicas: Option<usize>,
    /// Whether all entities have the same owner.
    pub(crate) one_owner: bool,
}

impl Cast {
    /// Panics if the name is empty, taken, or ends like that of relays.
    pub(crate) fn add(&mut self, name: &str, service: impl Service) {
        let taken = name.ends_with(RELAY) || self.members.iter().any(|other| other.name == name);
        assert!(!name.is_empty() && !taken, "a service of a simulation cannot be called {name:?}");
        self.members.push(Member { name: name.to_owned(), follows: vec![Arc::new(service)] });
    }

    /// The service that was added last follows this, too. Panics if it already does.
    pub(crate) fn add_entity(&mut self, service: impl Service) {
        let Member { name, follows } = self.members.last_mut().expect("a service");
        let entity = service.entity();
        let is_new = follows.iter().all(|other| other.entity() != entity);
        assert!(is_new, "{name} follows {entity} already");
        follows.push(Arc::new(service));
    }

    /// The entities that are followed, by owner.
    pub(crate) fn owners(&self) -> Vec<Vec<&'static str>> {
        let mut entities = Vec::new();
        for service in self.members.iter().flat_map(|member| &member.follows) {
            if !entities.contains(&service.entity()) {
                entities.push(service.entity());
            }
        }
        match self.one_owner {
            true => vec![entities],
            false => entities.into_iter().map(|entity| vec![entity]).collect(),
        }
    }

    /// Replicas of each service, and relays.
    pub(crate) fn replicas_in(&self, profile: Profile) -> usize {
        self.replicas.unwrap_or(profile.replicas())
    }
}
