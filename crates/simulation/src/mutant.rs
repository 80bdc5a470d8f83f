//! Faults planted on purpose, to prove that the simulation can fail.
//!
//! Most of them are planted from outside: a port of a program misbehaves (`ports`), a trigger falsifies
//! one of its tables (`tables`), or its `apply` is given something wrong (`apply`). The rest are wrong
//! branches in the code itself, [`Mutation`]s, which need the feature `mutants`.

pub(crate) mod apply;
mod ports;
pub(crate) mod tables;

use std::sync::Arc;

use nudge_publisher::sink::Sink;
use nudge_runtime::mutation::Mutation;
use nudge_subscriber_kit::{owner_client::OwnerClient, source::Source};

use crate::{link::Link, profile::Profile};

macro_rules! mutants {
    ($($mutant:ident, $meant:ident, $what:literal;)*) => {
        /// A fault that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $mutant,)*
        }

        impl Mutant {
            /// All of them, in the order of the kill matrix.
            pub const ALL: &'static [Self] = &[$(Self::$mutant,)*];

            /// The profile that is meant to find it.
            pub const fn meant(self) -> Profile {
                match self {
                    $(Self::$mutant => Profile::$meant,)*
                }
            }

            /// What it is.
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$mutant => $what,)*
                }
            }
        }
    };
}

mutants! {
    NoGuard, TwoReplicas, "the guard lets any version through";
    GuardInMemory, TwoReplicas, "the guard is only in the program's memory";
    GuardNotStrict, HintsOnly, "the guard lets the same version through again";
    TornApply, CrashPoints, "the guard commits before the service's own rows";
    AckBeforeApply, CrashPoints, "messages are acknowledged before the callback";
    AckOnError, HintsOnly, "a run that fails is acknowledged and forgotten";
    NeverAcknowledged, Liveness, "messages are not acknowledged once their run is done";
    AcknowledgementOutlivesItsSession, Lossy, "an acknowledgement from before a reconnect still counts";
    DirtyMarkDropped, Benign, "a notification during a callback leads to no further one";
    AsksTwice, Benign, "every callback is made twice";
    RefusalNotIsolated, Benign, "a batch that holds a refused key is refused as a whole";
    GiveUpAfterThree, Liveness, "a key that failed three times is given up";
    ParkedAndForgotten, Liveness, "a parked key is acknowledged and not written to the table";
    NoReentry, Liveness, "parked keys never come back";
    KeyLeakedOnError, HintsOnly, "a key whose run failed is never run again";
    DeadLetterNeverCloses, Liveness, "a dead letter stays when its entity is applied";
    BreakerNeverCloses, HintsOnly, "an open breaker stays open";
    BusyIsARefusal, HintsOnly, "the answer of a busy owner is taken for a refusal";
    FailureIsTheOwners, Liveness, "every failed callback counts as the owner's fault";
    StaleAnswerAccepted, TwoReplicas, "an answer older than the notification is the last word";
    DeleteIgnored, Benign, "the owner's tombstones are not applied";
    TombstoneForgotten, Benign, "a deleted entity's version is forgotten";
    UnknownTakenForDelete, TwoReplicas, "an entity that the owner does not know is deleted";
    OlderMessageIgnored, HintsOnly, "a message with a lower version than seen before causes no callback";
    DeletedMessageBelieved, HintsOnly, "a key is not asked for after a message said 'deleted'";
    MarkByVersion, HintsOnly, "the relay marks by version instead of by stream sequence";
    MarkedBeforePublish, HintsOnly, "the relay marks before it publishes";
    FailedPublishRecorded, HintsOnly, "the relay marks a failed publish";
    LatePublishUnnoticed, HintsOnly, "unmarked messages in the stream are not read";
    LossUnnoticed, Lossy, "neither a reconnect nor a stream that lost messages leads to republishing";
    ReconnectUnnoticed, Lossy, "a reconnect leads to no republishing";
    RestoreUnnoticed, Lossy, "an owner restored from a backup keeps its old versions";
    LogPutBackUnnoticed, Lossy, "a running relay does not notice that its change log was restored";
    ReadModelPutBackUnnoticed, Lossy, "a running subscriber does not check for its commits";
    OneReplicaSpeaksForAll, TwoReplicas, "a replica moves the position over what another has not recorded";
    VersionFromClockAlone, Liveness, "versions are the clock's time, even when that goes back";
    TombstoneDroppedFromLog, Benign, "a deleted entity leaves the change log";
    NeverCompared, Unannounced, "the read model is never compared with its owner";
    DifferencesIgnored, Unannounced, "what differs from the owner is not asked for";
    OverdueIgnored, Unannounced, "a change in flight is waited for, however long";
    AheadNotReported, Unannounced, "an owner is not told of versions that it lost";
    InFlightIsADifference, Unannounced, "what the owner names as in flight is compared all the same";
    GhostsKept, Unannounced, "what the owner does not have is left alone";
    DeniedKeysKept, Unannounced, "parked keys wait for what the owner denies";
    ContentsNeverCompared, Unannounced, "what the read model holds is never compared";
    AlteredRowsKept, Unannounced, "contents that differ are not applied again";
    StrayRowsKept, Unannounced, "rows that were never applied are left alone";
    ContentsOfAnyVersion, Unannounced, "contents are compared with another version's state";
    ContentsPastTheGuard, Unannounced, "contents are written without asking the guard";
    StateInMessage, Benign, "messages hold the entity's data";
    GuardByIdAlone, Benign, "the guard compares versions of different entities that have the same ID";
    FloorOfAnotherEntity, Benign, "the answer for one entity must be as new as the notification of another";
    DeadLetterOfAnotherCloses, Liveness, "a dead letter goes away when another entity with its ID is applied";
    PositionOfAnotherEntity, Lossy, "the position of one entity moves with that of another";
    OneEntityResumed, CrashPoints, "a program that is started again follows only one of its entities";
}

impl Mutant {
    /// Its name in documents and on the command line.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// Whether it mixes up entities, and so shows only where a service follows several.
    pub const fn mixes_up_entities(self) -> bool {
        matches!(
            self,
            Self::GuardByIdAlone
                | Self::FloorOfAnotherEntity
                | Self::DeadLetterOfAnotherCloses
                | Self::PositionOfAnotherEntity
                | Self::OneEntityResumed
        )
    }

    /// Its wrong branch in the code, if it is one.
    const fn mutation(self) -> Option<Mutation> {
        Some(match self {
            Self::AckOnError => Mutation::AckOnError,
            Self::AcknowledgementOutlivesItsSession => Mutation::AcknowledgementOutlivesItsSession,
            Self::RefusalNotIsolated => Mutation::RefusalNotIsolated,
            Self::GiveUpAfterThree => Mutation::GiveUpAfterThree,
            Self::KeyLeakedOnError => Mutation::KeyLeakedOnError,
            Self::ReadModelPutBackUnnoticed => Mutation::ReadModelPutBackUnnoticed,
            Self::OneReplicaSpeaksForAll => Mutation::OneReplicaSpeaksForAll,
            Self::BreakerNeverCloses => Mutation::BreakerNeverCloses,
            Self::BusyIsARefusal => Mutation::BusyIsARefusal,
            Self::FailureIsTheOwners => Mutation::FailureIsTheOwners,
            Self::MarkByVersion => Mutation::MarkByVersion,
            Self::LatePublishUnnoticed => Mutation::LatePublishUnnoticed,
            Self::LossUnnoticed => Mutation::LossUnnoticed,
            Self::RestoreUnnoticed => Mutation::RestoreUnnoticed,
            Self::LogPutBackUnnoticed => Mutation::LogPutBackUnnoticed,
            Self::VersionFromClockAlone => Mutation::VersionFromClockAlone,
            Self::DifferencesIgnored => Mutation::DifferencesIgnored,
            Self::GhostsKept => Mutation::GhostsKept,
            Self::DeniedKeysKept => Mutation::DeniedKeysKept,
            Self::AlteredRowsKept => Mutation::AlteredRowsKept,
            Self::StrayRowsKept => Mutation::StrayRowsKept,
            Self::ContentsOfAnyVersion => Mutation::ContentsOfAnyVersion,
            Self::ContentsPastTheGuard => Mutation::ContentsPastTheGuard,
            _ => return None,
        })
    }

    /// Whether it can be planted in this build: wrong branches in the code need the feature `mutants`.
    pub const fn is_in_this_build(self) -> bool {
        cfg!(feature = "mutants") || self.mutation().is_none()
    }
}

/// The code takes a wrong branch for as long as this lives, if that is the planted fault.
///
/// One at a time in a process: a run that plants such a fault must be the only one.
pub(crate) struct WrongTurn;

impl WrongTurn {
    pub(crate) fn of(mutant: Option<Mutant>) -> Option<Self> {
        let (mutant, mutation) = (mutant?, mutant?.mutation()?);
        assert!(mutant.is_in_this_build(), "{} needs the feature `mutants`", mutant.name());
        #[cfg(feature = "mutants")]
        nudge_runtime::mutation::activate(Some(mutation));
        let _ = mutation;
        Some(Self)
    }
}

impl Drop for WrongTurn {
    fn drop(&mut self) {
        #[cfg(feature = "mutants")]
        nudge_runtime::mutation::activate(None);
    }
}

/// A relay's connection to the stream.
pub(crate) fn sink(link: Arc<dyn Sink>, mutant: Option<Mutant>) -> Arc<dyn Sink> {
    match mutant {
        Some(mutant) => Arc::new(ports::WrongSink::new(link, mutant)),
        None => link,
    }
}

/// A subscriber's connections to the broker and to the owners.
pub(crate) struct Ports {
    link: Arc<Link>,
    wrong: Option<ports::Wrong>,
}

impl Ports {
    pub(crate) fn of(link: Arc<Link>, mutant: Option<Mutant>) -> Self {
        let wrong = mutant.map(|mutant| ports::Wrong::new(mutant, link.node.life));
        Self { link, wrong }
    }

    pub(crate) fn source(&self) -> Arc<dyn Source> {
        match &self.wrong {
            Some(wrong) => wrong.source(self.link.clone()),
            None => self.link.clone(),
        }
    }

    pub(crate) fn client(&self, client: Arc<dyn OwnerClient>) -> Arc<dyn OwnerClient> {
        match &self.wrong {
            Some(wrong) => wrong.client(client),
            None => client,
        }
    }
}
