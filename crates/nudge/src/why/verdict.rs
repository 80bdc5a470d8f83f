//! What it means that everyone holds what they hold. Pure.

mod subscriber;

use nudge_protocol::{
    Timestamp,
    admin::{RecordedVersion, StreamMessage},
};
use serde::Serialize;

use super::{
    Held, OwnerHeld,
    words::{ago, number},
};

/// The name of the stream among the places.
const STREAM: &str = "stream";

/// What was found at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The service, or `stream`.
    pub(crate) at: String,
    /// In one word.
    pub(crate) reason: Reason,
    /// Whether the entity is late because of this, or whether that cannot be told.
    pub(crate) behind: bool,
    /// In a sentence.
    pub(crate) says: String,
    /// What to do, mostly a command.
    pub(crate) todo: Option<String>,
}

/// How one place stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// The owner was not found, or does not answer.
    OwnerAway,
    /// The owner has it.
    Recorded,
    /// The owner has deleted it.
    Deleted,
    /// Neither the owner nor anybody else has ever heard of it.
    Unknown,
    /// The owner has never heard of it, but others have.
    OwnerLacks,
    /// The owner has not published it yet.
    NotPublished,
    /// The notification stands in the stream.
    InStream,
    /// The owner published it, and the stream does not hold it.
    LostInStream,
    /// The stream names a newer version than the owner has.
    StreamAhead,
    /// It is not known what the stream holds.
    StreamUnknown,
    /// The subscriber has what the owner has.
    Equal,
    /// The subscriber has a newer version than the owner.
    Ahead,
    /// The subscriber does not answer.
    Away,
    /// What the subscriber has cannot be compared, since it is not known what the owner has.
    NotCompared,
    /// The subscriber is paused.
    Paused,
    /// Nothing is published that the subscriber could have received.
    WaitsForOwner,
    /// It is a dead letter.
    DeadLetter,
    /// Callbacks to the owner fail, and are suspended.
    BreakerOpen,
    /// It failed so often that it is retried from the dead-letter table.
    Parked,
    /// The owner is being asked, or the answer is being applied.
    Processing,
    /// The last run did not succeed, and the next one is waited for.
    Retrying,
    /// It waits in the work queue.
    Waiting,
    /// The subscriber is reading everything for the first time.
    CatchingUp,
    /// Notifications do not arrive at the subscriber.
    NotConnected,
    /// The notification has not reached the subscriber yet.
    NotReceived,
    /// The notification was handled, and the subscriber has an older version all the same.
    Missed,
}

impl Reason {
    /// Whether it is part of the usual way of a change, and passes by itself.
    const fn passes(self) -> bool {
        matches!(
            self,
            Self::WaitsForOwner
                | Self::Processing
                | Self::Retrying
                | Self::Waiting
                | Self::CatchingUp
                | Self::NotReceived
        )
    }
}

impl Finding {
    fn new(at: &str, reason: Reason, says: impl Into<String>) -> Self {
        Self { at: at.to_owned(), reason, behind: false, says: says.into(), todo: None }
    }

    fn behind(self) -> Self {
        Self { behind: true, ..self }
    }

    fn todo(self, todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..self }
    }
}

/// What was found, place by place, in the order of the way of a change.
pub(super) fn findings(held: &Held, now: Timestamp) -> Vec<Finding> {
    let subscribers: Vec<_> =
        held.subscribers.iter().map(|one| subscriber::finding(held, one, now)).collect();
    let is_late = subscribers.iter().any(|finding| finding.behind);
    let mut findings = vec![of_owner(held, is_late, now)];
    findings.extend(of_stream(&held.owner, is_late));
    findings.extend(subscribers);
    findings
}

/// Which of them is the reason: the first that does not pass by itself, else the first.
pub(super) fn because(findings: &[Finding]) -> Option<usize> {
    let stays = |finding: &Finding| finding.behind && !finding.reason.passes();
    let first = || findings.iter().position(|finding| finding.behind);
    findings.iter().position(stays).or_else(first)
}

fn of_owner(held: &Held, is_late: bool, now: Timestamp) -> Finding {
    let owner = &held.owner;
    let at = owner.service.as_deref().unwrap_or("owner");
    if let Some(error) = &owner.error {
        let says = format!("It is not known what the owner has: {error}.");
        let todo = "start it, or look at its log: subscribers cannot follow it meanwhile";
        return Finding::new(at, Reason::OwnerAway, says).behind().todo(todo);
    }
    let Some(recorded) = owner.recorded else { return not_recorded(held, at) };
    let (what, reason) = match recorded.deleted {
        _ if recorded.never_existed => ("has a tombstone of what it never had", Reason::Deleted),
        true => ("deleted it", Reason::Deleted),
        false => ("has it", Reason::Recorded),
    };
    let RecordedVersion { version, changed_at, .. } = recorded;
    let since = ago(changed_at, now);
    if recorded.pending {
        let relay = relay(owner);
        let says =
            format!("It {what}, version {version}, since {since}; not published yet{relay}.");
        let finding = Finding::new(at, Reason::NotPublished, says);
        return match is_late {
            true => finding.behind().todo(relay_todo(owner)),
            false => finding,
        };
    }
    let published = match owner.offers_change_log {
        true => "",
        false => "; it does not tell what it has published, which an owner need not",
    };
    Finding::new(at, reason, format!("It {what}, version {version}, since {since}{published}."))
}

fn not_recorded(held: &Held, at: &str) -> Finding {
    let (entity, id) = (&held.entity, &held.id);
    let has = |one: &&super::SubscriberHeld| {
        one.key.as_ref().and_then(|key| key.applied).is_some_and(|applied| !applied.deleted)
    };
    let holder = held.subscribers.iter().find(has).map(|one| one.service.as_str());
    match holder.or(held.owner.message.map(|_| "the stream")) {
        None => {
            let says =
                format!("No such {entity}: neither {at} nor anybody else has ever heard of {id}.");
            Finding::new(at, Reason::Unknown, says)
        }
        Some(holder) => {
            let says = format!(
                "It has never heard of it, but {holder} has: it was restored from an older copy, or somebody made \
                 the ID up. Its relay gives the ID a tombstone once it has read the stream."
            );
            let todo = format!("nudge resync --entity {entity}");
            Finding::new(at, Reason::OwnerLacks, says).behind().todo(todo)
        }
    }
}

/// How the relay is doing, to go on with a sentence.
fn relay(owner: &OwnerHeld) -> String {
    let Some(relay) = &owner.relay else { return String::new() };
    match (relay.broker_connected, relay.connected, relay.pending) {
        (Some(false), ..) => ": its relay does not reach the broker".to_owned(),
        (_, Some(false), _) => {
            ": the broker does not accept what its relay publishes, or has no stream for it"
                .to_owned()
        }
        (_, _, Some(pending)) if pending > 1 => {
            format!(": {} changes are pending", number(pending))
        }
        _ => String::new(),
    }
}

fn relay_todo(owner: &OwnerHeld) -> String {
    let service = owner.service.as_deref().unwrap_or("the owner");
    match owner.relay.as_ref().map(|relay| (relay.broker_connected, relay.connected)) {
        Some((Some(false), _)) => {
            format!("see that NATS runs and that {service} reaches it; it publishes then by itself")
        }
        Some((_, Some(false))) => format!("look at the log of {service}: it says what is refused"),
        _ => format!(
            "nothing if that takes no longer than a second; else look at the log of {service}"
        ),
    }
}

/// `None` if there is nothing to say about it.
fn of_stream(owner: &OwnerHeld, is_late: bool) -> Option<Finding> {
    if !owner.offers_change_log {
        return None;
    }
    let Some(last) = owner.last_sequence else {
        let says = "The broker did not say in time what stands there.";
        return Some(Finding::new(STREAM, Reason::StreamUnknown, says));
    };
    let recorded = owner.recorded.as_ref();
    let is_published = recorded.is_some_and(|recorded| !recorded.pending);
    let lost = |says: &str| {
        let finding = Finding::new(STREAM, Reason::LostInStream, says);
        let todo = "nothing if that takes no longer than a few seconds: the relay looks for what is missing, and publishes \
                    it again; else nudge resync";
        if is_late { finding.behind().todo(todo) } else { finding }
    };
    let Some(message) = owner.message else {
        return match is_published {
            true => {
                Some(lost("The notification is gone: it was published, and does not stand there."))
            }
            false => None,
        };
    };
    let newest = recorded.map(|recorded| recorded.version);
    match (message.version, newest) {
        (Some(named), Some(newest)) if named < newest && is_published => {
            Some(lost("An older notification stands there than the one that was published."))
        }
        (Some(named), newest) if newest.is_none_or(|newest| named > newest) => {
            let says = format!(
                "Message {} names version {named}, which is newer than the owner's: the owner was restored from an \
                 older copy. Its relay gives the entity a newer version.",
                number(message.sequence)
            );
            Some(Finding::new(STREAM, Reason::StreamAhead, says).behind())
        }
        _ => Some(Finding::new(STREAM, Reason::InStream, stands(message, recorded, last))),
    }
}

fn stands(message: StreamMessage, recorded: Option<&RecordedVersion>, last: u64) -> String {
    let place = format!("Message {} of {}", number(message.sequence), number(last));
    let same = recorded.filter(|recorded| message.version == Some(recorded.version));
    match (message.published_at, same, message.version) {
        (Some(at), Some(recorded), _) => {
            let after = crate::output::duration(at.seconds_since(recorded.changed_at));
            format!("{place}, stored {after} after the commit.")
        }
        (_, _, Some(version)) => format!("{place} names version {version}."),
        (_, _, None) => format!("{place} names no version."),
    }
}

#[cfg(test)]
mod tests;
