//! What can go wrong, and which of it each profile lets happen.

use std::fmt;

/// A kind of fault. Crashes name the effect at whose boundary the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A message arrives late, and so after others.
    Delay,
    /// A message arrives twice.
    Duplicate,
    /// A message is delivered and never arrives; it comes again after the ack timeout.
    DropDelivery,
    /// An acknowledgement is lost.
    DropAck,
    /// A publish never reaches the broker.
    DropPublish,
    /// A publish reaches the broker, and its acknowledgement is lost.
    DropPublishAck,
    /// A publish reaches the broker late, over newer ones.
    LatePublish,
    /// A program is cut off from the broker for a while.
    Partition,
    /// Somebody publishes nonsense on an entity's subject, over what waits there.
    Garbage,
    /// Somebody publishes an old version on an entity's subject.
    StaleNotification,
    /// A message on a subject that names no entity.
    UnknownSubject,
    /// The broker comes back with an older state of its store.
    Rollback,
    /// The stream is deleted.
    StreamLoss,
    /// The owner fails: 500.
    OwnerError,
    /// The owner is away for a while.
    OwnerDown,
    /// The owner is overloaded: 429, with a time to wait.
    OwnerBusy,
    /// The owner answers nothing in time.
    OwnerTimeout,
    /// The owner's answer is cut in half.
    OwnerHalf,
    /// A stale replica or a cache answers, with an earlier state.
    OwnerStale,
    /// The owner answers late, with what was true when it was asked.
    OwnerSlow,
    /// One subscriber cannot reach the owner for a while; others can.
    OwnerCutOff,
    /// The owner's database is put back to an older copy.
    OwnerRestored,
    /// The read model is put back to an older copy, under the subscriber.
    ReadModelRestored,
    /// A program waits long for its database, before or after the work is done there.
    DatabaseSlow,
    /// A program stands still for a while.
    Freeze,
    /// The owner's clock jumps.
    ClockSkew,
    /// An entity cannot be applied for a while.
    Poison,
    /// A subscriber ends after a message arrived, before anything is done with it.
    CrashAfterReceive,
    /// A subscriber ends before it calls back.
    CrashBeforeFetch,
    /// A subscriber ends with the answer in hand.
    CrashAfterFetch,
    /// A subscriber ends before a unit of database work.
    CrashBeforeDatabase,
    /// A subscriber ends inside a transaction.
    CrashInTransaction,
    /// A subscriber ends right after a commit.
    CrashAfterDatabase,
    /// A subscriber ends before an acknowledgement.
    CrashBeforeAck,
    /// A subscriber ends after an acknowledgement.
    CrashAfterAck,
    /// A relay ends before a publish.
    CrashBeforePublish,
    /// A relay ends after a publish, before it knows of it.
    CrashAfterPublish,
    /// A relay ends before a unit of database work: with acknowledgements that it has not recorded.
    CrashRelayBeforeDatabase,
    /// A relay ends inside a transaction.
    CrashRelayInTransaction,
    /// A relay ends right after a commit.
    CrashRelayAfterDatabase,
    /// Not chance, but what comes of it: a message comes again, since nobody acknowledged it in time.
    Redelivery,
    /// Not chance: a message is replaced in the stream before everyone has handled it.
    Compaction,
    /// Not chance: a notification overtakes the backlog.
    FreshDelivery,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What a run lets happen, and what it demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Profile {
    /// Ordinary delays, and entities that cannot be applied for a while: the others must not notice.
    Benign,
    /// Everything that may happen to messages and answers, without loss for good: notifications
    /// alone must bring everyone in step.
    HintsOnly,
    /// Also a broker that loses what it acknowledged.
    Lossy,
    /// Programs end at each effect boundary.
    CrashPoints,
    /// Two replicas of the subscriber and two relays, which freeze and crash.
    TwoReplicas,
    /// Everything at once for a while; then it heals, and silence is demanded.
    Liveness,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Benign,
        Self::HintsOnly,
        Self::Lossy,
        Self::CrashPoints,
        Self::TwoReplicas,
        Self::Liveness,
    ];

    /// Replicas of the subscriber, and relays.
    pub fn replicas(self) -> usize {
        if self == Self::TwoReplicas { 2 } else { 1 }
    }

    /// The faults of this profile, and how often each happens when it could, in a thousand.
    pub fn faults(self) -> &'static [(Fault, u64)] {
        use Fault::*;
        const MESSAGES: [(Fault, u64); 16] = [
            (Delay, 200),
            (Duplicate, 60),
            (DropDelivery, 30),
            (DropAck, 60),
            (DropPublish, 40),
            (DropPublishAck, 60),
            (LatePublish, 60),
            (Partition, 40),
            (Garbage, 60),
            (StaleNotification, 60),
            (UnknownSubject, 20),
            (OwnerError, 40),
            (OwnerDown, 10),
            (OwnerBusy, 20),
            (OwnerTimeout, 20),
            (OwnerSlow, 150),
        ];
        const LOSSES: [(Fault, u64); 10] = [
            (Delay, 200),
            (Duplicate, 40),
            (DropPublishAck, 60),
            (Rollback, 60),
            (StreamLoss, 30),
            (Partition, 40),
            (OwnerHalf, 40),
            (OwnerSlow, 150),
            (OwnerRestored, 60),
            (ReadModelRestored, 60),
        ];
        const CRASHES: [(Fault, u64); 17] = [
            (Delay, 100),
            (LatePublish, 30),
            (CrashAfterReceive, 30),
            (CrashBeforeFetch, 30),
            (CrashAfterFetch, 50),
            (CrashBeforeDatabase, 10),
            (CrashInTransaction, 40),
            (CrashAfterDatabase, 30),
            (CrashBeforeAck, 50),
            (CrashAfterAck, 30),
            (CrashBeforePublish, 30),
            (CrashAfterPublish, 60),
            (CrashRelayBeforeDatabase, 8),
            (CrashRelayInTransaction, 8),
            (CrashRelayAfterDatabase, 8),
            (DatabaseSlow, 10),
            (OwnerSlow, 150),
        ];
        const REPLICAS: [(Fault, u64); 11] = [
            (Delay, 200),
            (Freeze, 25),
            (LatePublish, 60),
            (DropPublishAck, 40),
            (OwnerSlow, 250),
            (OwnerStale, 60),
            (OwnerCutOff, 20),
            (DatabaseSlow, 10),
            (CrashAfterFetch, 20),
            (CrashAfterDatabase, 15),
            (CrashAfterPublish, 20),
        ];
        const EVERYTHING: [(Fault, u64); 16] = [
            (Delay, 150),
            (Duplicate, 40),
            (DropDelivery, 40),
            (DropAck, 60),
            (DropPublishAck, 40),
            (LatePublish, 40),
            (Partition, 40),
            (Garbage, 40),
            (Rollback, 20),
            (OwnerError, 100),
            (OwnerDown, 30),
            (OwnerBusy, 30),
            (ClockSkew, 40),
            (Poison, 40),
            (CrashAfterFetch, 15),
            (CrashAfterDatabase, 15),
        ];
        match self {
            Self::Benign => &[(Delay, 100), (OwnerSlow, 100), (Poison, 60)],
            Self::HintsOnly => &MESSAGES,
            Self::Lossy => &LOSSES,
            Self::CrashPoints => &CRASHES,
            Self::TwoReplicas => &REPLICAS,
            Self::Liveness => &EVERYTHING,
        }
    }

    /// What must have come of it in a run of many seeds.
    pub fn consequences(self) -> &'static [Fault] {
        use Fault::*;
        match self {
            Self::Benign | Self::Lossy => &[Compaction, FreshDelivery],
            _ => &[Compaction, FreshDelivery, Redelivery],
        }
    }

    /// How often this fault happens when it could, in a thousand.
    pub(crate) fn permille(self, fault: Fault) -> u64 {
        let one = self.faults().iter().find(|(kind, _)| *kind == fault);
        one.map_or(0, |(_, permille)| *permille)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Benign => "benign",
            Self::HintsOnly => "hints-only",
            Self::Lossy => "lossy",
            Self::CrashPoints => "crash-points",
            Self::TwoReplicas => "two-replicas",
            Self::Liveness => "liveness",
        })
    }
}
