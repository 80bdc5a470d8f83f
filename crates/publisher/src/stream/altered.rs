//! What others have made of the stream at the broker, compared with what it must be.
//!
//! An operator, or a tool that keeps a configuration of its own, can make the stream before its owner does, and alter
//! it while it is in use. What decides whether a notification stays until it is read is the owner's, and is altered
//! back. How much room the stream has, where it is kept and what people read of it are the operator's.

use nudge_protocol::EntityName;
use serde_json::{Map, Value};

use crate::sink::Altered;

/// The members of a stream's configuration, as the broker tells them. Those that this release does not know are kept
/// as they are.
pub(super) type Members = Map<String, Value>;

/// Members by which the stream drops, refuses or changes what is published, lets others do so, or keeps subscribers
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
    "max_msgs_per_subject",
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
/// Those of them by which a stream drops what it has acknowledged, or keeps it under another subject.
const LOSES: [&str; 5] = ["discard", "max_age", "max_msgs", "retention", "subject_transform"];
/// More than is needed does no harm.
const MAX_MESSAGE_SIZE: &str = "max_msg_size";
/// Where nothing is published: the broker may let a mirror become a stream of its own, which would part it from what
/// it mirrors.
const MIRROR: &str = "mirror";
/// Nobody seals a stream by mistake, and brokers do not undo it.
const SEALED: &str = "sealed";

/// A member that is not as it must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    name: &'static str,
    is: Value,
    needed: Value,
}

/// In words: `max_msgs is 20, not -1`.
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
    /// This configuration with the member as it must be.
    pub(super) fn mended(&self, mut config: Members) -> Members {
        match is_unset(&self.needed) {
            true => config.remove(self.name),
            false => config.insert(self.name.to_owned(), self.needed.clone()),
        };
        config
    }
}

/// Compares a stream with the one that is needed.
pub(super) fn compare(entity: &EntityName, found: &Members) -> Vec<Member> {
    let needed = match serde_json::to_value(super::config(entity)) {
        Ok(Value::Object(members)) => members,
        // A configuration is an object, and its members have no keys that JSON lacks.
        _ => Members::new(),
    };
    let of = |name| {
        let one = |config: &Members| config.get(name).cloned().unwrap_or(Value::Null);
        Member { name, is: one(found), needed: one(&needed) }
    };
    OURS.map(of).into_iter().filter(|member| !is_as_needed(member)).collect()
}

/// The same for those who only want to know whether there is something.
pub(super) fn told(members: &[Member]) -> Option<Altered> {
    let what: Vec<_> = members.iter().map(Member::to_string).collect();
    let loses = members.iter().any(|member| LOSES.contains(&member.name));
    (!what.is_empty()).then(|| Altered { what: what.join(", "), loses })
}

/// Why nothing of this stream is to be altered, if so.
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

/// Brokers leave out what has no value, or tell it as nothing in one way or another.
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
        let altered = |what: &str, loses| Some(Altered { what: what.to_owned(), loses });
        assert_eq!(said(found()), None);
        let few = with("max_msgs", json!(20));
        assert_eq!(said(few.clone()), altered("max_msgs is 20, not -1", true));
        assert_eq!(said(with("no_ack", json!(true))), altered("no_ack is true, not unset", false));
        let mut both = few;
        both.insert("deny_purge".to_owned(), json!(false));
        let what = "deny_purge is false, not true, max_msgs is 20, not -1";
        assert_eq!(said(both), altered(what, true));
    }

    #[test]
    fn a_sealed_stream_and_a_mirror_are_not_touched() {
        assert_eq!(untouchable(&found()), None);
        assert!(untouchable(&with("sealed", json!(true))).is_some());
        assert!(untouchable(&with("mirror", json!({"name": "CHANGES_other"}))).is_some());
    }
}
