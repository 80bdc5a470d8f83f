//! Where a fault can happen: at a program, or on the line from one to another.

use std::fmt;

use nudge_testbed::Service;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::Who;

/// Targets that exist once, or once per replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) enum Target {
    /// The broker.
    Nats,
    /// A service.
    Program(Who),
    /// The line from a service to the broker.
    ToNats(Who),
    /// The line from a service to another that it asks.
    Line(Who, Service),
    /// The server that all services keep their data on, if there is one.
    Database,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats => f.write_str("nats"),
            Self::Database => f.write_str("database"),
            Self::Program(who) => f.write_str(who.name()),
            Self::ToNats(who) => write!(f, "{}→nats", who.name()),
            Self::Line(from, to) => write!(f, "{}→{}", from.name(), to.name()),
        }
    }
}

impl Target {
    /// The target of this name, if that can be one. Whether it takes part in a run is another question.
    fn named(name: &str) -> Option<Self> {
        match (name, name.split_once('→')) {
            ("nats", _) => Some(Self::Nats),
            ("database", _) => Some(Self::Database),
            (_, None) => Who::named(name).map(Self::Program),
            (_, Some((from, "nats"))) => Who::named(from).map(Self::ToNats),
            (_, Some((from, to))) => Some(Self::Line(Who::named(from)?, Service::named(to)?)),
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
        Self::named(&name).ok_or_else(|| D::Error::custom(format!("there is no {name:?} to break")))
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
