//! Who is in a run: the services, and how many programs there are of each.

use std::sync::Arc;

use crate::{
    plan::RELAY,
    profile::Profile,
    service::{AnyService, Service},
};

/// Services by their names in stories, and their replicas.
#[derive(Clone)]
pub(crate) struct Cast {
    pub(crate) services: Vec<(String, Arc<dyn AnyService>)>,
    pub(crate) replicas: Option<usize>,
}

impl Cast {
    /// Panics if the service follows another entity, or if the name is empty, taken, or that of the
    /// relays.
    pub(crate) fn add(&mut self, name: &str, service: impl Service) {
        let service: Arc<dyn AnyService> = Arc::new(service);
        let taken = name == RELAY || self.services.iter().any(|(other, _)| other == name);
        assert!(!name.is_empty() && !taken, "a service of a simulation cannot be called {name:?}");
        if let Some((first, other)) = self.services.first() {
            let (entity, other) = (service.entity(), other.entity());
            assert_eq!(entity, other, "{name} follows another entity than {first}");
        }
        self.services.push((name.to_owned(), service));
    }

    /// Replicas of each service, and relays.
    pub(crate) fn replicas_in(&self, profile: Profile) -> usize {
        self.replicas.unwrap_or(profile.replicas())
    }
}
