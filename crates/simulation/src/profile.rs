//! The faults of each profile, and how often they happen.

use std::{fmt, str::FromStr};

use crate::fault::Fault;

/// What can happen in a run, and what must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Profile {
    /// Ordinary delays, and entities that cannot be applied for a while: others must not be affected.
    Benign,
    /// Everything that may happen to messages and answers, without permanent loss: notifications
    /// alone must make everyone converge.
    HintsOnly,
    /// Also a broker that loses what it acknowledged, or an owner or a read model that is restored to an
    /// older copy.
    Lossy,
    /// Programs crash at each side effect.
    CrashPoints,
    /// Two replicas of the subscriber and two relays, which freeze and crash; and a read model that is restored
    /// under them.
    TwoReplicas,
    /// Everything that heals by itself at once; then it does heal, and silence is required.
    Liveness,
    /// Losses that no message tells of: comparing with the owner must find them. In all other profiles nothing is
    /// compared, since that would hide what notifications lose.
    Unannounced,
}

/// A fault, and how often it happens when it could, in a thousand.
type Rate = (Fault, u64);

impl Profile {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Benign,
        Self::HintsOnly,
        Self::Lossy,
        Self::CrashPoints,
        Self::TwoReplicas,
        Self::Liveness,
        Self::Unannounced,
    ];

    /// Replicas of the subscriber, and relays.
    pub fn replicas(self) -> usize {
        if self == Self::TwoReplicas { 2 } else { 1 }
    }

    /// The faults of this profile, and how often each happens when it could, in a thousand. The
    /// seed decides which of them happen in a run.
    pub fn faults(self) -> &'static [Rate] {
        match self {
            Self::Benign => BENIGN,
            Self::HintsOnly => MESSAGES,
            Self::Lossy => LOSSES,
            Self::CrashPoints => CRASHES,
            Self::TwoReplicas => REPLICAS,
            Self::Liveness => EVERYTHING,
            Self::Unannounced => UNANNOUNCED,
        }
    }

    /// The consequences that must occur in a run of many seeds.
    pub fn consequences(self) -> &'static [Fault] {
        use Fault::*;
        match self {
            Self::Benign | Self::Lossy | Self::Unannounced => &[Compaction, FreshDelivery],
            _ => &[Compaction, FreshDelivery, Redelivery],
        }
    }
}

use Fault::*;

const BENIGN: &[Rate] = &[(Delay, 100), (OwnerSlow, 100), (Poison, 60)];

const MESSAGES: &[Rate] = &[
    (Delay, 200),
    (Duplicate, 60),
    (DropDelivery, 30),
    (DropAck, 60),
    (DropPublish, 40),
    (DropPublishAck, 60),
    (LatePublish, 60),
    (PartitionRelay, 40),
    (PartitionSubscriber, 40),
    (Garbage, 60),
    (StaleNotification, 60),
    (UnknownSubject, 20),
    (DeliveryStops, 5),
    (TwoOfOneSubject, 60),
    (OwnerError, 40),
    (OwnerDown, 10),
    (OwnerBusy, 20),
    (OwnerTimeout, 20),
    (OwnerSlow, 150),
];

const LOSSES: &[Rate] = &[
    (Delay, 200),
    (Duplicate, 40),
    (DropPublishAck, 60),
    (UnknownSubject, 60),
    (Rollback, 60),
    (OthersFirst, 300),
    (StreamLoss, 30),
    (PartitionRelay, 40),
    (PartitionSubscriber, 40),
    (OwnerHalf, 40),
    (OwnerSlow, 150),
    (OwnerRestored, 60),
    (ReadModelRestored, 60),
    // It keeps a position where it was while much is applied.
    (DropAck, 120),
];

const CRASHES: &[Rate] = &[
    (Delay, 100),
    (LatePublish, 30),
    (CrashAfterReceive, 30),
    (CrashBeforeFetch, 30),
    (CrashAfterFetch, 50),
    (CrashBeforeDatabase, 10),
    (CrashInTransaction, 40),
    (CrashInApply, 40),
    (CrashAfterDatabase, 30),
    (CrashBeforeAck, 50),
    (CrashAfterAck, 30),
    (CrashBeforePublish, 30),
    (CrashAfterPublish, 60),
    (CrashRelayBeforeDatabase, 8),
    (CrashRelayInTransaction, 8),
    (CrashRelayAfterDatabase, 8),
    (CrashOwnerInTransaction, 60),
    (DatabaseSlow, 10),
    (OwnerError, 30),
    (OwnerSlow, 150),
    // What is parked is work for the database, too.
    (Poison, 30),
    (OwnerPoison, 30),
];

const REPLICAS: &[Rate] = &[
    (Delay, 200),
    (FreezeRelay, 25),
    (FreezeSubscriber, 25),
    (LatePublish, 60),
    (DropPublishAck, 40),
    (OwnerSlow, 250),
    (OwnerPartial, 60),
    (OwnerStale, 40),
    (OwnerCached, 40),
    (OwnerCutOff, 20),
    (DatabaseSlow, 10),
    (CrashAfterFetch, 20),
    (CrashAfterDatabase, 15),
    (CrashAfterPublish, 20),
    // Often, since it is only of interest between a look of one replica and the next of the other.
    (ReadModelRestored, 300),
];

/// Everything but a restored owner: what it had not published is lost for good, and garbage over
/// the only message about it loses as much.
const EVERYTHING: &[Rate] = &[
    (Delay, 150),
    (Duplicate, 40),
    (DropDelivery, 40),
    (DropAck, 60),
    (DropPublish, 20),
    (DropPublishAck, 40),
    (LatePublish, 40),
    (PartitionRelay, 30),
    (PartitionSubscriber, 30),
    (Garbage, 40),
    (StaleNotification, 30),
    (UnknownSubject, 20),
    (Rollback, 20),
    (OthersFirst, 200),
    (StreamLoss, 10),
    (OwnerError, 100),
    (OwnerDown, 20),
    (OwnerBusy, 30),
    (OwnerTimeout, 15),
    (OwnerHalf, 30),
    (OwnerPartial, 50),
    (OwnerStale, 30),
    (OwnerCached, 30),
    (OwnerSlow, 60),
    (OwnerCutOff, 10),
    (DatabaseSlow, 5),
    (FreezeRelay, 5),
    (FreezeSubscriber, 5),
    (ClockSkew, 40),
    (Poison, 40),
    (OwnerPoison, 40),
    (CrashAfterReceive, 8),
    (CrashBeforeFetch, 8),
    (CrashAfterFetch, 15),
    (CrashBeforeDatabase, 3),
    (CrashInTransaction, 8),
    (CrashInApply, 8),
    (CrashAfterDatabase, 8),
    (CrashBeforeAck, 8),
    (CrashAfterAck, 8),
    (CrashBeforePublish, 8),
    (CrashAfterPublish, 8),
    (CrashRelayBeforeDatabase, 2),
    (CrashRelayInTransaction, 2),
    (CrashRelayAfterDatabase, 2),
    (CrashOwnerInTransaction, 30),
];

const UNANNOUNCED: &[Rate] = &[
    (Delay, 200),
    (Duplicate, 40),
    (MessageForgotten, 150),
    (TakenByOthers, 100),
    (RowEdited, 40),
    (DeliveryStops, 5),
    (TwoOfOneSubject, 60),
    (PartitionRelay, 60),
    (PartitionSubscriber, 40),
    (OwnerError, 60),
    (OwnerDown, 10),
    (OwnerBusy, 60),
    (OwnerHalf, 40),
    (OwnerSlow, 150),
    (OwnerRestored, 60),
    (CrashBeforeFetch, 20),
    (CrashAfterFetch, 20),
    (CrashInTransaction, 10),
    (CrashAfterDatabase, 20),
];

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Benign => "benign",
            Self::HintsOnly => "hints-only",
            Self::Lossy => "lossy",
            Self::CrashPoints => "crash-points",
            Self::TwoReplicas => "two-replicas",
            Self::Liveness => "liveness",
            Self::Unannounced => "unannounced",
        })
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|profile| profile.to_string() == name);
        let names = || Self::ALL.map(|profile| profile.to_string()).join(", ");
        found.ok_or_else(|| format!("{name:?} is not a profile: {}", names()))
    }
}
