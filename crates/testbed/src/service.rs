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
}

impl Service {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::StoreInfo, Self::Search, Self::Review];
    /// Those that follow stores.
    pub const SUBSCRIBERS: [Self; 2] = [Self::Search, Self::Review];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StoreInfo => "store-info",
            Self::Search => "search",
            Self::Review => "review",
        }
    }

    /// The service of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// Its port, if the demo's ports begin at `port_base`.
    pub const fn port(self, port_base: u16) -> u16 {
        port_base + 1 + self as u16
    }

    /// Its base URL, if the demo's ports begin at `port_base`.
    pub fn url(self, port_base: u16) -> String {
        format!("http://127.0.0.1:{}", self.port(port_base))
    }
}
