//! What can go wrong.

use std::fmt;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $fault:ident,)*) => {
        /// A kind of fault. Crashes name the effect at whose boundary the program ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])* $fault,)*
        }

        impl Fault {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)*];
        }
    };
}

faults! {
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
    /// A relay is cut off from the broker for a while.
    PartitionRelay,
    /// A subscriber is cut off from the broker for a while.
    PartitionSubscriber,
    /// Somebody publishes nonsense on an entity's subject, over what waits there: body and header.
    Garbage,
    /// Somebody publishes an old version on an entity's subject.
    StaleNotification,
    /// A message on a subject that names no entity.
    UnknownSubject,
    /// The broker comes back with an older state of its store.
    Rollback,
    /// Others publish so much to a broker that went back that its stream is as long as it was, before a
    /// relay looks.
    OthersFirst,
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
    /// The owner's answer is cut somewhere, or no answer at all but somebody's page.
    OwnerHalf,
    /// The owner answers for fewer ids than it was asked for.
    OwnerPartial,
    /// A replica that lags behind answers: with what was true of everything at one earlier time.
    OwnerStale,
    /// A cache answers: with what was once answered for each id.
    OwnerCached,
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
    /// A relay stands still for a while.
    FreezeRelay,
    /// A subscriber stands still for a while.
    FreezeSubscriber,
    /// The owner's clock jumps.
    ClockSkew,
    /// An entity cannot be applied for a while.
    Poison,
    /// The owner cannot answer for an entity for a while: each callback that asks for it fails as a whole.
    OwnerPoison,
    /// A subscriber ends after a message arrived, before anything is done with it.
    CrashAfterReceive,
    /// A subscriber ends before it calls back.
    CrashBeforeFetch,
    /// A subscriber ends with the answer in hand.
    CrashAfterFetch,
    /// A subscriber ends before a unit of database work.
    CrashBeforeDatabase,
    /// A subscriber ends inside a transaction, whoever's it is.
    CrashInTransaction,
    /// A subscriber ends in the service's own `apply`: before what that writes, or after.
    CrashInApply,
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
    /// The owner ends inside the transaction of an edit.
    CrashOwnerInTransaction,
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
