//! Faults planted on purpose: the proof that tests can fail.
//!
//! Without the feature `mutants`, which no program is built with, [`planted`] is `false` and nothing
//! is left of it. With it, one fault at a time can be switched on, and the simulation must find it.

/// Every fault that can be planted, and what it is.
pub const ALL: &[(&str, &str)] = &[
    ("no-guard", "the guard lets any version through"),
    ("torn-apply", "the guard commits before the service's own rows"),
    ("ack-before-apply", "messages are acknowledged before the callback"),
    ("ack-on-error", "a run that fails is acknowledged and forgotten"),
    ("never-acknowledged", "messages are not acknowledged once their run is done"),
    (
        "acknowledgement-outlives-its-session",
        "an acknowledgement from before a reconnect still counts",
    ),
    ("dirty-mark-dropped", "a notification during a run leads to no further one"),
    ("asks-twice", "every callback is made twice"),
    ("refusal-not-isolated", "a batch that holds a refused key is refused as a whole"),
    ("give-up-after-three", "a key that failed three times is given up"),
    ("parked-and-forgotten", "a parked key is acknowledged and not written to the table"),
    ("no-reentry", "parked keys never come back"),
    ("key-leaked-on-error", "a key whose run failed is never run again"),
    ("dead-letter-never-closes", "a dead letter stays when its entity is applied"),
    ("breaker-never-closes", "an open breaker stays open"),
    ("stale-answer-accepted", "an answer older than the notification is the last word"),
    ("delete-ignored", "the owner's tombstones are not applied"),
    ("tombstone-forgotten", "a deleted entity's version is forgotten"),
    ("unknown-taken-for-delete", "what the owner does not know is deleted"),
    ("older-message-ignored", "a message with a lower version than seen before causes no callback"),
    ("deleted-message-believed", "a key of which a message said 'deleted' is not asked for"),
    ("mark-by-version", "the relay records by version instead of by stream sequence"),
    ("marked-before-publish", "the relay records before it publishes"),
    ("failed-publish-recorded", "the relay records a publish that failed"),
    ("late-publish-unnoticed", "what stands in the stream unrecorded is not read"),
    (
        "loss-unnoticed",
        "a reconnect leads to no republishing, nor does a stream that lost messages",
    ),
    ("restore-unnoticed", "an owner restored from a backup keeps its old versions"),
    ("version-from-clock-alone", "versions are the clock's time, even when that goes back"),
    ("tombstone-dropped-from-log", "a deleted entity leaves the change log"),
    ("state-in-message", "messages hold the entity's data"),
];

#[cfg(feature = "mutants")]
static ACTIVE: std::sync::Mutex<Option<&'static str>> = std::sync::Mutex::new(None);

/// Plants a fault in this process, or none.
#[cfg(feature = "mutants")]
pub fn plant(name: Option<&'static str>) {
    *ACTIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = name;
}

/// Whether this fault is planted.
#[cfg(feature = "mutants")]
pub fn planted(name: &str) -> bool {
    debug_assert!(ALL.iter().any(|(known, _)| *known == name), "no such mutant: {name}");
    *ACTIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) == Some(name)
}

/// Whether this fault is planted: never, without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_: &str) -> bool {
    false
}
