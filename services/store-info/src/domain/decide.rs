//! What a request does to the existing store, if any.

use nudge_protocol::Version;
use nudge_publisher::conditional::Expected;
use serde_json::Value;

use super::{Invalid, Store};

/// What is known about an ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Unknown.
    Unknown,
    /// It never existed, as far as is known, but its ID has a tombstone with this version, because somebody published a
    /// message about it.
    NeverExisted(Version),
    /// It was deleted; the version is the tombstone's.
    Deleted(Version),
    /// It exists, but its row is not a valid store.
    Unreadable {
        /// What is wrong.
        problem: String,
        /// Its version.
        version: Version,
    },
    /// It exists.
    Live {
        /// Its state.
        store: Box<Store>,
        /// The version of that state.
        version: Version,
    },
}

impl Found {
    /// Its version; `None` if it is unknown.
    pub fn version(&self) -> Version {
        match self {
            Self::Unknown => Version::NONE,
            Self::NeverExisted(version)
            | Self::Deleted(version)
            | Self::Unreadable { version, .. }
            | Self::Live { version, .. } => *version,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write this state.
    Save(Box<Store>),
    /// Remove the store, leaving a tombstone.
    Delete,
    /// Nothing would change: no write, no new version, no notification.
    Keep,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The store did not exist, or was deleted.
    Created,
    /// Its state changed.
    Updated,
    /// It had this state already: same version, nothing published.
    Unchanged,
    /// It is deleted.
    Deleted,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such store.
    Unknown,
    /// It was deleted; the version is the tombstone's.
    Deleted(Version),
    /// Its row is not a valid store; what is wrong.
    Unreadable(String),
    /// It already exists.
    Exists,
    /// The store does not have the version that the request requires.
    NotExpected,
    /// The store has a version that the request excludes.
    Unwanted,
    /// The resulting store would be invalid.
    Invalid(Invalid),
}

/// What a request is conditional on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `If-Match`: only if it matches.
    pub only_if: Option<Expected>,
    /// `If-None-Match`: only if it does not match.
    pub unless: Option<Expected>,
}

impl Condition {
    /// Refuses unless the condition holds for a store with this version, or for a missing one.
    pub fn check(&self, current: Option<Version>) -> Result<(), Refusal> {
        let wanted = self.only_if.as_ref().is_none_or(|expected| expected.matches(current));
        let unwanted = self.unless.as_ref().is_some_and(|expected| expected.matches(current));
        match (wanted, unwanted) {
            (false, _) => Err(Refusal::NotExpected),
            (true, true) => Err(Refusal::Unwanted),
            (true, false) => Ok(()),
        }
    }
}

impl Found {
    /// The version of an existing store, readable or not.
    pub fn existing(&self) -> Option<Version> {
        match self {
            Self::Live { version, .. } | Self::Unreadable { version, .. } => Some(*version),
            Self::Unknown | Self::NeverExisted(_) | Self::Deleted(_) => None,
        }
    }

    /// The existing store with its version.
    pub fn live(&self) -> Result<(&Store, Version), Refusal> {
        match self {
            Self::Live { store, version } => Ok((store, *version)),
            Self::Deleted(version) => Err(Refusal::Deleted(*version)),
            Self::Unreadable { problem, .. } => Err(Refusal::Unreadable(problem.clone())),
            Self::Unknown | Self::NeverExisted(_) => Err(Refusal::Unknown),
        }
    }
}

/// `POST`: only if it does not exist. A deleted store does not exist, so it may be created again.
pub fn create(found: &Found, condition: &Condition, store: &Store) -> Result<Decision, Refusal> {
    if found.existing().is_some() {
        return Err(Refusal::Exists);
    }
    condition.check(None)?;
    Ok(Decision::Save(Box::new(store.clone())))
}

/// `PUT`: replaces the whole state, even of an unreadable row.
pub fn put(found: &Found, condition: &Condition, store: &Store) -> Result<Decision, Refusal> {
    condition.check(found.existing())?;
    match found.live() {
        Ok((current, _)) if current == store => Ok(Decision::Keep),
        _ => Ok(Decision::Save(Box::new(store.clone()))),
    }
}

/// `PATCH`: changes some fields of an existing store.
pub fn patch(found: &Found, condition: &Condition, patch: &Value) -> Result<Decision, Refusal> {
    let (current, version) = found.live()?;
    condition.check(Some(version))?;
    let patched = current.patched(patch).map_err(Refusal::Invalid)?;
    Ok(if patched == *current { Decision::Keep } else { Decision::Save(Box::new(patched)) })
}

/// `DELETE`: deletes an existing store, readable or not.
pub fn delete(found: &Found, condition: &Condition) -> Result<Decision, Refusal> {
    match found.existing() {
        Some(version) => condition.check(Some(version))?,
        None => drop(found.live()?),
    }
    Ok(Decision::Delete)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::GivenId;

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    fn store(name: &str) -> Store {
        Store::read(&json!({"id": "s", "name": name}), GivenId::InBody).unwrap()
    }

    fn live() -> Found {
        Found::Live { store: store("a").into(), version: version(7) }
    }

    fn only_if(versions: &[u64]) -> Condition {
        let versions = versions.iter().map(|n| version(*n)).collect();
        Condition { only_if: Some(Expected::OneOf(versions)), unless: None }
    }

    #[test]
    fn what_is_gone_can_be_made_anew_but_not_changed() {
        let never = Found::NeverExisted(version(9));
        assert_eq!(
            put(&never, &Condition::default(), &store("a")),
            Ok(Decision::Save(store("a").into()))
        );
        assert_eq!(delete(&never, &Condition::default()), Err(Refusal::Unknown));
        let (none, free) = (Found::Deleted(version(9)), Condition::default());
        assert_eq!(create(&none, &free, &store("a")), Ok(Decision::Save(store("a").into())));
        assert_eq!(put(&none, &free, &store("a")), Ok(Decision::Save(store("a").into())));
        assert_eq!(patch(&none, &free, &json!({})), Err(Refusal::Deleted(version(9))));
        assert_eq!(delete(&none, &free), Err(Refusal::Deleted(version(9))));
        assert_eq!(delete(&Found::Unknown, &free), Err(Refusal::Unknown));
        assert_eq!(create(&live(), &free, &store("b")), Err(Refusal::Exists));
    }

    #[test]
    fn what_cannot_be_read_is_there_and_can_be_replaced_or_deleted() {
        let (problem, version) = ("its open is no number".to_owned(), version(7));
        let (found, free) = (Found::Unreadable { problem, version }, Condition::default());
        assert_eq!(create(&found, &free, &store("a")), Err(Refusal::Exists));
        assert!(matches!(patch(&found, &free, &json!({})), Err(Refusal::Unreadable(_))));
        assert_eq!(put(&found, &only_if(&[7]), &store("a")), Ok(Decision::Save(store("a").into())));
        assert_eq!(put(&found, &only_if(&[6]), &store("a")), Err(Refusal::NotExpected));
        assert_eq!(delete(&found, &only_if(&[7])), Ok(Decision::Delete));
        assert_eq!(delete(&found, &only_if(&[6])), Err(Refusal::NotExpected));
    }

    #[test]
    fn what_changes_nothing_is_kept() {
        let free = Condition::default();
        assert_eq!(put(&live(), &free, &store("a")), Ok(Decision::Keep));
        assert_eq!(patch(&live(), &free, &json!({"name": "a", "phone": null})), Ok(Decision::Keep));
        assert_eq!(put(&live(), &free, &store("b")), Ok(Decision::Save(store("b").into())));
    }

    #[test]
    fn a_condition_is_checked_even_where_nothing_would_change() {
        assert_eq!(put(&live(), &only_if(&[6]), &store("a")), Err(Refusal::NotExpected));
        assert_eq!(patch(&live(), &only_if(&[]), &json!({})), Err(Refusal::NotExpected));
        assert_eq!(delete(&live(), &only_if(&[6, 8])), Err(Refusal::NotExpected));
        assert_eq!(delete(&live(), &only_if(&[6, 7])), Ok(Decision::Delete));
    }

    #[test]
    fn any_means_whatever_exists() {
        let any = Condition { only_if: Some(Expected::Any), unless: None };
        let none = Condition { only_if: None, unless: Some(Expected::Any) };
        assert_eq!(put(&Found::Unknown, &any, &store("a")), Err(Refusal::NotExpected));
        assert_eq!(put(&live(), &any, &store("a")), Ok(Decision::Keep));
        assert_eq!(put(&live(), &none, &store("b")), Err(Refusal::Unwanted));
        assert_eq!(put(&Found::Unknown, &none, &store("a")), Ok(Decision::Save(store("a").into())));
        // What does not exist has no version that could be expected.
        assert_eq!(create(&Found::Unknown, &only_if(&[7]), &store("a")), Err(Refusal::NotExpected));
    }
}
