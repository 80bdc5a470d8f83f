//! How a subscriber stands with the entity.

use nudge_protocol::{
    Timestamp,
    admin::{AppliedVersion, BreakerState, DeadLetter, EntityStatus, Key, KeyState, KeyWork},
};

use super::{Finding, Reason};
use crate::{
    output::{count, duration},
    why::{
        Held, SubscriberHeld,
        words::{ago, argument, number, when},
    },
};

/// What is looked at to find out why a subscriber is behind.
struct Late<'a> {
    held: &'a Held,
    name: &'a str,
    key: &'a Key,
    status: &'a EntityStatus,
    now: Timestamp,
}

pub(super) fn finding(held: &Held, one: &SubscriberHeld, now: Timestamp) -> Finding {
    let name = one.service.as_str();
    let (Some(key), Some(status)) = (&one.key, &one.status) else {
        let error = one.error.as_deref().unwrap_or("it did not answer");
        let says = format!("It is not known what it has: {error}.");
        let todo = format!("start {name}, or look at its log");
        return Finding::new(name, Reason::Away, says).behind().todo(todo);
    };
    if held.owner.error.is_some() {
        let says = format!("{}; the owner's version is not known.", has(key.applied, now));
        return Finding::new(name, Reason::NotCompared, says);
    }
    let newest = held.owner.recorded.map(|recorded| recorded.version);
    match (key.applied, newest) {
        (Some(applied), Some(newest)) if applied.version == newest => {
            equal(name, key, applied, now)
        }
        (Some(applied), Some(newest)) if applied.version > newest => ahead(held, name, applied),
        (Some(applied), None) if !applied.deleted => ahead(held, name, applied),
        (_, None) => Finding::new(name, Reason::Equal, "It does not have it, like the owner."),
        (_, Some(_)) => {
            let late = Late { held, name, key, status, now };
            late.finding().behind()
        }
    }
}

fn equal(name: &str, key: &Key, applied: AppliedVersion, now: Timestamp) -> Finding {
    let as_what =
        if applied.deleted { "It has deleted it, too" } else { "It has the same version" };
    let since = ago(applied.applied_at, now);
    let besides = match (&key.work, &key.dead_letter) {
        (Some(_), _) => "; it is about to look once more",
        (None, Some(_)) => "; a row of its dead-letter table is left over",
        (None, None) => "",
    };
    Finding::new(name, Reason::Equal, format!("{as_what}, since {since}{besides}."))
}

fn ahead(held: &Held, name: &str, applied: AppliedVersion) -> Finding {
    let says = format!(
        "It has version {}, which is NEWER than the owner's: the owner was restored from an older copy. The owner \
         gives the entity a newer version when the next comparison tells it so.",
        applied.version
    );
    let todo = format!("nudge resync --subscriber {name} --entity {}", held.entity);
    Finding::new(name, Reason::Ahead, says).behind().todo(todo)
}

/// What the read model has.
fn has(applied: Option<AppliedVersion>, now: Timestamp) -> String {
    match applied {
        None => "It does not have it".to_owned(),
        Some(AppliedVersion { version, deleted, applied_at }) => {
            let what = if deleted { "deleted it at" } else { "has" };
            format!("It {what} version {version}, since {}", ago(applied_at, now))
        }
    }
}

impl Late<'_> {
    /// Why it is behind: what keeps it from getting on, looked at from the outside to the inside, then how
    /// far it is.
    fn finding(&self) -> Finding {
        self.kept_back()
            .or_else(|| self.in_the_queue())
            .or_else(|| self.on_the_way())
            .unwrap_or_else(|| self.missed())
    }

    fn says(&self, reason: Reason, why: impl std::fmt::Display) -> Finding {
        let has = has(self.key.applied, self.now);
        Finding::new(self.name, reason, format!("{has}. {why}."))
    }

    fn replay(&self) -> String {
        let (entity, id) = (&self.held.entity, argument(&self.held.id));
        format!("nudge dead-letters replay --subscriber {} {entity} {id}", self.name)
    }

    fn kept_back(&self) -> Option<Finding> {
        let Self { held, key, status, now, .. } = self;
        let owner = held.owner.service.as_deref().unwrap_or("the owner");
        if status.paused {
            let paused = self.says(Reason::Paused, "It is paused");
            return Some(paused.todo(format!("nudge resume {}", self.name)));
        }
        let is_unpublished = held.owner.recorded.is_some_and(|recorded| recorded.pending);
        if is_unpublished && key.work.is_none() && key.dead_letter.is_none() {
            return Some(
                self.says(Reason::WaitsForOwner, format!("It waits for {owner} to publish")),
            );
        }
        if key.state == Some(KeyState::DeadLetter) {
            let letter = key.dead_letter.as_ref()?;
            let DeadLetter { error, floor, last_failed_at, .. } = letter;
            let since = last_failed_at.map(|at| format!(", {}", ago(at, *now))).unwrap_or_default();
            let why = format!("Version {floor} is a dead letter{since}: {error}");
            let todo = format!("mend the cause, then {}", self.replay());
            return Some(self.says(Reason::DeadLetter, why).todo(todo));
        }
        if status.breaker.is_some_and(|breaker| breaker != BreakerState::Closed) {
            let error = status.last_error.as_deref().unwrap_or("it does not answer");
            let why =
                format!("Its callbacks to {owner} fail, and are suspended but for probes: {error}");
            let todo =
                format!("look at the log of {owner}; nothing is lost, and it goes on by itself");
            return Some(self.says(Reason::BreakerOpen, why).todo(todo));
        }
        None
    }

    fn in_the_queue(&self) -> Option<Finding> {
        let Self { key, status, now, .. } = self;
        if key.state == Some(KeyState::Parked) {
            let letter = key.dead_letter.as_ref()?;
            let next = letter.next_at.map(|at| when(at, *now)).unwrap_or_default();
            let attempts = count(u64::from(letter.attempts), "failed run");
            let why = format!("It is parked after {attempts}, next {next}: {}", letter.error);
            return Some(
                self.says(Reason::Parked, why).todo(format!("{} tries at once", self.replay())),
            );
        }
        let KeyWork { since, notifications, not_before, attempts, error, .. } =
            key.work.as_ref()?;
        let of = match notifications {
            0 => String::new(),
            many => format!(", for {}", count(u64::from(*many), "notification")),
        };
        let since = format!("since {}{of}", ago(*since, *now));
        let next = not_before.map_or_else(|| "now".to_owned(), |at| when(at, *now));
        Some(match key.state {
            Some(KeyState::Processing) => {
                let why = format!("The owner is being asked, or the answer applied, {since}");
                self.says(Reason::Processing, why)
            }
            Some(KeyState::Retrying) => {
                let error = error.as_deref().unwrap_or("no reason is known");
                let why =
                    format!("Try {} comes {next}, {since}: {error}", attempts.saturating_add(1));
                self.says(Reason::Retrying, why)
            }
            _ => {
                let queued = number(u64::try_from(status.queued).unwrap_or(0));
                let why = format!("It waits in the work queue among {queued} keys, {since}");
                self.says(Reason::Waiting, why)
            }
        })
    }

    fn on_the_way(&self) -> Option<Finding> {
        let Self { held, status, .. } = self;
        if status.connected == Some(false) {
            let error = status.last_error.as_deref().unwrap_or("the broker is away");
            let why = format!("Notifications do not arrive: {error}");
            let todo = "see that NATS runs; nudge status shows who reaches it";
            return Some(self.says(Reason::NotConnected, why).todo(todo));
        }
        if let Some(left) = status.catching_up.filter(|_| !status.caught_up) {
            let soon = left.seconds_left.map(|left| format!(", about {}", duration(left)));
            let (left, soon) = (number(left.left), soon.unwrap_or_default());
            let why = format!(
                "It reads everything for the first time, and has {left} notifications to go{soon}"
            );
            return Some(self.says(Reason::CatchingUp, why));
        }
        let Some(message) = held.owner.message else {
            // It is not known what stands there; or it was lost, which the stream's own finding says.
            let pending = status.stream_pending.unwrap_or(0);
            let nothing_came = held.owner.last_sequence.is_some() || pending > 0;
            return nothing_came
                .then(|| self.says(Reason::NotReceived, "No notification has reached it"));
        };
        let ahead = message.sequence.checked_sub(status.position).filter(|ahead| *ahead > 0)?;
        let place = number(message.sequence);
        let pending = status.stream_pending.and_then(|pending| u64::try_from(pending).ok());
        let before = ahead.min(pending.unwrap_or(ahead).max(1)) - 1;
        let why = match before {
            0 => format!("Message {place} is on its way to it"),
            many => {
                let many = number(many);
                format!("Message {place} has not been handled: up to {many} others come before it")
            }
        };
        Some(self.says(Reason::NotReceived, why))
    }

    fn missed(&self) -> Finding {
        let handled = match self.held.owner.message {
            Some(message) => format!("Message {} was handled", number(message.sequence)),
            None => "Nothing is under way".to_owned(),
        };
        let why = format!(
            "{handled}, and nothing is to be done for it: its row was altered by hand, or the notification was lost. \
             The next comparison with the owner finds it"
        );
        let todo = format!("nudge resync --subscriber {} --entity {}", self.name, self.held.entity);
        self.says(Reason::Missed, why).todo(todo)
    }
}
