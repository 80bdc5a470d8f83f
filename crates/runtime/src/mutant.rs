//! Faults planted on purpose: the proof that tests can fail.
//!
//! Without the feature `mutants`, which no program is built with, [`planted`] is `false` and nothing
//! is left of it. With it, one fault at a time can be switched on, and the simulation must find it.

/// A fault that can be planted.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// What [`planted`] is asked for.
    pub name: &'static str,
    /// The profile of the simulation that is meant to find it.
    pub meant: &'static str,
    /// What it is.
    pub what: &'static str,
}

const fn mutant(name: &'static str, meant: &'static str, what: &'static str) -> Mutant {
    Mutant { name, meant, what }
}

/// Every fault that can be planted.
pub const ALL: &[Mutant] = &[
    mutant("no-guard", "two-replicas", "the guard lets any version through"),
    mutant("guard-in-memory", "two-replicas", "the guard is in the program's memory alone"),
    mutant("guard-not-strict", "hints-only", "the guard lets the same version through again"),
    mutant("torn-apply", "crash-points", "the guard commits before the service's own rows"),
    mutant("ack-before-apply", "crash-points", "messages are acknowledged before the callback"),
    mutant("ack-on-error", "hints-only", "a run that fails is acknowledged and forgotten"),
    mutant(
        "never-acknowledged",
        "liveness",
        "messages are not acknowledged once their run is done",
    ),
    mutant(
        "acknowledgement-outlives-its-session",
        "lossy",
        "an acknowledgement from before a reconnect still counts",
    ),
    mutant("dirty-mark-dropped", "benign", "a notification during a run leads to no further one"),
    mutant("asks-twice", "benign", "every callback is made twice"),
    mutant(
        "refusal-not-isolated",
        "benign",
        "a batch that holds a refused key is refused as a whole",
    ),
    mutant("give-up-after-three", "liveness", "a key that failed three times is given up"),
    mutant(
        "parked-and-forgotten",
        "liveness",
        "a parked key is acknowledged and not written to the table",
    ),
    mutant("no-reentry", "liveness", "parked keys never come back"),
    mutant("key-leaked-on-error", "hints-only", "a key whose run failed is never run again"),
    mutant(
        "dead-letter-never-closes",
        "liveness",
        "a dead letter stays when its entity is applied",
    ),
    mutant("breaker-never-closes", "hints-only", "an open breaker stays open"),
    mutant(
        "stale-answer-accepted",
        "two-replicas",
        "an answer older than the notification is the last word",
    ),
    mutant("delete-ignored", "benign", "the owner's tombstones are not applied"),
    mutant("tombstone-forgotten", "benign", "a deleted entity's version is forgotten"),
    mutant("unknown-taken-for-delete", "two-replicas", "what the owner does not know is deleted"),
    mutant(
        "older-message-ignored",
        "hints-only",
        "a message with a lower version than seen before causes no callback",
    ),
    mutant(
        "deleted-message-believed",
        "hints-only",
        "a key of which a message said 'deleted' is not asked for",
    ),
    mutant(
        "mark-by-version",
        "hints-only",
        "the relay records by version instead of by stream sequence",
    ),
    mutant("marked-before-publish", "hints-only", "the relay records before it publishes"),
    mutant("failed-publish-recorded", "hints-only", "the relay records a publish that failed"),
    mutant(
        "late-publish-unnoticed",
        "hints-only",
        "what stands in the stream unrecorded is not read",
    ),
    mutant(
        "loss-unnoticed",
        "lossy",
        "a reconnect leads to no republishing, nor does a stream that lost messages",
    ),
    mutant(
        "reconnect-unnoticed",
        "lossy",
        "a connection that is made again leads to no republishing",
    ),
    mutant("restore-unnoticed", "lossy", "an owner restored from a backup keeps its old versions"),
    mutant(
        "log-put-back-unnoticed",
        "lossy",
        "a relay that lives on does not see that its change log was put back",
    ),
    mutant(
        "read-model-put-back-unnoticed",
        "lossy",
        "a subscriber that lives on does not look for what it committed",
    ),
    mutant(
        "version-from-clock-alone",
        "liveness",
        "versions are the clock's time, even when that goes back",
    ),
    mutant("tombstone-dropped-from-log", "benign", "a deleted entity leaves the change log"),
    mutant("state-in-message", "benign", "messages hold the entity's data"),
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
    debug_assert!(ALL.iter().any(|mutant| mutant.name == name), "no such mutant: {name}");
    *ACTIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) == Some(name)
}

/// Whether this fault is planted: never, without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn planted(_: &str) -> bool {
    false
}
