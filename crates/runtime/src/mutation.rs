//! Wrong branches that the code can be made to take, to prove that the simulation would notice.
//!
//! Most faults can be planted from outside: by a port that misbehaves, or a trigger on a table. The few
//! others are one expression each in the code, `mutated!(Name: right => wrong)`. Both sides are
//! always compiled; without the feature `mutants`, which no shipped program has, the wrong one is never
//! reached, and the optimiser drops it. What each fault is, and which profile is meant to find it, is documented in the
//! simulation: `crates/simulation/src/mutant.rs`.

/// A place in the code that can take a wrong branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// In the subscriber kit: a run that must run again is acknowledged and forgotten.
    AckOnError,
    /// In the subscriber kit: an acknowledgement from before a reconnect still counts.
    AcknowledgementOutlivesItsSession,
    /// In the subscriber kit: a batch that holds a refused key is refused as a whole.
    RefusalNotIsolated,
    /// In the subscriber kit: a key that failed three times is given up.
    GiveUpAfterThree,
    /// In the subscriber kit: a key whose run failed is never run again.
    KeyLeakedOnError,
    /// In the subscriber kit: recent commits are not checked.
    ReadModelPutBackUnnoticed,
    /// In the subscriber kit: a replica moves the position over what another has not recorded.
    OneReplicaSpeaksForAll,
    /// In the subscriber kit: a probe that is answered does not close the breaker.
    BreakerNeverCloses,
    /// In the subscriber kit: every failed callback counts as the owner's fault.
    FailureIsTheOwners,
    /// In the subscriber kit: what differs from the owner is not asked for.
    DifferencesIgnored,
    /// In the subscriber kit: what the owner does not have is left alone.
    GhostsKept,
    /// In the subscriber kit: the answer of a busy owner is taken for a refusal.
    BusyIsARefusal,
    /// In the subscriber kit: parked keys wait for what the owner denies.
    DeniedKeysKept,
    /// In the subscriber kit: contents that differ are not applied again.
    AlteredRowsKept,
    /// In the subscriber kit: rows that were never applied are left alone.
    StrayRowsKept,
    /// In the subscriber kit: contents are compared with another version's state.
    ContentsOfAnyVersion,
    /// In the subscriber kit: contents are written without asking the guard.
    ContentsPastTheGuard,
    /// In the publisher: the relay marks by version instead of by stream sequence.
    MarkByVersion,
    /// In the publisher: unmarked messages in the stream are not read.
    LatePublishUnnoticed,
    /// In the publisher: a stream that has changed is not compared with the change log.
    LossUnnoticed,
    /// In the publisher: versions that the change log does not have are ignored.
    RestoreUnnoticed,
    /// In the publisher: recent marks are not checked.
    LogPutBackUnnoticed,
    /// In the publisher: versions are the clock's time, even when that goes back.
    VersionFromClockAlone,
}

/// The right expression; or the wrong one, while that [`Mutation`] is active.
///
/// ```
/// let limit = nudge_runtime::mutated!(RefusalNotIsolated: 1 => usize::MAX);
/// assert_eq!(limit, 1);
/// ```
#[macro_export]
macro_rules! mutated {
    ($mutation:ident: $right:expr => $wrong:expr) => {
        if $crate::mutation::is_active($crate::mutation::Mutation::$mutation) {
            $wrong
        } else {
            $right
        }
    };
}

#[cfg(feature = "mutants")]
static ACTIVE: parking_lot::Mutex<Option<Mutation>> = parking_lot::Mutex::new(None);

/// Makes this process take a wrong branch, or none.
#[cfg(feature = "mutants")]
pub fn activate(mutation: Option<Mutation>) {
    *ACTIVE.lock() = mutation;
}

/// Whether this wrong branch is taken.
#[cfg(feature = "mutants")]
pub fn is_active(mutation: Mutation) -> bool {
    *ACTIVE.lock() == Some(mutation)
}

/// Whether this wrong branch is taken: never, without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_active(_: Mutation) -> bool {
    false
}
