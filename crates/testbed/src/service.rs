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
    /// The owner of stores, and those whose copies of them are disturbed and compared with it in every field.
    pub const COMPARED: [Self; 3] = [Self::StoreInfo, Self::Search, Self::Review];
    /// Those of them that follow stores.
    pub const SUBSCRIBERS: [Self; 2] = [Self::Search, Self::Review];

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

    /// Whether it is a subscriber.
    pub const fn follows_something(self) -> bool {
        !self.asks().is_empty()
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
        for (place, service) in Service::COMPARED.into_iter().enumerate() {
            assert_eq!(service as usize, place);
        }
    }
}
