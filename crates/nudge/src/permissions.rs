//! Who may do what at NATS.
//!
//! | module | what it holds |
//! |---|---|
//! | `grants` | what an owner, a subscriber, an operator and a guest need; pure |
//! | `config` | the text of a configuration for nats-server; pure |
//! | `keys` | the directory with that configuration and a secret key for each user |

mod config;
mod grants;
mod keys;

use std::collections::BTreeMap;

use nudge_protocol::EntityName;
use nudge_publisher::stream::READER;
use serde::{Deserialize, Serialize};

pub(crate) use keys::Keys;

/// The user that `nudge` itself logs in as: it looks at everything, and breaks things on demand.
pub(crate) const OPERATOR: &str = "nudge";
/// The user of whoever logs in without credentials, where that is allowed.
const GUEST: &str = "guest";
/// Longest name of a service, in bytes: with an entity and a number it is the name of a consumer, which may have 255.
const MAX_NAME_BYTES: usize = 64;

/// Longest name of a stream with CloudEvents, and its longest subjects, in bytes.
const MAX_EVENTS_BYTES: usize = 200;

/// What a service does with entities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Roles {
    #[serde(default)]
    owns: Vec<EntityName>,
    #[serde(default)]
    follows: Vec<EntityName>,
    /// Where CloudEvents tell of some of those that it follows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cloud_events: BTreeMap<EntityName, Events>,
}

/// CloudEvents in a stream that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Events {
    /// The stream's name.
    pub(crate) stream: String,
    /// Which of its subjects, perhaps with wildcards.
    pub(crate) subjects: String,
}

/// The services, by name, and whether guests are let in beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Services {
    services: BTreeMap<String, Roles>,
    #[serde(default)]
    guests: bool,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It publishes the changes of the entity, and looks after its stream.
    Owner,
    /// It is told of them.
    Subscriber,
}

impl Services {
    /// Adds what a service does. An error names what is wrong with it.
    pub(crate) fn add(&mut self, name: &str, role: Role, entity: EntityName) -> Result<(), String> {
        let roles = self.services.entry(name.to_owned()).or_default();
        let entities = match role {
            Role::Owner => &mut roles.owns,
            Role::Subscriber => &mut roles.follows,
        };
        if !entities.contains(&entity) {
            entities.push(entity);
        }
        self.check()
    }

    /// Adds that a service follows an entity by CloudEvents. An error names what is wrong with it.
    pub(crate) fn add_events(
        &mut self,
        name: &str,
        of: EntityName,
        events: Events,
    ) -> Result<(), String> {
        self.add(name, Role::Subscriber, of.clone())?;
        if let Some(roles) = self.services.get_mut(name) {
            roles.cloud_events.insert(of, events);
        }
        self.check()
    }

    /// As an earlier release wrote them, which kept in the configuration alone whether guests are let in.
    fn of_earlier(text: &str, guests: bool) -> Option<Self> {
        Some(Self { services: serde_json::from_str(text).ok()?, guests })
    }

    /// Lets in whoever has no credentials, or nobody else.
    pub(crate) fn let_in_guests(&mut self, guests: bool) {
        self.guests = guests;
    }

    /// An error names the service that cannot be.
    fn check(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (name, roles) in &self.services {
            check_name(name)?;
            roles.cloud_events.values().try_for_each(Events::check)?;
            for entity in &roles.owns {
                if let Some(other) = owners.insert(entity, name) {
                    return Err(format!("{other} and {name} cannot both own {entity}"));
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }
}

impl Events {
    /// They become parts of subjects, and text of the configuration.
    fn check(&self) -> Result<(), String> {
        let fits = |text: &str, more: &str| {
            let allowed =
                |c: char| c.is_ascii_alphanumeric() || "-_".contains(c) || more.contains(c);
            (1..=MAX_EVENTS_BYTES).contains(&text.len()) && text.chars().all(allowed)
        };
        if !fits(&self.stream, "") {
            return Err(format!("{:?} is not the name of a stream", self.stream));
        }
        // The first word is one of the publisher's: beside it are the replies to everybody.
        let last = self.subjects.matches('.').count();
        let is_word = |(place, word): (usize, &str)| match word {
            "*" => place > 0,
            ">" => place > 0 && place == last,
            word => !word.is_empty() && !word.contains(['*', '>']),
        };
        match fits(&self.subjects, ".*>") && self.subjects.split('.').enumerate().all(is_word) {
            true => Ok(()),
            false => Err(format!("{:?} are not the subjects of a stream", self.subjects)),
        }
    }
}

/// A name becomes a part of subjects, of a consumer's name and of a file's name.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match name.bytes().all(allowed) && (1..=MAX_NAME_BYTES).contains(&name.len()) {
        false => Err(format!(
            "the service's name {name:?} must be 1 to {MAX_NAME_BYTES} characters of A-Z, a-z, 0-9, '-' or '_'"
        )),
        true if [GUEST, OPERATOR, READER].contains(&name) || name.starts_with("nudge-") => {
            Err(format!("the name {name} is that of a user who is no service"))
        }
        true => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_of_events_are_such_as_the_server_takes_and_not_everything() {
        let stream = "SHOP".to_owned();
        let is_good = |subjects: &str| {
            Events { stream: stream.clone(), subjects: subjects.to_owned() }.check().is_ok()
        };
        for good in ["shop", "shop.*", "shop.>", "shop.*.changed", "shop.*.>"] {
            assert!(is_good(good), "{good}");
        }
        for bad in ["", ">", "*", "*.>", "shop.>.x", "shop..x", "shop.a*", "shop.x>", "shop x"] {
            assert!(!is_good(bad), "{bad}");
        }
    }

    #[test]
    fn what_an_earlier_release_wrote_is_read() {
        let text = r#"{"shop": {"owns": ["thing"]}, "search": {"follows": ["thing"]}}"#;
        let services = Services::of_earlier(text, true).unwrap();
        assert_eq!(services.names().collect::<Vec<_>>(), ["search", "shop"]);
        assert!(services.guests && services.check().is_ok());
        assert!(Services::of_earlier(r#"{"shop": {"owned": []}}"#, true).is_none());
    }
}
