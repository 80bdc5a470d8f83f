//! What a callback's answer means. Pure. Every rule of the protocol about answers is in this file.
//!
//! The content of a message has a single effect: it can cause a further callback. Nothing in this file can skip one.

use std::panic::catch_unwind;

use nudge_protocol::{
    Timestamp, Version,
    sync_api::{Item, ItemStatus},
};
use serde::de::DeserializeOwned;

use crate::{apply::EntityState, read_model::guard::panic_message};

/// The owner's answer for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It exists, in this version.
    Live(Version),
    /// It was deleted, and this is the tombstone's version.
    Deleted(Version),
    /// The owner has never heard of it.
    Unknown,
}

impl Answer {
    /// The version of the answer; [`Version::NONE`] if the owner does not know the key.
    pub fn version(self) -> Version {
        match self {
            Self::Live(version) | Self::Deleted(version) => version,
            Self::Unknown => Version::NONE,
        }
    }
}

/// What the answer is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The highest version that a notification named.
    pub floor: Version,
    /// Whether a notification named no version.
    pub unsure: bool,
}

/// Why a key is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The answer is older than the notification: a stale replica or a cache.
    Stale,
    /// The notification named no version, so the answer may be older than it.
    Unsure,
    /// The owner does not know the key. Not a delete.
    Unknown,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply the answer; the run is done.
    Apply,
    /// Apply the answer (the guard rejects it if it is not newer), and ask again.
    ApplyAndLookAgain(Reason),
    /// There is nothing to apply. Ask again.
    LookAgain(Reason),
}

/// Reads one item of an answer. Returns the answer, and the state to apply, if any. An error concerns only this
/// entity.
pub fn read_item<S: DeserializeOwned>(
    item: &Item,
    now: Timestamp,
) -> Result<(Answer, Option<EntityState<S>>), String> {
    let known = || item.version.ok_or("the answer has no version".to_owned());
    let (answer, version) = match item.status {
        ItemStatus::Unknown => return Ok((Answer::Unknown, None)),
        ItemStatus::Deleted => (Answer::Deleted(known()?), known()?),
        ItemStatus::Live => (Answer::Live(known()?), known()?),
    };
    let state = match (&answer, &item.state) {
        (Answer::Live(_), Some(state)) => {
            // The service's own code may panic here, which must not fail the rest of the batch.
            let state = catch_unwind(|| serde_json::from_str(state.get()));
            let state = state.map_err(|panic| panic_message("reading the state", &*panic))?;
            Some(state.map_err(|error| format!("the state cannot be read: {error}"))?)
        }
        (Answer::Live(_), None) => return Err("the answer has no state".to_owned()),
        _ => None,
    };
    // Without a time, the lag counts from now.
    let changed_at = item.changed_at.unwrap_or(now);
    Ok((answer, Some(EntityState { id: item.id.clone(), version, changed_at, state })))
}

/// Judges one answer.
pub fn judge(answer: Answer, asked: Asked) -> Verdict {
    match answer {
        // Only a comparison with the owner's whole list may turn this into a delete: a lagging replica of the owner
        // does not know a new entity either.
        Answer::Unknown => Verdict::LookAgain(Reason::Unknown),
        Answer::Live(version) | Answer::Deleted(version) if version < asked.floor => {
            Verdict::ApplyAndLookAgain(Reason::Stale)
        }
        Answer::Live(_) | Answer::Deleted(_) if asked.unsure => {
            Verdict::ApplyAndLookAgain(Reason::Unsure)
        }
        Answer::Live(_) | Answer::Deleted(_) => Verdict::Apply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(n: u64) -> Version {
        Version::new(n).unwrap()
    }

    fn sure(floor: u64) -> Asked {
        Asked { floor: v(floor), unsure: false }
    }

    #[test]
    fn an_item_is_read_with_its_state_and_a_live_one_without_is_an_error() {
        let read = |json: &str| {
            let item: Item = serde_json::from_str(json).unwrap();
            let read = read_item::<u8>(&item, Timestamp::from_unix_micros(5));
            read.map(|(answer, entity)| (answer, entity.map(|entity| entity.state)))
        };
        let live = r#"{"id":"1","status":"live","version":3"#;
        assert_eq!(read(&format!("{live},\"state\":7}}")), Ok((Answer::Live(v(3)), Some(Some(7)))));
        assert!(read(&format!("{live}}}")).unwrap_err().contains("no state"));
        assert!(read(&format!("{live},\"state\":\"x\"}}")).unwrap_err().contains("cannot be read"));
        let deleted = r#"{"id":"1","status":"deleted","version":3}"#;
        assert_eq!(read(deleted), Ok((Answer::Deleted(v(3)), Some(None))));
        assert_eq!(read(r#"{"id":"1","status":"unknown"}"#), Ok((Answer::Unknown, None)));
        assert!(read(r#"{"id":"1","status":"deleted"}"#).unwrap_err().contains("no version"));
    }

    #[test]
    fn an_answer_at_or_above_the_floor_is_final() {
        for answer in [Answer::Live(v(10)), Answer::Deleted(v(10))] {
            assert_eq!(judge(answer, sure(10)), Verdict::Apply);
            assert_eq!(judge(answer, sure(9)), Verdict::Apply);
            assert_eq!(judge(answer, sure(0)), Verdict::Apply);
        }
    }

    #[test]
    fn an_answer_below_the_floor_is_applied_and_looked_at_again() {
        for answer in [Answer::Live(v(9)), Answer::Deleted(v(9))] {
            assert_eq!(judge(answer, sure(10)), Verdict::ApplyAndLookAgain(Reason::Stale));
        }
    }

    #[test]
    fn a_notification_without_a_version_costs_a_second_look() {
        let asked = Asked { floor: v(3), unsure: true };
        assert_eq!(judge(Answer::Live(v(5)), asked), Verdict::ApplyAndLookAgain(Reason::Unsure));
        assert_eq!(judge(Answer::Live(v(2)), asked), Verdict::ApplyAndLookAgain(Reason::Stale));
    }

    #[test]
    fn unknown_is_never_a_delete() {
        for unsure in [false, true] {
            let asked = Asked { floor: v(1), unsure };
            assert_eq!(judge(Answer::Unknown, asked), Verdict::LookAgain(Reason::Unknown));
        }
    }
}
