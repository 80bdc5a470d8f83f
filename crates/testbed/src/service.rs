//! The services of the demo.

/// A service of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// The owner of stores.
    StoreInfo,
    /// Follows stores, for searching.
    Search,
    /// Follows stores, owns reviews.
    Review,
    /// Follows stores and reviews, for front ends.
    Storefront,
    /// Follows stores, keeps each user's favourites.
    Favourites,
    /// Follows stores, chooses which to advertise.
    Ads,
}

impl Service {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::StoreInfo,
        Self::Search,
        Self::Review,
        Self::Storefront,
        Self::Favourites,
        Self::Ads,
    ];
    /// Those that follow something: stores, all of them.
    pub const SUBSCRIBERS: [Self; 5] =
        [Self::Search, Self::Review, Self::Storefront, Self::Favourites, Self::Ads];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StoreInfo => "store-info",
            Self::Search => "search",
            Self::Review => "review",
            Self::Storefront => "storefront",
            Self::Favourites => "favourites",
            Self::Ads => "ads",
        }
    }

    /// The name of its PostgreSQL schema.
    pub const fn schema(self) -> &'static str {
        match self {
            Self::StoreInfo => "store_info",
            _ => self.name(),
        }
    }

    /// What it owns.
    pub const fn owns(self) -> Option<&'static str> {
        match self {
            Self::StoreInfo => Some("store"),
            Self::Review => Some("review"),
            Self::Search | Self::Storefront | Self::Favourites | Self::Ads => None,
        }
    }

    /// The services that it asks, each by the setting that names its URL.
    pub const fn asks(self) -> &'static [(&'static str, Self)] {
        match self {
            Self::StoreInfo => &[],
            Self::Search | Self::Review | Self::Favourites | Self::Ads => {
                &[("STORE_OWNER_URL", Self::StoreInfo)]
            }
            Self::Storefront => &[
                ("STORE_OWNER_URL", Self::StoreInfo),
                ("REVIEW_OWNER_URL", Self::Review),
                ("SEARCH_URL", Self::Search),
                ("FAVOURITES_URL", Self::Favourites),
                ("ADS_URL", Self::Ads),
            ],
        }
    }

    /// The owners that it follows.
    pub fn follows(self) -> impl Iterator<Item = Self> {
        self.asks().iter().map(|(_, asked)| *asked).filter(|asked| asked.owns().is_some())
    }

    /// The service that owns this entity.
    pub fn owner_of(entity: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.owns() == Some(entity))
    }

    /// The service of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// Its port, if the demo's ports begin at `port_base`.
    pub const fn port(self, port_base: u16) -> u16 {
        port_base
            + match self {
                Self::StoreInfo => 1,
                Self::Search => 2,
                Self::Review => 3,
                Self::Storefront => 4,
                Self::Favourites => 5,
                Self::Ads => 6,
            }
    }

    /// Its base URL, if the demo's ports begin at `port_base`.
    pub fn url(self, port_base: u16) -> String {
        format!("http://127.0.0.1:{}", self.port(port_base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists are indexed by it.
    #[test]
    fn a_service_is_at_its_place() {
        for (place, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, place);
        }
    }

    #[test]
    fn subscribers_are_those_that_follow_something() {
        let follow = Service::ALL.into_iter().filter(|service| service.follows().next().is_some());
        assert_eq!(follow.collect::<Vec<_>>(), Service::SUBSCRIBERS);
        let of_storefront: Vec<_> = Service::Storefront.follows().collect();
        assert_eq!(of_storefront, [Service::StoreInfo, Service::Review]);
    }
}
