//! The limits of a subscriber, each with its unit and a safe default.

use std::time::Duration;

use crate::retry::RetryPolicy;
pub use crate::work::run::Limits;

/// Shortest [`Settings::unused_after`]. Only tests need less than a minute.
pub const MIN_UNUSED_AFTER: Duration = Duration::from_millis(100);
/// Longest [`Settings::unused_after`].
pub const MAX_UNUSED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Limits and intervals for one followed entity. The defaults suit most services.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Maximum number of keys in one callback and one transaction. At most 512, the sync API's limit.
    pub max_batch_keys: usize,
    /// Maximum number of batches in progress at a time: one is fetched while another is applied. If all of them are
    /// backlog, there may be one more for fresh notifications.
    pub max_batches_in_flight: usize,
    /// Maximum number of keys in memory before intake pauses.
    pub max_queued_keys: usize,
    /// Maximum number of failing keys in memory, unacknowledged; further ones go to the dead-letter table
    /// at once. Keep it far below [`max_ack_pending`](Self::max_ack_pending), so that failing keys cannot
    /// use up all the messages that may be unacknowledged.
    pub max_retrying_keys: usize,
    /// Number of failed runs after which a key is parked in the dead-letter table. With the default
    /// delays, this takes about 30 seconds.
    pub max_attempts_in_memory: u32,
    /// Maximum number of messages that the broker delivers without an acknowledgement.
    pub max_ack_pending: i64,
    /// Shortest time between two repairs of a consumer whose limits were altered at the broker. Without it,
    /// replicas of two releases with different limits would keep altering the consumer back and forth.
    pub mend_interval: Duration,
    /// For how long nothing was pulled, delivered or acknowledged when the consumer of another read model of this service
    /// counts as left behind, so that its name may be taken over if there is no other. Longer than a pull stays open, 10 seconds;
    /// from [`MIN_UNUSED_AFTER`] to [`MAX_UNUSED_AFTER`].
    pub unused_after: Duration,
    /// How long the broker waits for an acknowledgement before it redelivers a message.
    pub ack_wait: Duration,
    /// Longest wait for an owner's answer, including the connection.
    pub fetch_timeout: Duration,
    /// Largest answer that is read, in bytes.
    pub max_answer_bytes: usize,
    /// Delay before an unknown key, or one whose notification had no version, is asked for a second time.
    pub second_look_after: Duration,
    /// Delays between runs of a failing key while it is in memory.
    pub retry: RetryPolicy,
    /// Delays between runs of a parked key.
    pub parked_retry: RetryPolicy,
    /// Delays between runs of a parked key that the owner does not know.
    pub unknown_retry: RetryPolicy,
    /// Number of failed runs after which a key that the owner does not know is given up, unless it is applied
    /// here. With the default delays, this takes most of a day. A later notification starts over.
    pub max_unknown_attempts: u32,
    /// Maximum number of parked keys that the owner does not know. Beyond it, those with most attempts are given up.
    pub max_unknown_keys: usize,
    /// Limits of the work queue.
    pub queue: Limits,
    /// How often the read model is searched for rows that another [`revision`](crate::Apply::revision) has
    /// applied. Not more than a minute or two: a revision that gives no sign for five minutes is superseded.
    pub revision_check_interval: Duration,
    /// Number of messages waiting at the broker beyond which fresh notifications are also taken from a plain
    /// subscription, so that they need not wait behind the backlog.
    pub max_backlog_messages: u64,
    /// How the read model is compared with its owner.
    pub resync: ResyncSettings,
    /// How long runs in progress may take to finish when the service stops.
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
            unused_after: Duration::from_secs(30),
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
            resync: ResyncSettings::default(),
            stop_deadline: Duration::from_secs(10),
        }
    }
}

/// How the read model is compared with its owner, continuously and in the background.
#[derive(Clone, Copy, Debug)]
pub struct ResyncSettings {
    /// Whether it is.
    pub enabled: bool,
    /// Pause between the end of one comparison of everything and the next.
    pub interval: Duration,
    /// Maximum share of the time for which the owner works for it, for this subscriber, in hundredths. The whole of a
    /// large read model then takes longer.
    pub owner_percent: u32,
    /// How often the newest 1,000 entities are compared, beside everything.
    pub recent_interval: Duration,
    /// How long something must differ before it counts as a difference.
    pub confirm_after: Duration,
    /// After how long a change in flight is asked for, whether its notification comes or not.
    pub overdue_after: Duration,
    /// Shortest pause between two pages of 256 entities whose contents are compared.
    pub contents_interval: Duration,
    /// How often the contents of the newest 1,000 entities are compared, beside everything.
    pub newest_contents_interval: Duration,
    /// Entities whose versions are compared at a time. At most 65,536, what an owner reads for one answer.
    pub page: usize,
    /// See [`Builder::ready_when_equal`](crate::Builder::ready_when_equal).
    pub ready_when_equal: bool,
}

impl Default for ResyncSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(10),
            owner_percent: 1,
            recent_interval: Duration::from_secs(2),
            confirm_after: Duration::from_secs(1),
            overdue_after: Duration::from_secs(30),
            contents_interval: Duration::from_secs(2),
            newest_contents_interval: Duration::from_secs(60),
            page: 32_768,
            ready_when_equal: false,
        }
    }
}
