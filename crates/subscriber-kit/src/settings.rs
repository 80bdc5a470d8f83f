//! Every limit of a subscriber, with its unit and a default that is safe.

use std::time::Duration;

use crate::retry::RetryPolicy;
pub use crate::work::run::Limits;

/// Limits and paces of one followed entity. The defaults suit most services.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most keys in one callback and one transaction. At most 512, the sync API's bound.
    pub max_batch_keys: usize,
    /// Batches under way at a time: one is fetched while another is applied.
    pub max_batches_in_flight: usize,
    /// Keys held in memory before intake pauses.
    pub max_queued_keys: usize,
    /// Failing keys held in memory, unacknowledged, before further ones go to the dead-letter
    /// table at once. Far below [`max_ack_pending`](Self::max_ack_pending), so that bad keys cannot
    /// use up what the broker lets us hold.
    pub max_retrying_keys: usize,
    /// Failed runs before a key is parked in the dead-letter table. With the default policy that
    /// is after about 30 seconds.
    pub max_attempts_in_memory: u32,
    /// Messages that the broker delivers before it waits for acknowledgements.
    pub max_ack_pending: i64,
    /// How long a consumer whose limits somebody altered at the broker stays so, if it was altered back already in
    /// this session: replicas of two releases with different limits alter it back no more often.
    pub mend_interval: Duration,
    /// How long the broker waits for an acknowledgement before it delivers again.
    pub ack_wait: Duration,
    /// Longest wait for an owner's answer, connection included.
    pub fetch_timeout: Duration,
    /// Largest answer read, in bytes.
    pub max_answer_bytes: usize,
    /// Wait before a second look: at an unknown key, or after a notification without a version.
    pub second_look_after: Duration,
    /// Delays of a failing key while it is in memory.
    pub retry: RetryPolicy,
    /// Delays of a key that is parked.
    pub parked_retry: RetryPolicy,
    /// Delays of a parked key whose id the owner does not know.
    pub unknown_retry: RetryPolicy,
    /// Failed runs after which a key that the owner does not know is given up, unless it is applied here. With the
    /// default policy that is after most of a day. A later notification begins anew.
    pub max_unknown_attempts: u32,
    /// Parked keys that the owner does not know; of more, those that were tried most are given up.
    pub max_unknown_keys: usize,
    /// Paces of the work queue.
    pub queue: Limits,
    /// How often a read model is looked through for what another [`revision`](crate::Apply::revision) has applied. At
    /// most a minute or two: one of which nothing is heard for five minutes gives way to another.
    pub revision_check_interval: Duration,
    /// Messages waiting at the broker beyond which fresh notifications are also taken from a plain
    /// subscription, past the backlog.
    pub max_backlog_messages: u64,
    /// Time that runs under way get to finish when the service stops.
    pub stop_deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_batch_keys: 256,
            max_batches_in_flight: 4,
            max_queued_keys: 10_000,
            max_retrying_keys: 1_000,
            max_attempts_in_memory: 8,
            max_ack_pending: 5_000,
            mend_interval: Duration::from_secs(60),
            ack_wait: Duration::from_secs(30),
            fetch_timeout: Duration::from_secs(10),
            max_answer_bytes: 32 * 1024 * 1024,
            second_look_after: Duration::from_secs(1),
            retry: RetryPolicy {
                initial: Duration::from_millis(200),
                max: Duration::from_secs(10),
            },
            parked_retry: RetryPolicy {
                initial: Duration::from_secs(10),
                max: Duration::from_secs(300),
            },
            unknown_retry: RetryPolicy {
                initial: Duration::from_secs(10),
                max: Duration::from_secs(3_600),
            },
            max_unknown_attempts: 40,
            max_unknown_keys: 10_000,
            queue: Limits {
                min_distance: Duration::from_millis(100),
                max_wait: Duration::from_secs(2),
            },
            revision_check_interval: Duration::from_secs(60),
            max_backlog_messages: 500,
            stop_deadline: Duration::from_secs(10),
        }
    }
}
