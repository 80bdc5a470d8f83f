//! The durable consumer as it must be, and what somebody has made of it at the broker.
//!
//! An operator, or a tool that keeps a configuration of its own, can alter a consumer while it is in use. What
//! then happens depends on what was altered: some alterations skip messages for good, and only a consumer made
//! anew, which reads the stream from its start, brings those again. Others cost time.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, IntoConsumerConfig, pull};
use serde_json::{Map, Value};

use super::source::Durable;

/// A consumer that nobody has pulled from for so long is removed by the broker: its read model is
/// gone. If it does come back, it refills from the start.
const INACTIVE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Pulls that may wait at the broker, of all replicas: the server's own default, which it fills in.
const MAX_WAITING_PULLS: i64 = 512;

/// Members that decide which messages are delivered, or count as handled.
const SKIPS: [&str; 8] = [
    "ack_policy",
    "deliver_policy",
    "deliver_subject",
    "filter_subject",
    "filter_subjects",
    "max_deliver",
    "opt_start_seq",
    "opt_start_time",
];
/// Members that are the operator's: where the broker keeps the consumer, and what people read.
const NOT_OURS: [&str; 7] = [
    "description",
    "durable_name",
    "mem_storage",
    "metadata",
    "name",
    "num_replicas",
    "sample_freq",
];
/// Told by a flag of its own.
const PAUSE: &str = "pause_until";

/// What is not as it must be. Each in words: `max_ack_pending is 1, not 5000`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Altered {
    /// Messages may have been skipped.
    pub(super) skips: Vec<String>,
    /// Nothing is lost by it.
    pub(super) costs: Vec<String>,
}

/// The consumer that a read model needs.
pub(super) fn wanted(durable: Durable<'_>) -> pull::Config {
    pull::Config {
        durable_name: Some(durable.name.to_owned()),
        description: Some(format!("{} follows {}", durable.service, durable.entity)),
        // On a compacted stream "all" is one message per entity.
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: durable.settings.ack_wait,
        max_deliver: -1,
        max_waiting: MAX_WAITING_PULLS,
        max_ack_pending: durable.settings.max_ack_pending,
        inactive_threshold: INACTIVE,
        ..pull::Config::default()
    }
}

/// Compares a consumer with the one that is needed. Members that this release does not know are not looked at.
pub(super) fn compare(wanted: &pull::Config, found: &consumer::Config) -> Altered {
    let (wanted, found) = (members(&wanted.into_consumer_config()), members(found));
    let mut altered = Altered::default();
    let mut names: Vec<&String> = wanted.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let one = |config: &Map<String, Value>| config.get(name).cloned().unwrap_or(Value::Null);
        let (needed, is) = (one(&wanted), one(&found));
        if needed == is || NOT_OURS.contains(&name.as_str()) || name == PAUSE {
            continue;
        }
        let told = format!("{name} is {is}, not {needed}");
        match SKIPS.contains(&name.as_str()) {
            true => altered.skips.push(told),
            false => altered.costs.push(told),
        }
    }
    altered
}

fn members(config: &consumer::Config) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(members)) => members,
        // A configuration is an object, and its members have no keys that JSON lacks.
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::EntityName;

    use super::*;
    use crate::Settings;

    fn needed() -> pull::Config {
        let (entity, settings) = (EntityName::new("store").unwrap(), Settings::default());
        let (service, name) = ("search", "search-store-1");
        wanted(Durable { service, entity: &entity, name, settings: &settings })
    }

    fn altered(alter: impl FnOnce(&mut consumer::Config)) -> Altered {
        let wanted = needed();
        let mut found = (&wanted).into_consumer_config();
        alter(&mut found);
        compare(&wanted, &found)
    }

    #[test]
    fn what_skips_messages_is_told_from_what_costs_time() {
        assert_eq!(altered(|_| ()), Altered::default());
        let skips: [fn(&mut consumer::Config); 7] = [
            |c| c.ack_policy = AckPolicy::None,
            |c| c.ack_policy = AckPolicy::All,
            |c| c.deliver_policy = DeliverPolicy::New,
            |c| c.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: 7 },
            |c| c.deliver_subject = Some("elsewhere".into()),
            |c| c.filter_subjects = vec!["changes.store.42".into(), "changes.store.43".into()],
            |c| c.max_deliver = 1,
        ];
        for alter in skips {
            let altered = altered(alter);
            assert!(!altered.skips.is_empty() && altered.costs.is_empty(), "{altered:?}");
        }
        let costs: [fn(&mut consumer::Config); 6] = [
            |c| c.max_ack_pending = 1,
            |c| c.ack_wait = Duration::from_secs(1),
            |c| c.headers_only = true,
            |c| c.inactive_threshold = Duration::from_secs(1),
            |c| c.max_batch = 1,
            |c| c.rate_limit = 1,
        ];
        for alter in costs {
            let altered = altered(alter);
            assert!(altered.skips.is_empty() && altered.costs.len() == 1, "{altered:?}");
        }
    }

    #[test]
    fn what_is_the_operators_is_left_alone() {
        let altered = altered(|c| {
            c.description = Some("ours now".into());
            c.num_replicas = 3;
            c.memory_storage = true;
            c.sample_frequency = 100;
            c.metadata.insert("team".into(), "catalogue".into());
        });
        assert_eq!(altered, Altered::default());
    }

    #[test]
    fn it_is_said_what_was_found_and_what_is_needed() {
        let altered = altered(|c| c.max_ack_pending = 1);
        assert_eq!(altered.costs, ["max_ack_pending is 1, not 5000"]);
    }
}
