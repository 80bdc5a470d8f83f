//! The names of the figures in `/metrics`, and what each means: the source of `docs/metrics.md`.

use nudge_protocol::EntityName;
use prometheus_client::registry::Registry;

use super::Progress;

impl Progress {
    /// Adds them to a registry, labelled by entity.
    pub(crate) fn register(&self, registry: &mut Registry, entity: &EntityName) {
        let label = [("entity".into(), entity.to_string().into())];
        let registry = registry.sub_registry_with_labels(label.into_iter());
        self.register_work(registry);
        self.register_state(registry);
        self.register_comparing(registry);
    }

    /// What has been done, from notification to commit.
    fn register_work(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "nudge_received",
                "Notifications received; bad: no rise while the owner publishes",
                &self.received,
            ),
            (
                "nudge_malformed",
                "Malformed messages; bad: any: somebody else publishes to the stream",
                &self.malformed,
            ),
            (
                "nudge_coalesced",
                "Notifications that needed no callback of their own, since one was due anyway",
                &self.coalesced,
            ),
            ("nudge_callbacks", "Callbacks to the owner", &self.callbacks),
            ("nudge_asked", "Entities requested from the owner", &self.asked),
            (
                "nudge_fetched",
                "Entities in the owner's answers; bad: far fewer than asked for",
                &self.fetched,
            ),
            (
                "nudge_applied",
                "States committed to the read model; bad: no rise while notifications are received",
                &self.applied,
            ),
            (
                "nudge_ignored",
                "States ignored as stale: the read model had this version or a newer one",
                &self.ignored,
            ),
            (
                "nudge_second_looks",
                "Runs repeated because the answer may have been older than the change; bad: many: the owner answers from a replica that lags behind, or its notifications name no version",
                &self.second_looks,
            ),
            (
                "nudge_retried",
                "Runs that have to be retried, second looks included; bad: a steady rise: `nudge status` shows the error",
                &self.retried,
            ),
            ("nudge_dead_lettered", "Keys that became dead letters; bad: any", &self.dead_lettered),
            (
                "nudge_given_up",
                "Keys given up after the owner repeatedly did not know them; bad: many: the owner lost entities, or somebody makes up IDs",
                &self.given_up,
            ),
            (
                "nudge_refilled",
                "Keys read again because another revision of the read model applied them",
                &self.refilled,
            ),
            (
                "nudge_read_model_replaced",
                "Times the read model was found empty, restored from an older copy, or without its last commits after a crash of PostgreSQL; bad: any that nobody planned",
                &self.replaced,
            ),
            (
                "nudge_bypassed",
                "Messages read around a consumer that stood still while its stream went on; bad: any: the broker withholds messages",
                &self.bypassed,
            ),
            (
                "nudge_consumer_mended",
                "Times the consumer was recreated, or its settings were restored, because it was altered at the broker; bad: any: somebody else manages it",
                &self.consumer_mended,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "nudge_callback_outcomes",
            "Callbacks by outcome: answered, or whose fault the failure seems to be; bad: any other than answered",
            self.outcomes.clone(),
        );
        registry.register(
            "nudge_callback_duration_seconds",
            "Time that a callback took; bad: near the 10 s after which the subscriber gives up",
            self.callback_duration.clone(),
        );
        registry.register("nudge_batch_keys", "Keys in one callback", self.batch_keys.clone());
        registry.register(
            "nudge_convergence_lag_seconds",
            "Time from the owner's commit until the row is applied; bad: the 99th percentile beyond its objective",
            self.lag.clone(),
        );
        registry.register(
            "nudge_first_catch_up_lag_seconds",
            "The same for changes from before this subscriber followed the entity, which its first catch-up brings",
            self.catch_up_lag.clone(),
        );
    }

    /// How things are now.
    fn register_state(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "nudge_queued",
                "Keys waiting for a run, including those delayed by retries and minimum distances; bad: at 10,000, where intake pauses",
                &self.queued,
            ),
            ("nudge_processing", "Keys being processed", &self.processing),
            (
                "nudge_retrying",
                "Keys in memory whose last run failed; bad: above 0 for more than a minute",
                &self.retrying,
            ),
            (
                "nudge_parked",
                "Parked keys: rows of the dead-letter table that are retried automatically; bad: a rise",
                &self.parked,
            ),
            (
                "nudge_dead_letters",
                "Dead letters: rows of the dead-letter table that are not retried automatically; bad: any",
                &self.dead_letters,
            ),
            (
                "nudge_stream_pending",
                "Messages that the broker has not delivered yet; bad: a steady rise",
                &self.stream_pending,
            ),
            (
                "nudge_breaker_open",
                "1 while callbacks to the owner are suspended; bad: 1: the owner fails or cannot be reached",
                &self.breaker_open,
            ),
            (
                "nudge_connected",
                "1 while notifications can arrive; bad: 0 for longer than a restart of the broker takes",
                &self.connected,
            ),
            (
                "nudge_dead_tasks",
                "Tasks that have panicked; bad: any: their work is not done until a restart",
                &self.dead_tasks.count(),
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, age) in [
            (
                "nudge_oldest_waiting_seconds",
                "For how long the oldest of the waiting keys has waited; bad: minutes",
                &self.oldest_waiting,
            ),
            (
                "nudge_longest_run_seconds",
                "For how long the longest batch in progress has run; bad: above 10: the owner or the database hangs",
                &self.longest_run,
            ),
        ] {
            registry.register(name, help, age.clone());
        }
        for (name, help, moment) in [
            (
                "nudge_last_progress_timestamp_seconds",
                "When something was last applied or found up to date; 0 before that; bad: minutes ago while keys wait",
                &self.last_progress,
            ),
            (
                "nudge_current_timestamp_seconds",
                "When the stream was last seen to hold nothing that is not handled here; 0 before that; bad: minutes ago",
                &self.current_at,
            ),
        ] {
            registry.register(name, help, moment.clone());
        }
    }

    /// The comparison with the owner.
    fn register_comparing(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "nudge_resync_compared",
                "Entities compared with the owner; bad: no rise",
                &self.compared,
            ),
            (
                "nudge_resync_contents_compared",
                "Entities whose contents were compared with the owner's state; bad: no rise",
                &self.contents_compared,
            ),
            ("nudge_resync_sweeps", "Comparisons of everything that ended", &self.sweeps),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "nudge_resync_differences",
            "Entities that differed from the owner's, in version or in contents; what was in flight is not counted; bad: any",
            self.differences.clone(),
        );
        registry.register(
            "nudge_resync_removals_waiting",
            "Entities that the owner does not have, and that only an operator's word removes; bad: any",
            self.removals_waiting.clone(),
        );
        registry.register(
            "nudge_resync_ended_timestamp_seconds",
            "When this replica last ended a comparison of everything; 0 before that; bad: hours ago on every replica",
            self.sweep_ended.clone(),
        );
    }
}
