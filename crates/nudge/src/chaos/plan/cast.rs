//! Who takes part in a run: the demo's services, and programs of others.

use std::collections::{BTreeMap, BTreeSet};

use nudge_protocol::EntityName;
use nudge_testbed::Service;
use parking_lot::Mutex;

use super::{Target, Words};

/// What a guest may ask. It gets the settings of both, and uses those of what it follows.
const OF_GUESTS: &[(&str, Service)] =
    &[("STORE_OWNER_URL", Service::StoreInfo), ("REVIEW_OWNER_URL", Service::Review)];
/// Names of targets that are no services.
const RESERVED: [&str; 2] = ["nats", "database"];

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) enum Who {
    /// A service of the demo.
    Demo(Service),
    /// A subscriber of somebody else's, by the name that it has at the broker.
    Guest(&'static str),
}

impl Who {
    pub(in crate::chaos) const fn name(self) -> &'static str {
        match self {
            Self::Demo(service) => service.name(),
            Self::Guest(name) => name,
        }
    }

    /// The services that it asks, each by the setting that names its URL.
    pub(in crate::chaos) const fn asks(self) -> &'static [(&'static str, Service)] {
        match self {
            Self::Demo(service) => service.asks(),
            Self::Guest(_) => OF_GUESTS,
        }
    }

    /// The owners of what it may follow.
    pub(in crate::chaos) fn follows(self) -> impl Iterator<Item = Service> {
        self.asks().iter().map(|(_, asked)| *asked).filter(|asked| asked.owns().is_some())
    }

    /// The one of this name, if that can be one.
    pub(super) fn named(name: &str) -> Option<Self> {
        Service::named(name).map(Self::Demo).or_else(|| guest(name).ok())
    }
}

impl From<Service> for Who {
    fn from(service: Service) -> Self {
        Self::Demo(service)
    }
}

/// A guest of this name. Names are few, and kept for as long as this program runs.
fn guest(name: &str) -> Result<Who, String> {
    static KNOWN: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    // A service that `nudge new` makes has the name of an entity, too.
    let taken = RESERVED.contains(&name) || Service::named(name).is_some();
    if EntityName::new(name).is_err() || taken {
        return Err(format!(
            "{name:?} cannot be a program's name: at most 40 of a-z, 0-9, - and _, the first of them a letter, and \
             none of the demo's"
        ));
    }
    let mut known = KNOWN.lock();
    let kept = known.get(name).copied();
    Ok(Who::Guest(kept.unwrap_or_else(|| {
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        known.insert(name);
        name
    })))
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(in crate::chaos) struct Cast(Vec<Who>);

impl Cast {
    /// With these guests, each with the command that starts it.
    pub(super) fn with(guests: &BTreeMap<String, Words>) -> Result<Self, String> {
        guests.keys().map(|name| guest(name)).collect::<Result<_, _>>().map(Self)
    }

    pub(in crate::chaos) fn everyone(&self) -> impl Iterator<Item = Who> {
        Service::ALL.into_iter().map(Who::Demo).chain(self.0.iter().copied())
    }

    /// Those that follow something.
    pub(in crate::chaos) fn subscribers(&self) -> impl Iterator<Item = Who> {
        Service::SUBSCRIBERS.into_iter().map(Who::Demo).chain(self.0.iter().copied())
    }

    /// All lines to the broker.
    pub(super) fn broker_lines(&self) -> impl Iterator<Item = Target> {
        self.everyone().map(Target::ToNats)
    }

    /// All lines.
    pub(in crate::chaos) fn lines(&self) -> impl Iterator<Item = Target> {
        let asked = |from: Who| from.asks().iter().map(move |(_, to)| Target::Line(from, *to));
        self.broker_lines().chain(self.everyone().flat_map(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_a_name_that_nobody_else_has() {
        assert_eq!(Who::named("search"), Some(Service::Search.into()));
        assert_eq!(Who::named("names"), Some(Who::Guest("names")));
        for bad in ["", "nats", "database", "Names", "a b", "a→b", &"a".repeat(41)] {
            assert_eq!(Who::named(bad), None, "{bad}");
        }
    }
}
