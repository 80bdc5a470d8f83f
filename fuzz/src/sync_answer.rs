//! An owner's answers to batch-get calls, as the kit reads them.

use std::sync::Mutex;

use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    sync_api::{BatchGetAnswer, Item, ItemStatus},
};
use nudge_subscriber_kit::{
    internals::outcome::{Answer, read_item},
    owner_client::{
        FetchError, FetchErrorKind, Fetching, OwnerClient, Probing, fetch_all, read_answer,
    },
};
use serde_json::value::RawValue;

use crate::{
    items_page::items_page,
    plain::{self, Fields},
};

/// The first line of the input lists the requested IDs, separated by `|`. Then follow the bodies of the owner's
/// answers, separated by blank lines. They answer batch-get calls; each is also read as a page of items, see
/// `items_page`.
///
/// - Each ID is answered at most once, and no other is accepted. If one is missing, there is an error. A second, plain
///   decoder finds the same items in the same order, and the same error.
/// - The owner is asked only for what it has not answered yet, and for less each time.
/// - Each item becomes exactly one of live, deleted, unknown, or an error about this ID alone.
/// - A state is passed on byte for byte. Encoding and decoding again gives the same value.
pub fn sync_answer(input: &[u8]) {
    let line = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (first, rest) = input.split_at(line);
    let first = String::from_utf8_lossy(first);
    let ids: Vec<_> = first.split('|').filter_map(|id| EntityId::new(id).ok()).take(512).collect();
    let bodies = bodies(rest.strip_prefix(b"\n").unwrap_or(rest));
    bodies.iter().for_each(|body| items_page(body));
    let utf8 = bodies.iter().all(|body| std::str::from_utf8(body).is_ok());

    let expected = utf8.then(|| plainly(&ids, &bodies));
    let owner = Scripted { bodies, asked: Mutex::default() };
    let entity = EntityName::new("store").expect("a name");
    let (items, rest) = futures_executor::block_on(fetch_all(&owner, &entity, &ids, &[]));
    asked_for_less_each_time(&ids, &owner.asked.into_inner().expect("no panic before"));
    let rest = rest.map_err(|error| error.kind);
    if let Some(expected) = expected {
        let found = (items.iter().map(parts).collect::<Vec<_>>(), rest);
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(input));
    }
    let mut answered: Vec<_> = items.iter().map(|item| item.id.clone()).collect();
    answered.sort();
    let mut asked = ids;
    asked.sort();
    asked.dedup();
    match rest {
        Ok(()) => assert_eq!(answered, asked),
        Err(_) => {
            let answers = answered.len();
            answered.dedup();
            assert!(answered.len() == answers && answers < asked.len());
            assert!(answered.iter().all(|id| asked.contains(id)));
        }
    }
    items.iter().for_each(judged);
    written_and_read(items);
}

/// The bodies, split at blank lines.
fn bodies(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\n\n") {
        bodies.push(rest[..at].to_vec());
        rest = &rest[at + 2..];
    }
    bodies.push(rest.to_vec());
    bodies
}

/// An owner that gives the prepared answers, and then no more.
struct Scripted {
    bodies: Vec<Vec<u8>>,
    asked: Mutex<Vec<Vec<EntityId>>>,
}

impl OwnerClient for Scripted {
    fn batch_get<'a>(
        &'a self,
        _: &'a EntityName,
        ids: &'a [EntityId],
        _: &'a [&'static str],
    ) -> Fetching<'a> {
        let mut asked = self.asked.lock().expect("no panic before");
        let body = self.bodies.get(asked.len());
        asked.push(ids.to_vec());
        let items = match body {
            Some(body) => read_answer::<BatchGetAnswer>(body).map(|answer| answer.items),
            None => Err(FetchError::new(FetchErrorKind::Unavailable, "gone")),
        };
        Box::pin(std::future::ready(items))
    }

    fn probe<'a>(&'a self, _: &'a EntityName) -> Probing<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn asked_for_less_each_time(ids: &[EntityId], calls: &[Vec<EntityId>]) {
    for call in calls {
        assert!(!call.is_empty() && call.iter().all(|id| ids.contains(id)), "{calls:?}");
    }
    for (call, next) in calls.iter().zip(calls.iter().skip(1)) {
        let less = next.len() < call.len() && next.iter().all(|id| call.contains(id));
        assert!(less, "{calls:?}");
    }
}

/// How the kit reads an item.
fn judged(item: &Item) {
    let now = Timestamp::from_unix_micros(17);
    let text = item.state.as_ref().map(|state| state.get());
    let read = read_item::<Box<RawValue>>(item, now);
    match (&read, item.status, item.version, text) {
        (Ok((Answer::Unknown, None)), ItemStatus::Unknown, ..) => {}
        (Ok((Answer::Deleted(said), Some(entity))), ItemStatus::Deleted, Some(version), _) => {
            assert!(*said == version && entity.version == version && entity.state.is_none());
            assert_eq!(entity.id, item.id);
        }
        (Ok((Answer::Live(said), Some(entity))), ItemStatus::Live, Some(version), Some(text)) => {
            assert!(*said == version && entity.version == version && version.get() < 1 << 53);
            assert_eq!(entity.state.as_ref().map(|state| state.get()), Some(text));
            assert_eq!(entity.changed_at, item.changed_at.unwrap_or(now));
            assert_eq!(entity.id, item.id);
        }
        (Err(_), ItemStatus::Deleted | ItemStatus::Live, None, _) => {}
        (Err(_), ItemStatus::Live, _, None) => {}
        _ => panic!("{item:?} was read as {read:?}"),
    }
    // A state that the service's own type rejects is an error, not a missing state.
    let refused = read_item::<serde_json::Value>(item, now).is_err();
    let unreadable = item.status == ItemStatus::Live
        && text.is_some_and(|text| serde_json::from_str::<serde_json::Value>(text).is_err());
    assert_eq!(refused, read.is_err() || unreadable, "{item:?}");
}

fn written_and_read(items: Vec<Item>) {
    let before: Vec<_> = items.iter().map(parts).collect();
    let written = serde_json::to_vec(&BatchGetAnswer { items }).expect("what was read");
    let again = read_answer::<BatchGetAnswer>(&written).expect("what was written");
    assert_eq!(again.items.iter().map(parts).collect::<Vec<_>>(), before);
}

/// ID, status, version, time, and the text of the state.
type Parts = (String, String, Option<u64>, Option<Timestamp>, Option<String>);

fn parts(item: &Item) -> Parts {
    let status = match item.status {
        ItemStatus::Live => "live",
        ItemStatus::Deleted => "deleted",
        ItemStatus::Unknown => "unknown",
    };
    let version = item.version.map(|version| version.get());
    let state = item.state.as_ref().map(|state| state.get().to_owned());
    (item.id.to_string(), status.to_owned(), version, item.changed_at, state)
}

fn plainly(ids: &[EntityId], bodies: &[Vec<u8>]) -> (Vec<Parts>, Result<(), FetchErrorKind>) {
    let mut left: Vec<&str> = ids.iter().map(EntityId::as_str).collect();
    let mut all = Vec::new();
    let mut bodies = bodies.iter();
    while !left.is_empty() {
        let Some(body) = bodies.next() else { return (all, Err(FetchErrorKind::Unavailable)) };
        let Some(items) = plain_items(body) else { return (all, Err(FetchErrorKind::Broken)) };
        let before = left.len();
        for item in items {
            if left.contains(&item.0.as_str()) {
                left.retain(|id| *id != item.0);
                all.push(item);
            }
        }
        if left.len() == before {
            return (all, Err(FetchErrorKind::Broken));
        }
    }
    (all, Ok(()))
}

fn plain_items(body: &[u8]) -> Option<Vec<Parts>> {
    let items = plain::list(Fields::read(body)?.once("items")??)?;
    items.iter().map(|item| plain_item(item)).collect()
}

fn plain_item(item: &str) -> Option<Parts> {
    let item = Fields::read(item.as_bytes())?;
    let id = plain::json_id(item.once("id")??)?;
    let status = plain::text(item.once("status")??)?;
    let status = Some(status).filter(|s| ["live", "deleted", "unknown"].contains(&s.as_str()))?;
    let version = match item.once("version")? {
        Some(version) => Some(plain::version(version)?),
        None => None,
    };
    let changed_at = match item.once("changed_at")? {
        Some(time) => Some(plain::text(time)?.parse().ok()?),
        None => None,
    };
    let state = item.once("state")?.map(str::to_owned);
    Some((id, status, version, changed_at, state))
}
