//! The name of a new service. It has to be good in several places at once.

use std::{fmt, str::FromStr};

use nudge_protocol::EntityName;

use crate::client::Service;

/// Packages that a new service depends on: cargo cannot tell a package of the same name from them.
const DEPENDENCIES: [&str; 4] =
    ["nudge-publisher", "nudge-simulation", "nudge-subscriber-kit", "serde"];
/// Names that mean something else in `--subscriber` and `--also`.
const RESERVED: [&str; 2] = ["all", "console"];

/// A service's name: a package, a crate, a part of the name of a consumer at the broker, a component of the database's
/// migrations, and a name for `--also`. Also the name of an entity. What else cargo does not accept, such as a word of
/// the language, it says itself.
#[derive(Clone, Debug)]
pub(crate) struct ServiceName(EntityName);

impl ServiceName {
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same as the name of an entity.
    pub(crate) fn as_entity(&self) -> EntityName {
        self.0.clone()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule =
            "must be 1 to 40 of the characters a-z, 0-9, - and _, the first of them a letter";
        let name = EntityName::new(text).map_err(|_| rule.to_owned())?;
        if Service::named(text).is_some() {
            return Err("is a service of the demo, which the broker knows by this name".to_owned());
        }
        if DEPENDENCIES.contains(&text) || RESERVED.contains(&text) {
            return Err("means something else; choose another name".to_owned());
        }
        Ok(Self(name))
    }
}
