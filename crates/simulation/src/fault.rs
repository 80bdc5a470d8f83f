//! What can go wrong.

use std::fmt;

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $fault:ident,)*) => {
        /// A kind of fault. Crashes are named after the side effect at which the program crashes.
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
    /// A message arrives late, after others.
    Delay,
    /// A message arrives twice.
    Duplicate,
    /// A message is delivered and never arrives; it is redelivered after the ack timeout.
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
    /// Somebody publishes nonsense on an entity's subject, replacing what is there: body and header.
    Garbage,
    /// Somebody publishes an old version on an entity's subject.
    StaleNotification,
    /// A message on a subject that names no entity.
    UnknownSubject,
    /// The broker comes back with an older state of its store.
    Rollback,
    /// Others publish so much to a broker that went back that its stream is as long as before, before a
    /// relay checks.
    OthersFirst,
    /// The stream is deleted.
    StreamLoss,
    /// The owner fails: 500.
    OwnerError,
    /// The owner is away for a while.
    OwnerDown,
    /// The owner is overloaded: 429, with a time to wait.
    OwnerBusy,
    /// The owner does not answer in time.
    OwnerTimeout,
    /// The owner's answer is truncated, or replaced by an unrelated page.
    OwnerHalf,
    /// The owner answers for fewer IDs than requested.
    OwnerPartial,
    /// A lagging replica answers: with the state of everything at one earlier time.
    OwnerStale,
    /// A cache answers: with an earlier answer for each ID.
    OwnerCached,
    /// The owner answers late, with the state at the time of the request.
    OwnerSlow,
    /// One subscriber cannot reach the owner for a while; others can.
    OwnerCutOff,
    /// The owner's database is restored to an older copy.
    OwnerRestored,
    /// The read model is restored to an older copy, under the subscriber.
    ReadModelRestored,
    /// A program waits long for its database, before or after the work is done there.
    DatabaseSlow,
    /// A relay freezes for a while.
    FreezeRelay,
    /// A subscriber freezes for a while.
    FreezeSubscriber,
    /// The owner's clock jumps.
    ClockSkew,
    /// An entity cannot be applied for a while.
    Poison,
    /// The owner cannot answer for an entity for a while: each callback for it fails completely.
    OwnerPoison,
    /// A subscriber crashes after a message arrived, before handling it.
    CrashAfterReceive,
    /// A subscriber crashes before a callback.
    CrashBeforeFetch,
    /// A subscriber crashes after a callback was answered.
    CrashAfterFetch,
    /// A subscriber crashes before a unit of database work.
    CrashBeforeDatabase,
    /// A subscriber crashes inside any transaction.
    CrashInTransaction,
    /// A subscriber crashes in the service's own `apply`: before or after its writes.
    CrashInApply,
    /// A subscriber crashes right after a commit.
    CrashAfterDatabase,
    /// A subscriber crashes before an acknowledgement.
    CrashBeforeAck,
    /// A subscriber crashes after an acknowledgement.
    CrashAfterAck,
    /// A relay crashes before a publish.
    CrashBeforePublish,
    /// A relay crashes after a publish, before it is acknowledged.
    CrashAfterPublish,
    /// A relay crashes before a unit of database work: with acknowledgements that it has not marked.
    CrashRelayBeforeDatabase,
    /// A relay crashes inside a transaction.
    CrashRelayInTransaction,
    /// A relay crashes right after a commit.
    CrashRelayAfterDatabase,
    /// The owner crashes inside the transaction of an edit.
    CrashOwnerInTransaction,
    /// Not a fault but a consequence: a message is redelivered, since nobody acknowledged it in time.
    Redelivery,
    /// A consequence: a message is replaced in the stream before everyone has handled it.
    Compaction,
    /// A consequence: a notification overtakes the backlog.
    FreshDelivery,
    /// The broker loses one message for good, and nobody notices.
    MessageForgotten,
    /// Another program takes and acknowledges all of a subscriber's messages.
    TakenByOthers,
    /// Somebody writes into a service's own tables.
    RowEdited,
    /// The broker delivers nothing for a while.
    DeliveryStops,
    /// The broker keeps a message that was replaced.
    TwoOfOneSubject,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
