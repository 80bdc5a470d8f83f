//! Where a fault can happen: at a program, or on the line from one to another.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::client::Service;

/// Targets that exist once, or once per replica.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::chaos) enum Target {
    Nats,
    StoreInfo,
    Search,
    Review,
    #[serde(rename = "store-info→nats")]
    StoreInfoToNats,
    #[serde(rename = "search→nats")]
    SearchToNats,
    #[serde(rename = "review→nats")]
    ReviewToNats,
    #[serde(rename = "search→store-info")]
    SearchToStoreInfo,
    #[serde(rename = "review→store-info")]
    ReviewToStoreInfo,
    /// The server that all services keep their data on, if there is one.
    Database,
}

impl Target {
    pub(in crate::chaos) const LINES: [Self; 5] = [
        Self::StoreInfoToNats,
        Self::SearchToNats,
        Self::ReviewToNats,
        Self::SearchToStoreInfo,
        Self::ReviewToStoreInfo,
    ];
    pub(super) const BROKER_LINES: [Self; 3] =
        [Self::StoreInfoToNats, Self::SearchToNats, Self::ReviewToNats];

    /// A service, its line to NATS, and its line to the owner, if it follows one.
    pub(in crate::chaos) const fn of(service: Service) -> (Self, Self, Option<Self>) {
        match service {
            Service::StoreInfo => (Self::StoreInfo, Self::StoreInfoToNats, None),
            Service::Search => (Self::Search, Self::SearchToNats, Some(Self::SearchToStoreInfo)),
            Service::Review => (Self::Review, Self::ReviewToNats, Some(Self::ReviewToStoreInfo)),
            Service::Storefront | Service::Favourites | Service::Ads => {
                panic!("it is not among those compared")
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
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
