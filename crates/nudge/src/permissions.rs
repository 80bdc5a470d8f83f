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

/// What a service does with entities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Roles {
    #[serde(default)]
    owns: Vec<EntityName>,
    #[serde(default)]
    follows: Vec<EntityName>,
}

/// The services, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Services(BTreeMap<String, Roles>);

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
        let roles = self.0.entry(name.to_owned()).or_default();
        let entities = match role {
            Role::Owner => &mut roles.owns,
            Role::Subscriber => &mut roles.follows,
        };
        if !entities.contains(&entity) {
            entities.push(entity);
        }
        self.check()
    }

    /// An error names the service that cannot be.
    fn check(&self) -> Result<(), String> {
        let mut owners = BTreeMap::new();
        for (name, roles) in &self.0 {
            check_name(name)?;
            for entity in &roles.owns {
                if let Some(other) = owners.insert(entity, name) {
                    return Err(format!("{other} and {name} cannot both own {entity}"));
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
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
