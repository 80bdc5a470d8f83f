use nudge_protocol::{
    EntityId, EntityName, Version,
    admin::{
        AppliedVersion, BreakerState, CatchingUp, DeadLetter, EntityStatus, Key, KeyState, KeyWork,
    },
};
use serde_json::json;

use super::*;
use crate::{roles::OwnerStatus, why::SubscriberHeld};

const NOW: Timestamp = Timestamp::from_unix_micros(1_767_225_600_000_000);

fn v(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn seconds_ago(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(NOW.unix_micros() - seconds * 1_000_000)
}

/// The owner has version 7, published as message 47 of 50, and search has version 6 and has handled
/// everything.
fn held() -> Held {
    let recorded = RecordedVersion {
        version: v(7),
        deleted: false,
        changed_at: seconds_ago(3),
        pending: false,
        published_version: Some(v(7)),
        sequence: Some(47),
        never_existed: false,
    };
    let message =
        StreamMessage { sequence: 47, version: Some(v(7)), published_at: Some(seconds_ago(2)) };
    let owner = OwnerHeld {
        service: Some("store-info".to_owned()),
        recorded: Some(recorded),
        message: Some(message),
        last_sequence: Some(50),
        offers_change_log: true,
        relay: Some(relay()),
        ..OwnerHeld::default()
    };
    let status = json!({
        "entity": "store", "connected": true, "broker_connected": true, "caught_up": true,
        "breaker": "closed", "position": 50, "stream_pending": 0, "queued": 12,
    });
    let status: EntityStatus = serde_json::from_value(status).unwrap();
    let applied = AppliedVersion { version: v(6), deleted: false, applied_at: seconds_ago(60) };
    let id = EntityId::new("42").unwrap();
    let (work, dead_letter, runs) = (None, None, Vec::new());
    let key = Key {
        id: id.clone(),
        state: Some(KeyState::Idle),
        applied: Some(applied),
        work,
        dead_letter,
        runs,
    };
    let search = SubscriberHeld {
        service: "search".to_owned(),
        url: String::new(),
        error: None,
        key: Some(key),
        status: Some(status),
    };
    Held { entity: EntityName::new("store").unwrap(), id, owner, subscribers: vec![search] }
}

fn relay() -> OwnerStatus {
    OwnerStatus {
        entity: EntityName::new("store").unwrap(),
        pending: Some(3),
        connected: Some(true),
        broker_connected: Some(true),
        stream_altered: None,
        published: None,
        strangers: None,
        stranger_tombstones: None,
    }
}

/// The reason that is found, after this alteration of [`held`].
fn because_of(alter: impl FnOnce(&mut Held)) -> Finding {
    let mut held = held();
    alter(&mut held);
    let findings = findings(&held, NOW);
    findings[because(&findings).expect("it is late")].clone()
}

/// What is found, if it is not late, after this alteration.
fn found(alter: impl FnOnce(&mut Held)) -> Vec<(String, Reason)> {
    let mut held = held();
    alter(&mut held);
    let findings = findings(&held, NOW);
    assert_eq!(because(&findings), None, "{findings:?}");
    findings.into_iter().map(|finding| (finding.at, finding.reason)).collect()
}

fn key(held: &mut Held) -> &mut Key {
    held.subscribers[0].key.as_mut().unwrap()
}

fn status(held: &mut Held) -> &mut EntityStatus {
    held.subscribers[0].status.as_mut().unwrap()
}

fn recorded(held: &mut Held) -> &mut RecordedVersion {
    held.owner.recorded.as_mut().unwrap()
}

fn applied(held: &mut Held) -> &mut AppliedVersion {
    key(held).applied.as_mut().unwrap()
}

fn work(attempts: u32) -> KeyWork {
    KeyWork {
        since: seconds_ago(2),
        notifications: 12,
        sequence: Some(47),
        lane: None,
        floor: Some(v(7)),
        not_before: (attempts > 0).then(|| seconds_ago(-5)),
        attempts,
        error: (attempts > 0).then(|| "500 Internal".to_owned()),
    }
}

fn letter(next_at: Option<Timestamp>) -> DeadLetter {
    DeadLetter {
        entity: EntityName::new("store").unwrap(),
        id: EntityId::new("42").unwrap(),
        floor: v(7),
        error: "no column".to_owned(),
        attempts: 8,
        first_failed_at: None,
        last_failed_at: Some(seconds_ago(9)),
        next_at,
    }
}

/// The reason is at this place, and its words hold all of these.
fn check(finding: Finding, at: &str, reason: Reason, words: &[&str]) {
    assert_eq!((finding.at.as_str(), finding.reason), (at, reason), "{finding:?}");
    let text = format!("{} {}", finding.says, finding.todo.unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn equal_deleted_and_unknown_are_not_late() {
    let place = |at: &str, reason| (at.to_owned(), reason);
    let equal = found(|held| applied(held).version = v(7));
    let expected = [
        place("store-info", Reason::Recorded),
        place("stream", Reason::InStream),
        place("search", Reason::Equal),
    ];
    assert_eq!(equal, expected);
    let deleted = found(|held| {
        recorded(held).deleted = true;
        (applied(held).version, applied(held).deleted) = (v(7), true);
    });
    assert_eq!(deleted[0].1, Reason::Deleted);
    let nowhere = |held: &mut Held| {
        (held.owner.recorded, held.owner.message, key(held).applied) = (None, None, None);
    };
    assert_eq!(found(nowhere)[0].1, Reason::Unknown);
    // An owner without tombstones: what was deleted here is unknown there.
    let forgotten = |held: &mut Held| {
        (held.owner.recorded, held.owner.message) = (None, None);
        applied(held).deleted = true;
    };
    assert_eq!(found(forgotten)[0].1, Reason::Unknown);
}

#[test]
fn an_unpublished_change_is_late_only_where_somebody_lacks_it() {
    let pending = |held: &mut Held| {
        (recorded(held).pending, recorded(held).published_version) = (true, Some(v(6)));
        held.owner.message.as_mut().unwrap().version = Some(v(6));
    };
    check(because_of(pending), "store-info", Reason::NotPublished, &["version 7", "3 changes"]);
    let away = |held: &mut Held| {
        pending(held);
        held.owner.relay.as_mut().unwrap().broker_connected = Some(false);
    };
    check(because_of(away), "store-info", Reason::NotPublished, &["broker", "NATS"]);
    let applied_all_the_same = found(|held| {
        pending(held);
        applied(held).version = v(7);
    });
    assert_eq!(applied_all_the_same[0].1, Reason::NotPublished);
}

#[test]
fn what_the_stream_lost_and_what_it_knows_better_is_told() {
    let gone = |held: &mut Held| held.owner.message = None;
    check(because_of(gone), "stream", Reason::LostInStream, &["gone"]);
    let older = |held: &mut Held| held.owner.message.as_mut().unwrap().version = Some(v(6));
    check(because_of(older), "stream", Reason::LostInStream, &["older"]);
    let newer = |held: &mut Held| held.owner.message.as_mut().unwrap().version = Some(v(9));
    check(because_of(newer), "stream", Reason::StreamAhead, &["version 9", "restored"]);
    let unknown = found(|held| {
        (held.owner.message, held.owner.last_sequence) = (None, None);
        applied(held).version = v(7);
    });
    assert_eq!(unknown[1].1, Reason::StreamUnknown);
}

#[test]
fn a_restored_owner_is_told_by_whoever_knows_more() {
    let ahead = |held: &mut Held| applied(held).version = v(9);
    check(
        because_of(ahead),
        "search",
        Reason::Ahead,
        &["NEWER", "nudge resync --subscriber search"],
    );
    let lacks = |held: &mut Held| (held.owner.recorded, held.owner.message) = (None, None);
    check(because_of(lacks), "store-info", Reason::OwnerLacks, &["never heard", "search"]);
}

#[test]
fn whoever_does_not_answer_is_the_reason() {
    let owner = |held: &mut Held| held.owner.error = Some("nothing answers".to_owned());
    check(because_of(owner), "store-info", Reason::OwnerAway, &["nothing answers"]);
    let search = |held: &mut Held| {
        let search = &mut held.subscribers[0];
        (search.key, search.error) = (None, Some("no answer in time".to_owned()));
    };
    check(because_of(search), "search", Reason::Away, &["no answer in time"]);
}

#[test]
fn what_keeps_a_subscriber_back_comes_before_how_far_it_is() {
    let paused = |held: &mut Held| {
        (key(held).state, key(held).work) = (Some(KeyState::Waiting), Some(work(0)));
        status(held).paused = true;
    };
    check(because_of(paused), "search", Reason::Paused, &["nudge resume search"]);
    let dead = |held: &mut Held| {
        (key(held).state, key(held).dead_letter) = (Some(KeyState::DeadLetter), Some(letter(None)));
        status(held).breaker = Some(BreakerState::Open);
    };
    let replay = "nudge dead-letters replay --subscriber search store 42";
    check(because_of(dead), "search", Reason::DeadLetter, &["no column", "9.0 s ago", replay]);
    let open = |held: &mut Held| {
        (key(held).state, key(held).work) = (Some(KeyState::Retrying), Some(work(1)));
        status(held).breaker = Some(BreakerState::Open);
        status(held).last_error = Some("503 Service Unavailable".to_owned());
    };
    check(because_of(open), "search", Reason::BreakerOpen, &["503", "log of store-info"]);
}

#[test]
fn how_far_a_subscriber_is_with_it_is_told() {
    let stands = |state, attempts| {
        because_of(move |held| {
            (key(held).state, key(held).work) = (Some(state), Some(work(attempts)));
        })
    };
    let waiting = stands(KeyState::Waiting, 0);
    check(waiting, "search", Reason::Waiting, &["12 keys", "2.0 s ago", "12 notifications"]);
    check(stands(KeyState::Processing, 0), "search", Reason::Processing, &["being asked"]);
    let retrying = stands(KeyState::Retrying, 3);
    check(retrying, "search", Reason::Retrying, &["Try 4", "in 5.0 s", "500 Internal"]);
    let parked = because_of(|held| {
        (key(held).state, key(held).dead_letter) =
            (Some(KeyState::Parked), Some(letter(Some(seconds_ago(-30)))));
    });
    check(parked, "search", Reason::Parked, &["8 failed runs", "in 30.0 s", "no column"]);
}

#[test]
fn a_notification_that_has_not_arrived_is_told_with_what_comes_before_it() {
    let behind = because_of(|held| {
        (status(held).position, status(held).stream_pending) = (7, Some(40));
    });
    check(behind, "search", Reason::NotReceived, &["Message 47", "up to 39 others"]);
    let next = because_of(|held| status(held).position = 46);
    check(next, "search", Reason::NotReceived, &["Message 47 is on its way"]);
    let away = because_of(|held| {
        (status(held).connected, status(held).last_error) =
            (Some(false), Some("refused".to_owned()));
    });
    check(away, "search", Reason::NotConnected, &["refused", "NATS"]);
    let first = because_of(|held| {
        let left = CatchingUp { handled: 1, left: 1_204, seconds_left: Some(3.0) };
        (status(held).caught_up, status(held).catching_up) = (false, Some(left));
    });
    check(first, "search", Reason::CatchingUp, &["1,204 notifications", "3.0 s"]);
}

#[test]
fn what_was_handled_and_is_not_there_was_missed() {
    check(
        because_of(|_| {}),
        "search",
        Reason::Missed,
        &["Message 47 was handled", "nudge resync"],
    );
    check(because_of(|held| key(held).applied = None), "search", Reason::Missed, &["not have it"]);
}

#[test]
fn what_stays_is_the_reason_rather_than_what_passes() {
    let finding = because_of(|held| {
        let mut review = held.subscribers[0].clone();
        review.service = "review".to_owned();
        held.subscribers.push(review);
        (key(held).state, key(held).work) = (Some(KeyState::Processing), Some(work(0)));
        held.subscribers[1].status.as_mut().unwrap().paused = true;
    });
    check(finding, "review", Reason::Paused, &["nudge resume review"]);
}

/// An owner in another language tells of its versions only.
#[test]
fn without_the_change_log_nothing_is_said_of_the_stream() {
    let places = found(|held| {
        (held.owner.offers_change_log, held.owner.message) = (false, None);
        held.owner.last_sequence = None;
        applied(held).version = v(7);
    });
    assert_eq!(places.len(), 2);
}
