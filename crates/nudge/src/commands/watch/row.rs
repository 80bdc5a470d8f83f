//! One change, and how far each subscriber is with it.

use nudge_protocol::{
    EntityId, EntityName, Timestamp, Version,
    admin::{Event, EventKind},
};
use serde::Serialize;

/// Which entity a row is about.
pub(crate) type Key = (EntityName, EntityId);

/// How far one subscriber is with a change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Step {
    /// It does not follow this kind of entity.
    NotFollowed,
    /// Nothing heard of it yet.
    Waiting,
    /// The notification arrived.
    Received,
    /// The owner answered.
    Fetched,
    /// It failed this often so far and will be tried again.
    Retrying { times: u32, detail: String },
    /// Committed to the read model, this long after the owner's commit.
    Applied { lag_ms: Option<f64> },
    /// The read model had this version already.
    Ignored,
    /// A newer version was applied instead, which is just as good.
    Overtaken { by: Version },
    /// It failed for good.
    DeadLetter { detail: String },
}

impl Step {
    /// Whether nothing more is to come.
    pub(crate) const fn is_final(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Received | Self::Fetched | Self::Retrying { .. })
    }

    /// Whether the read model has this version, or a later one.
    pub(crate) const fn is_good(&self) -> bool {
        matches!(self, Self::Applied { .. } | Self::Ignored | Self::Overtaken { .. })
    }

    /// The step after an event.
    pub(super) fn after(&self, event: &Event) -> Self {
        let detail = || event.detail.clone().unwrap_or_default();
        match (event.kind, self) {
            // Told late, or again: what has been reached stays.
            (
                EventKind::Received
                | EventKind::Malformed
                | EventKind::Fetched
                | EventKind::Ignored,
                step,
            ) if step.is_final() => step.clone(),
            // A row that was retried stays marked until it comes to an end.
            (
                EventKind::Received | EventKind::Malformed | EventKind::Fetched,
                Self::Retrying { .. },
            ) => self.clone(),
            (EventKind::Received | EventKind::Malformed, Self::Fetched)
            | (EventKind::Fetched, _) => Self::Fetched,
            (EventKind::Received | EventKind::Malformed, _) => Self::Received,
            (EventKind::Ignored, _) => Self::Ignored,
            (EventKind::Applied, _) => Self::Applied { lag_ms: event.lag_seconds.map(millis) },
            (EventKind::Retried, Self::Retrying { times, .. }) => {
                Self::Retrying { times: times + 1, detail: detail() }
            }
            (EventKind::Retried, _) => Self::Retrying { times: 1, detail: detail() },
            (EventKind::DeadLettered, _) => Self::DeadLetter { detail: detail() },
        }
    }
}

/// Seconds as milliseconds with three decimals: what a clock of microseconds can say.
pub(super) fn millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// What the owner says of an entity.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// Which entity.
    pub(crate) key: Key,
    /// Its name; `None` when it has none, is gone, or the owner cannot be asked.
    pub(crate) name: Option<String>,
    /// Whether it is deleted, in which version, since when.
    pub(crate) deleted: bool,
    pub(crate) version: Option<Version>,
    pub(crate) changed_at: Option<Timestamp>,
}

/// One change of one entity.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Which entity.
    pub(crate) key: Key,
    /// Its version after the change, as far as anyone has told.
    pub(crate) version: Option<Version>,
    /// Its name, when its owner has told.
    pub(crate) name: Option<String>,
    /// Whether the change was its deletion.
    pub(crate) deleted: bool,
    /// When the owner committed.
    pub(crate) committed_at: Option<Timestamp>,
    /// When we heard of it first.
    pub(crate) first_seen: Timestamp,
    /// One per subscriber.
    pub(crate) steps: Vec<Step>,
    /// Whether the owner was asked for the name and has answered, or could not.
    pub(super) described: bool,
    /// Whether it has been told before, while it was still under way.
    pub(crate) told: bool,
}

impl Row {
    /// Whether nothing more is to come.
    pub(crate) fn is_settled(&self) -> bool {
        self.steps.iter().all(Step::is_final)
    }

    /// Whether all that came of it is that somebody had it already: a notification came twice, or
    /// after its state. That is no change.
    pub(super) fn is_nothing_new(&self) -> bool {
        self.steps.contains(&Step::Ignored)
            && self
                .steps
                .iter()
                .all(|step| matches!(step, Step::Ignored | Step::Waiting | Step::NotFollowed))
    }
}
