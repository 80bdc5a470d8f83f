//! Where a fault can happen: at a program, or on the line from one to another.

use std::fmt;

use nudge_testbed::Service;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Targets that exist once, or once per replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) enum Target {
    /// The broker.
    Nats,
    /// A service.
    Program(Service),
    /// The line from a service to the broker.
    ToNats(Service),
    /// The line from a service to another that it asks.
    Line(Service, Service),
    /// The server that all services keep their data on, if there is one.
    Database,
}

impl Target {
    /// All services.
    pub(super) fn services() -> impl Iterator<Item = Self> {
        Service::ALL.into_iter().map(Self::Program)
    }

    /// All services that follow something.
    pub(super) fn subscribers() -> impl Iterator<Item = Self> {
        Service::SUBSCRIBERS.into_iter().map(Self::Program)
    }

    /// All lines to the broker.
    pub(super) fn broker_lines() -> impl Iterator<Item = Self> {
        Service::ALL.into_iter().map(Self::ToNats)
    }

    /// All lines.
    pub(in crate::chaos) fn lines() -> impl Iterator<Item = Self> {
        let asked = |from: Service| from.asks().iter().map(move |(_, to)| Self::Line(from, *to));
        Self::broker_lines().chain(Service::ALL.into_iter().flat_map(asked))
    }

    fn all() -> impl Iterator<Item = Self> {
        [Self::Nats, Self::Database].into_iter().chain(Self::services()).chain(Self::lines())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats => f.write_str("nats"),
            Self::Database => f.write_str("database"),
            Self::Program(service) => f.write_str(service.name()),
            Self::ToNats(service) => write!(f, "{}→nats", service.name()),
            Self::Line(from, to) => write!(f, "{}→{}", from.name(), to.name()),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = Self::all().find(|target| target.to_string() == name);
        found.ok_or_else(|| D::Error::custom(format!("there is no {name:?} to break")))
    }
}

/// One of those. The first replica, which may be the only one, has the service's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) struct Place {
    pub(in crate::chaos) on: Target,
    /// From 1.
    pub(in crate::chaos) replica: u64,
}

impl Place {
    /// The only one, or the first.
    pub(in crate::chaos) const fn first(on: Target) -> Self {
        Self { on, replica: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.on.to_string();
        match (self.replica, name.split_once('→')) {
            (1, _) => f.write_str(&name),
            (replica, None) => write!(f, "{name}-{replica}"),
            (replica, Some((from, to))) => write!(f, "{from}-{replica}→{to}"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
