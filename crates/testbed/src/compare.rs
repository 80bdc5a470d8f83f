//! Compares every copy of every store and review with its owner.
//!
//! The comparison is pure: what an owner has, what a read model has applied and shows. [`Comparison`] asks the
//! programs for that, through their public APIs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use nudge_protocol::{EntityId, EntityName};
use serde::Serialize;
use serde_json::{Map, Value};

mod ask;
mod look;
mod reviews;
mod shown;
mod texts;

pub use look::{Asked, Comparison, Thoroughness};

/// What an owner has for one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// Its version.
    pub version: u64,
    /// `None` if it is deleted.
    pub state: Option<Map<String, Value>>,
}

/// Everything of one kind that its owner has ever had.
pub type Entities = BTreeMap<EntityId, Owned>;

/// The highest version that an owner answered for each entity it was asked to write.
pub type Newest = BTreeMap<(EntityName, EntityId), u64>;

/// What a read model shows for one store.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Live {
        /// `None` where it is not shown.
        version: Option<u64>,
        fields: Map<String, Value>,
        /// The owner's fields that are shown of this store.
        of: &'static [&'static str],
    },
    Deleted,
}

/// Everything that a read model shows of stores.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shows {
    /// Whether it shows which stores are deleted, or omits them.
    deleted: bool,
    stores: BTreeMap<EntityId, Shown>,
}

/// Everything that a read model has applied of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
struct Applied {
    /// Versions, and whether they are deletions.
    versions: BTreeMap<EntityId, (u64, bool)>,
    /// Number of entities with an applied version.
    count: u64,
    dead_letters: Vec<EntityId>,
}

/// One difference from the owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The program that differs.
    pub service: String,
    /// What kind of entity it is about.
    pub entity: &'static str,
    /// The entity, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<EntityId>,
    /// The field, or what else differs.
    pub what: String,
    /// The owner's value.
    pub expected: Value,
    /// The differing value.
    pub found: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, entity, id, what, expected, found } = self;
        let id = id.as_ref().map(|id| format!("{entity} {:?}: ", id.as_str())).unwrap_or_default();
        write!(f, "{service}: {id}{what} is {found}, and should be {expected}")
    }
}

/// Collects the differences of one program.
struct Differing {
    service: String,
    entity: &'static str,
    found: Vec<Difference>,
}

impl Differing {
    fn new(service: &str, entity: &'static str) -> Self {
        Self { service: service.to_owned(), entity, found: Vec::new() }
    }

    /// Notes one, if there is one.
    fn note(&mut self, id: Option<&EntityId>, what: &str, expected: Value, found: Value) {
        if expected != found {
            let (service, entity) = (self.service.clone(), self.entity);
            let (id, what) = (id.cloned(), what.to_owned());
            self.found.push(Difference { service, entity, id, what, expected, found });
        }
    }
}

/// Differences between what a read model has applied and what the owner has.
fn of_applied(
    service: &str,
    entity: &'static str,
    owner: &Entities,
    applied: &Applied,
) -> Vec<Difference> {
    let mut differing = Differing::new(service, entity);
    let ids: BTreeSet<_> = owner.keys().chain(applied.versions.keys()).collect();
    for id in ids {
        let expected = owner.get(id).map(|owned| (owned.version, owned.state.is_none()));
        let is = applied.versions.get(id).copied();
        let version = |of: Option<(u64, bool)>| of.map(|(version, _)| version).into();
        differing.note(Some(id), "applied version", version(expected), version(is));
        let deleted = |of: Option<(u64, bool)>| of.map(|(_, deleted)| deleted).into();
        differing.note(Some(id), "applied as deleted", deleted(expected), deleted(is));
    }
    let what = format!("number of {entity}s applied");
    differing.note(None, &what, owner.len().into(), applied.count.into());
    for id in &applied.dead_letters {
        differing.note(Some(id), "its dead letter", "not there".into(), "there".into());
    }
    differing.found
}

/// Differences between what a read model shows of stores and what their owner has.
fn of_shown(service: &str, owner: &Entities, shows: &Shows) -> Vec<Difference> {
    let mut differing = Differing::new(service, "store");
    let ids: BTreeSet<_> = owner.keys().chain(shows.stores.keys()).collect();
    for id in ids {
        let owned = owner.get(id);
        let standing = match owned.map(|owned| &owned.state) {
            Some(Some(_)) => "live",
            Some(None) if shows.deleted => "deleted",
            Some(None) | None => "not there",
        };
        let shown = match shows.stores.get(id) {
            Some(Shown::Live { .. }) => "live",
            Some(Shown::Deleted) => "deleted",
            None => "not there",
        };
        differing.note(Some(id), "it", standing.into(), shown.into());
        if let (
            Some(Owned { version, state: Some(state) }),
            Some(Shown::Live { version: is, fields, of }),
        ) = (owned, shows.stores.get(id))
        {
            let is = is.unwrap_or(*version);
            differing.note(Some(id), "version", (*version).into(), is.into());
            for field in *of {
                let of =
                    |fields: &Map<String, Value>| fields.get(*field).cloned().unwrap_or_default();
                differing.note(Some(id), field, of(state), of(fields));
            }
        }
    }
    differing.found
}

/// Differences of another replica of an owner.
fn of_owners(
    service: &str,
    entity: &'static str,
    owner: &Entities,
    other: &Entities,
) -> Vec<Difference> {
    let mut differing = Differing::new(service, entity);
    let ids: BTreeSet<_> = owner.keys().chain(other.keys()).collect();
    for id in ids {
        let said = |all: &Entities| {
            let owned: Option<&Owned> = all.get(id);
            owned.map(|owned| serde_json::json!([owned.version, owned.state])).unwrap_or_default()
        };
        differing.note(Some(id), "its answer", said(owner), said(other));
    }
    differing.found
}

/// Writes that an owner has answered and no longer has.
fn lost(service: &str, entity: &'static str, owner: &Entities, newest: &Newest) -> Vec<Difference> {
    let mut differing = Differing::new(service, entity);
    let written = newest.iter().filter(|((of, _), _)| of.as_str() == entity);
    for ((_, id), version) in written {
        let now = owner.get(id).map(|owned| owned.version);
        if now < Some(*version) {
            let what = "version of an answered write, now lost,";
            differing.note(Some(id), what, (*version).into(), now.into());
        }
    }
    differing.found
}

#[cfg(test)]
mod tests;
