//! Compares every copy of every store with its owner.
//!
//! The comparison is pure: what the owner has, what a read model shows and has applied, what is found by
//! text. [`Comparison`] asks the programs for that, through their public APIs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use nudge_protocol::EntityId;
use serde::Serialize;
use serde_json::{Map, Value};

mod ask;
mod look;
mod texts;

pub use look::{Asked, Comparison};

/// What the owner has for one store.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// Its version.
    pub version: u64,
    /// `None` if it is deleted.
    pub state: Option<Map<String, Value>>,
}

/// Everything that the owner has ever had.
pub type Stores = BTreeMap<EntityId, Owned>;

/// What a read model shows for one store.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Live { version: u64, fields: Map<String, Value> },
    Deleted,
}

/// Everything that a read model shows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// The owner's fields that it shows.
    fields: &'static [&'static str],
    /// Whether it shows which stores are deleted, or omits them.
    shows_deleted: bool,
    shown: BTreeMap<EntityId, Shown>,
    /// Applied versions, and whether they are deletions.
    applied: BTreeMap<EntityId, (u64, bool)>,
    /// Number of stores with an applied version.
    applied_count: u64,
    dead_letters: Vec<EntityId>,
}

/// One difference from the owner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The program that differs.
    pub service: String,
    /// The store, if it is about one.
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
        let Self { service, id, what, expected, found } = self;
        let id = id.as_ref().map(|id| format!("store {:?}: ", id.as_str())).unwrap_or_default();
        write!(f, "{service}: {id}{what} is {found}, and should be {expected}")
    }
}

/// All differences between a read model and the owner.
fn differences(service: &str, owner: &Stores, model: &Model) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |id: Option<&EntityId>, what: &str, expected: Value, is: Value| {
        if expected != is {
            let (service, what) = (service.to_owned(), what.to_owned());
            found.push(Difference { service, id: id.cloned(), what, expected, found: is });
        }
    };
    let ids: BTreeSet<_> =
        owner.keys().chain(model.shown.keys()).chain(model.applied.keys()).collect();
    for id in ids {
        let owned = owner.get(id);
        let standing = match owned.map(|owned| &owned.state) {
            Some(Some(_)) => "live",
            Some(None) if model.shows_deleted => "deleted",
            Some(None) | None => "not there",
        };
        let shown = match model.shown.get(id) {
            Some(Shown::Live { .. }) => "live",
            Some(Shown::Deleted) => "deleted",
            None => "not there",
        };
        differ(Some(id), "it", standing.into(), shown.into());
        if let (
            Some(Owned { version, state: Some(state) }),
            Some(Shown::Live { version: is, fields }),
        ) = (owned, model.shown.get(id))
        {
            differ(Some(id), "version", (*version).into(), (*is).into());
            for field in model.fields {
                let of =
                    |fields: &Map<String, Value>| fields.get(*field).cloned().unwrap_or_default();
                differ(Some(id), field, of(state), of(fields));
            }
        }
        let expected = owned.map(|owned| (owned.version, owned.state.is_none()));
        let applied = model.applied.get(id).copied();
        differ(Some(id), "applied version", version(expected), version(applied));
        differ(Some(id), "applied as deleted", deleted(expected), deleted(applied));
    }
    differ(None, "number of stores applied", owner.len().into(), model.applied_count.into());
    for id in &model.dead_letters {
        differ(Some(id), "its dead letter", "not there".into(), "there".into());
    }
    found
}

fn version(applied: Option<(u64, bool)>) -> Value {
    applied.map(|(version, _)| version).into()
}

fn deleted(applied: Option<(u64, bool)>) -> Value {
    applied.map(|(_, deleted)| deleted).into()
}

/// Differences of another replica of the owner.
fn of_owners(service: &str, owner: &Stores, other: &Stores) -> Vec<Difference> {
    let ids: BTreeSet<_> = owner.keys().chain(other.keys()).collect();
    let differ = ids.into_iter().filter(|id| owner.get(*id) != other.get(*id));
    let said = |stores: &Stores, id: &EntityId| {
        let owned: Option<&Owned> = stores.get(id);
        owned.map(|owned| serde_json::json!([owned.version, owned.state])).unwrap_or_default()
    };
    let difference = |id: &EntityId| Difference {
        service: service.to_owned(),
        id: Some(id.clone()),
        what: "its answer".to_owned(),
        expected: said(owner, id),
        found: said(other, id),
    };
    differ.map(difference).collect()
}

/// Writes that the owner has answered and no longer has.
fn lost(owner: &Stores, newest: &BTreeMap<EntityId, u64>) -> Vec<Difference> {
    let lost = newest.iter().filter_map(|(id, version)| {
        let now = owner.get(id).map(|owned| owned.version);
        (now < Some(*version)).then(|| Difference {
            service: "store-info".to_owned(),
            id: Some(id.clone()),
            what: "version of an answered write, now lost,".to_owned(),
            expected: (*version).into(),
            found: now.into(),
        })
    });
    lost.collect()
}

#[cfg(test)]
mod tests;
