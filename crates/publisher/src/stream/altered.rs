//! Compares the stream's configuration at the broker with the required one.
//!
//! An operator, or a tool with its own configuration, can create the stream before its owner does, or alter
//! it while it is in use. Settings that decide whether a notification stays until it is read belong to the owner, and are altered
//! back. Size, placement and descriptive texts belong to the operator.

use nudge_protocol::EntityName;
use serde_json::{Map, Value};

use crate::sink::Altered;

/// The members of a stream's configuration, as the broker sends them. Those that this release does not know are kept
/// as they are.
pub(super) type Members = Map<String, Value>;

/// Members by which the stream drops, refuses or changes what is published, lets others do so, or locks subscribers
/// out.
const OURS: [&str; 24] = [
    "allow_direct",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_msg_ttl",
    "allow_rollup_hdrs",
    "consumer_limits",
    "deny_delete",
    "deny_purge",
    "discard",
    "discard_new_per_subject",
    "max_age",
    "max_consumers",
    MAX_MESSAGE_SIZE,
    "max_msgs",
    PER_SUBJECT,
    MIRROR,
    "no_ack",
    "persist_mode",
    "retention",
    SEALED,
    "sources",
    "subject_delete_marker_ttl",
    "subject_transform",
    "subjects",
];
/// Those of them by which a stream drops acknowledged messages, or keeps them under another subject.
const LOSES: [&str; 5] = ["discard", "max_age", "max_msgs", "retention", "subject_transform"];
/// How many messages of one subject the stream keeps.
pub(super) const PER_SUBJECT: &str = "max_msgs_per_subject";
/// Members whose larger values do no harm.
const MAX_MESSAGE_SIZE: &str = "max_msg_size";
/// Nothing can be published to a mirror; the broker may let it become a stream of its own, which would cut it off from
/// its source.
const MIRROR: &str = "mirror";
/// Nobody seals a stream by mistake, and brokers do not undo it.
const SEALED: &str = "sealed";

/// A member with a wrong value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    name: &'static str,
    is: Value,
    needed: Value,
}

/// As text: `max_msgs is 20, not -1`.
impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |value: &Value| match value {
            Value::Null => "unset".to_owned(),
            value => value.to_string(),
        };
        write!(f, "{} is {}, not {}", self.name, word(&self.is), word(&self.needed))
    }
}

impl Member {
    /// This configuration with the member's required value.
    pub(super) fn mended(&self, mut config: Members) -> Members {
        match is_unset(&self.needed) {
            true => config.remove(self.name),
            false => config.insert(self.name.to_owned(), self.needed.clone()),
        };
        config
    }
}

/// Compares a stream's configuration with the required one.
pub(super) fn compare(entity: &EntityName, found: &Members) -> Vec<Member> {
    let needed = match serde_json::to_value(super::config(entity)) {
        Ok(Value::Object(members)) => members,
        // A configuration is a JSON object with string keys.
        _ => Members::new(),
    };
    let of = |name| {
        let one = |config: &Members| config.get(name).cloned().unwrap_or(Value::Null);
        Member { name, is: one(found), needed: one(&needed) }
    };
    OURS.map(of).into_iter().filter(|member| !is_as_needed(member)).collect()
}

/// The same as a summary, if there is any difference.
pub(super) fn told(members: &[Member]) -> Option<Altered> {
    let text = |picked: &dyn Fn(&Member) -> bool| {
        let texts: Vec<_> = members.iter().filter(|m| picked(m)).map(Member::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    };
    let loses = text(&|member| LOSES.contains(&member.name));
    Some(Altered { what: text(&|_| true)?, loses })
}

/// Why this stream must not be altered, if so.
pub(super) fn untouchable(found: &Members) -> Option<&'static str> {
    let has = |name| found.get(name).is_some_and(|value| !is_unset(value));
    match () {
        () if has(MIRROR) => Some("it mirrors another stream"),
        () if has(SEALED) => Some("it is sealed"),
        () => None,
    }
}

fn is_as_needed(Member { name, is, needed }: &Member) -> bool {
    let is_unlimited = || is_unset(is) || is.as_i64() == Some(-1);
    match *name {
        MAX_MESSAGE_SIZE => is_unlimited() || is.as_i64() >= needed.as_i64(),
        _ => is == needed || (is_unset(is) && is_unset(needed)),
    }
}

/// Brokers omit members without a value, or send them as one of several empty values.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_i64() == Some(0),
        Value::String(value) => value.is_empty() || value == "default",
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.values().all(is_unset),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entity() -> EntityName {
        EntityName::new("store").unwrap()
    }

    fn found() -> Members {
        match serde_json::to_value(crate::stream::config(&entity())).unwrap() {
            Value::Object(members) => members,
            other => panic!("{other}"),
        }
    }

    fn with(name: &str, value: Value) -> Members {
        let mut found = found();
        found.insert(name.to_owned(), value);
        found
    }

    #[test]
    fn whatever_drops_refuses_or_changes_notifications_is_told_and_mended() {
        assert_eq!(compare(&entity(), &found()), []);
        for (name, value) in [
            ("allow_direct", json!(false)),
            ("allow_msg_counter", json!(true)),
            ("allow_msg_schedules", json!(true)),
            ("allow_msg_ttl", json!(true)),
            ("allow_rollup_hdrs", json!(true)),
            ("consumer_limits", json!({"max_ack_pending": 1})),
            ("deny_delete", json!(false)),
            ("deny_purge", json!(false)),
            ("discard", json!("old")),
            ("discard_new_per_subject", json!(true)),
            ("max_age", json!(60_000_000_000_i64)),
            ("max_consumers", json!(1)),
            ("max_msg_size", json!(100)),
            ("max_msgs", json!(20)),
            ("max_msgs_per_subject", json!(5)),
            ("max_msgs_per_subject", json!(-1)),
            ("mirror", json!({"name": "CHANGES_other"})),
            ("no_ack", json!(true)),
            ("persist_mode", json!("async")),
            ("retention", json!("workqueue")),
            ("retention", json!("interest")),
            ("sealed", json!(true)),
            ("sources", json!([{"name": "CHANGES_other"}])),
            ("subject_delete_marker_ttl", json!(1_000_000_000)),
            ("subject_transform", json!({"src": "changes.store.*", "dest": "changes.store.a"})),
            ("subjects", json!(["changes.store.*", "changes.others.*"])),
            ("subjects", json!(["changes.store.4*"])),
        ] {
            let found = with(name, value);
            let altered = compare(&entity(), &found);
            assert_eq!(altered.iter().map(|member| member.name).collect::<Vec<_>>(), [name]);
            assert_eq!(compare(&entity(), &altered[0].mended(found)), []);
        }
    }

    #[test]
    fn what_is_the_operators_is_left_alone() {
        for (name, value) in [
            ("description", json!("looked after by the catalogue team")),
            ("max_bytes", json!(-1)),
            ("max_bytes", json!(1_000)),
            ("max_msg_size", json!(1_000_000)),
            ("max_msg_size", json!(-1)),
            ("num_replicas", json!(3)),
            ("storage", json!("memory")),
            ("placement", json!({"cluster": "seoul"})),
            ("compression", json!("s2")),
            ("metadata", json!({"team": "catalogue"})),
            ("duplicate_window", json!(120_000_000_000_i64)),
            ("republish", json!({"src": ">", "dest": "copies.>"})),
            ("first_seq", json!(1_000)),
            ("allow_atomic", json!(true)),
            ("of_a_later_release", json!(true)),
        ] {
            assert_eq!(compare(&entity(), &with(name, value)), []);
        }
    }

    #[test]
    fn nothing_told_in_one_way_is_nothing_told_in_another() {
        for (name, value) in [
            ("consumer_limits", json!({})),
            ("consumer_limits", json!({"max_ack_pending": 0})),
            ("mirror", Value::Null),
            ("sources", json!([])),
            ("persist_mode", json!("default")),
            ("no_ack", json!(false)),
        ] {
            assert_eq!(compare(&entity(), &with(name, value)), []);
        }
    }

    #[test]
    fn it_is_said_what_was_found_and_what_is_needed() {
        let said = |found| told(&compare(&entity(), &found));
        let altered = |what: &str, loses: Option<&str>| {
            Some(Altered { what: what.to_owned(), loses: loses.map(str::to_owned) })
        };
        assert_eq!(said(found()), None);
        let few = with("max_msgs", json!(20));
        let fewer = "max_msgs is 20, not -1";
        assert_eq!(said(few.clone()), altered(fewer, Some(fewer)));
        assert_eq!(said(with("no_ack", json!(true))), altered("no_ack is true, not unset", None));
        let mut both = few;
        both.insert("deny_purge".to_owned(), json!(false));
        let what = "deny_purge is false, not true, max_msgs is 20, not -1";
        assert_eq!(said(both), altered(what, Some(fewer)));
    }

    #[test]
    fn a_sealed_stream_and_a_mirror_are_not_touched() {
        assert_eq!(untouchable(&found()), None);
        assert!(untouchable(&with("sealed", json!(true))).is_some());
        assert!(untouchable(&with("mirror", json!({"name": "CHANGES_other"}))).is_some());
    }
}
