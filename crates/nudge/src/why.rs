//! One entity's story: what its owner, the stream and each subscriber hold of it, which of them is the reason
//! that it is late somewhere, and what to do.
//!
//! | module | what it does |
//! |---|---|
//! | [`collect`] | asks everyone |
//! | [`verdict`] | what that means; pure |
//! | [`words`] | times, counts and commands as text |

mod collect;
mod verdict;
mod words;

use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    admin::{EntityStatus, Key, RecordedVersion, StreamMessage},
};
use nudge_runtime::clock;
use serde::Serialize;

use crate::{client::Api, failure::Failure, roles::OwnerStatus};
pub(crate) use verdict::{Finding, Reason};

/// What everyone holds of one entity.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Held {
    /// The kind of entity.
    pub(crate) entity: EntityName,
    /// Its ID.
    pub(crate) id: EntityId,
    /// What its owner and the stream hold.
    pub(crate) owner: OwnerHeld,
    /// What each subscriber holds.
    pub(crate) subscribers: Vec<SubscriberHeld>,
}

/// What an owner and its stream hold of one entity.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct OwnerHeld {
    /// The owner; `None` if it was not found.
    pub(crate) service: Option<String>,
    /// Where it listens.
    pub(crate) url: Option<String>,
    /// Why it is not known what it holds.
    pub(crate) error: Option<String>,
    /// Its newest version; `None` if it has never heard of the entity.
    pub(crate) recorded: Option<RecordedVersion>,
    /// What stands in the stream.
    pub(crate) message: Option<StreamMessage>,
    /// The end of the stream; `None` if it is not known what stands there.
    pub(crate) last_sequence: Option<u64>,
    /// Whether it tells what is published and what stands in the stream, which an owner need not.
    pub(crate) offers_change_log: bool,
    /// How its relay is doing.
    pub(crate) relay: Option<OwnerStatus>,
}

/// What a subscriber holds of one entity.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SubscriberHeld {
    /// The subscriber.
    pub(crate) service: String,
    /// Where it listens.
    pub(crate) url: String,
    /// Why it is not known what it holds.
    pub(crate) error: Option<String>,
    /// How the key stands there.
    pub(crate) key: Option<Key>,
    /// How it is doing with this kind of entity.
    pub(crate) status: Option<EntityStatus>,
}

/// What everyone holds, and what that means.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Story {
    #[serde(flatten)]
    pub(crate) held: Held,
    /// When it was found out.
    pub(crate) at: Timestamp,
    /// Whether every subscriber has what the owner has.
    pub(crate) equal: bool,
    /// One for each place, in the order of the way of a change.
    pub(crate) findings: Vec<Finding>,
    /// The index of the reason that it is late; `None` if it is not.
    pub(crate) because: Option<usize>,
}

impl Story {
    /// What this means at this moment.
    fn of(held: Held, at: Timestamp) -> Self {
        let findings = verdict::findings(&held, at);
        let because = verdict::because(&findings);
        let equal = findings.iter().all(|finding| !finding.behind);
        Self { held, at, equal, findings, because }
    }
}

/// Asks everyone about one entity. `who` names the subscribers, as `--subscriber` does.
///
/// # Errors
/// If no such subscriber is known. A service that does not answer is part of the story.
pub(crate) async fn tell(
    api: &Api,
    who: &str,
    entity: EntityName,
    id: EntityId,
) -> Result<Story, Failure> {
    let held = collect::held(api, who, entity, id).await?;
    Ok(Story::of(held, clock::now()))
}
