//! The configuration that the durable consumer needs, and how the one at the broker differs from it.
//!
//! An operator, or a tool with a configuration of its own, can alter a consumer while it is in use. Some alterations
//! skip messages for good; only a new consumer, which reads the stream from the start, delivers those. Others merely
//! cost time.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, IntoConsumerConfig, pull};
use serde_json::{Map, Value};

use super::source::Durable;

/// The broker removes a consumer from which nobody has pulled for this long, since its read model is probably
/// gone. A read model that does come back reads the stream from the start.
const INACTIVE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Maximum number of pulls waiting at the broker, over all replicas: the server's default, which it fills in.
const MAX_WAITING_PULLS: i64 = 512;

/// Settings that decide which messages are delivered or count as handled.
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
/// Settings that belong to the operator: where the broker stores the consumer, and what people read.
const NOT_OURS: [&str; 7] = [
    "description",
    "durable_name",
    "mem_storage",
    "metadata",
    "name",
    "num_replicas",
    "sample_freq",
];
/// Reported in a separate flag.
const PAUSE: &str = "pause_until";

/// How a consumer differs from the one that is needed, as texts such as `max_ack_pending is 1, not 5000`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Altered {
    /// Differences that may have skipped messages.
    pub(super) skips: Vec<String>,
    /// Differences that lose nothing.
    pub(super) costs: Vec<String>,
}

/// The member of a consumer's metadata that holds the identity of its read model.
const READ_MODEL: &str = "nudge-read-model";

/// The read model that needs this consumer.
pub(super) fn whose(wanted: &pull::Config) -> Option<&str> {
    wanted.metadata.get(READ_MODEL).map(String::as_str)
}

/// The read model that a consumer belongs to. Only an operator's tool can have taken that away.
pub(super) fn read_model_of(found: &consumer::Config) -> Option<&str> {
    found.metadata.get(READ_MODEL).map(String::as_str)
}

/// The consumer that a read model needs, under this name.
pub(super) fn wanted(durable: Durable<'_>, name: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        metadata: [(READ_MODEL.to_owned(), durable.read_model.to_owned())].into(),
        description: Some(format!("{} follows {}", durable.service, durable.entity)),
        // On a compacted stream "all" is one message per entity.
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: durable.settings.ack_wait,
        max_deliver: -1,
        max_waiting: MAX_WAITING_PULLS,
        max_ack_pending: durable.settings.max_ack_pending,
        inactive_threshold: INACTIVE,
        filter_subject: durable.events.map(|events| events.subjects.clone()).unwrap_or_default(),
        ..pull::Config::default()
    }
}

/// Compares a consumer with the one that is needed. Settings that this release does not know are ignored.
pub(super) fn compare(wanted: &pull::Config, found: &consumer::Config) -> Altered {
    let mut altered = Altered::default();
    let (wanted, found) = (members(&wanted.into_consumer_config()), members(found));
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
        // Cannot happen: a configuration serializes as an object.
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
        let (service, read_model) = ("search", "1f3c");
        let durable =
            Durable { service, entity: &entity, read_model, settings: &settings, events: None };
        wanted(durable, "search-store")
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
