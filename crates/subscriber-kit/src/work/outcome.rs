//! What a callback's answer means. Pure. Every rule of the protocol about answers is in this file.
//!
//! The content of a message has a single effect: it can cause a further callback. Nothing in this file can skip one.

use std::{collections::HashMap, panic::catch_unwind};

use nudge_protocol::{
    EntityId, Timestamp, Version,
    sync_api::{Item, ItemStatus},
};
use serde::de::DeserializeOwned;

use crate::{
    apply::EntityState,
    read_model::guard::{Applied, panic_message},
};

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

/// How applying a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applying {
    /// Something was applied.
    Works,
    /// Something could not be applied, and nothing was.
    Fails,
    /// There was nothing to apply.
    Untried,
}

/// Decides whose fault it is that keys failed alone for an unclear reason. A key that fails while others can be applied,
/// now or just before, is at fault itself. If nothing could be applied `most` times in a row, the failing keys are
/// blamed as well; otherwise some could hold up the rest forever. `in_a_row` is how often in a row nothing could be
/// applied before this batch.
pub(crate) fn judge_applying(
    applied: &mut HashMap<EntityId, Applied>,
    in_a_row: u32,
    most: u32,
) -> Applying {
    let works = |one: &Applied| matches!(one, Applied::Newer | Applied::Again);
    let fails = |one: &Applied| matches!(one, Applied::Later(_) | Applied::Unclear(_));
    let applying = match applied.values().any(works) {
        true => Applying::Works,
        false if applied.values().any(fails) => Applying::Fails,
        false => Applying::Untried,
    };
    if applying == Applying::Works || in_a_row == 0 || in_a_row >= most {
        for one in applied.values_mut() {
            if let Applied::Unclear(error) = one {
                *one = Applied::Failed(std::mem::take(error));
            }
        }
    }
    applying
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

    /// What becomes of entities that ended like this, when nothing could be applied so many times in a row before.
    fn applying(ended: &[Applied], in_a_row: u32) -> (Applying, Vec<Applied>) {
        let id = |n: usize| EntityId::new(&n.to_string()).unwrap();
        let ended = ended.iter().enumerate().map(|(n, one)| (id(n), one.clone()));
        let mut applied: HashMap<_, _> = ended.collect();
        let applying = judge_applying(&mut applied, in_a_row, 8);
        (applying, (0..applied.len()).map(|n| applied[&id(n)].clone()).collect())
    }

    #[test]
    fn what_fails_alone_is_to_blame_if_others_can_be_applied_now_or_just_before() {
        let unclear = || Applied::Unclear("too slow".to_owned());
        let failed = || Applied::Failed("too slow".to_owned());
        for works in [Applied::Newer, Applied::Again] {
            for in_a_row in [0, 1, 7, 8] {
                let (applying, ended) = applying(&[unclear(), works.clone()], in_a_row);
                assert_eq!((applying, &ended[0]), (Applying::Works, &failed()), "{in_a_row}");
                assert_eq!(ended[1], works);
            }
        }
        assert_eq!(applying(&[unclear()], 0), (Applying::Fails, vec![failed()]));
    }

    #[test]
    fn where_nothing_can_be_applied_the_database_is_to_blame_until_that_lasts() {
        let unclear = || Applied::Unclear("no right".to_owned());
        let later = || Applied::Later("no right".to_owned());
        // That a version is there already does not show that another could be written.
        for in_a_row in [1, 7] {
            let ended = [unclear(), later(), Applied::NotNewer];
            assert_eq!(applying(&ended, in_a_row), (Applying::Fails, ended.to_vec()));
        }
        let (lasts, ended) = applying(&[unclear(), later()], 8);
        let failed = Applied::Failed("no right".to_owned());
        assert_eq!((lasts, ended), (Applying::Fails, vec![failed, later()]));
    }

    #[test]
    fn what_is_wrong_with_the_data_says_nothing_about_the_database() {
        let refused = || Applied::Refused("too long".to_owned());
        for in_a_row in [0, 1, 8] {
            let ended = [refused(), Applied::NotNewer];
            assert_eq!(applying(&ended, in_a_row), (Applying::Untried, ended.to_vec()));
        }
        assert_eq!(applying(&[refused(), Applied::Newer], 1).0, Applying::Works);
    }
}
