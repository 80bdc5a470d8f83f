//! Which of the names of a service's consumers is this read model's.
//!
//! The names are fixed, so that a permission at NATS can grant them; the identity of the read model is in the consumer's
//! metadata. An original and a copy of it beside it take different names. Only when there is no other left is a name taken over
//! whose read model is not in use any more, since that may be paused, or down for longer than usual: the consumer is deleted
//! and created anew, so it delivers everything that is in the stream. What one read model has acknowledged thus never counts
//! as handled by another.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{
    datetime::DateTime,
    jetstream::{
        ErrorCode,
        consumer::{Info, PullConsumer},
        response::Response,
        stream::{ConsumerCreateStrictErrorKind, Stream},
    },
};
use futures_util::{TryStreamExt, future::try_join_all};
use nudge_protocol::{Timestamp, subject};
use nudge_runtime::{BoxError, Broker, clock};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    consumer::{read_model_of, wanted},
    source::Durable,
};

/// Pause between two looks at a consumer that is to be taken over. One that is in use pulls again at once after a pull has
/// expired, so at most one of two looks finds it without a pull.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How often a name is tried again that another read model took in between.
const MAX_ROUNDS: usize = 8;
/// How often the consumer of an earlier release is looked at that another replica may still use.
const FORMER_INTERVAL: Duration = Duration::from_secs(10);

/// All names are taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the consumers {0} all belong to other read models that are in use: stop one of those copies"
)]
struct AllInUse(String);

/// What the broker says about a consumer.
#[derive(Clone, Debug)]
struct Seen {
    info: Info,
    /// When it said so, by its own clock.
    at: Timestamp,
}

/// What to do about the name of a consumer.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// It is this read model's.
    Ours(usize),
    /// Nobody has it.
    Free(usize),
    /// The read model that has it does not use it.
    Unused(usize),
    AllInUse,
}

/// A name, and the consumer that has just been created under it.
pub(super) struct Claimed {
    pub(super) name: String,
    pub(super) created: Option<PullConsumer>,
}

/// Finds the name of this read model's consumer; creates the consumer if there is none.
pub(super) async fn claim(
    broker: &Broker,
    stream: &Stream,
    durable: Durable<'_>,
) -> Result<Claimed, BoxError> {
    let of = &stream.cached_info().config.name;
    let names: Vec<_> = subject::consumer_names(durable.service, durable.entity).collect();
    let look = || try_join_all(names.iter().map(|name| find(broker, of, name)));
    let unused_after = durable.settings.unused_after;
    for _ in 0..MAX_ROUNDS {
        let seen = look().await?;
        let chosen = match choose(&seen, durable.read_model, unused_after) {
            Choice::Ours(chosen) => {
                return Ok(Claimed { name: names[chosen].clone(), created: None });
            }
            Choice::AllInUse => return Err(AllInUse(names.join(", ")).into()),
            Choice::Free(chosen) => chosen,
            Choice::Unused(chosen) => {
                let consumer = &names[chosen];
                let created = seen[chosen].as_ref().map(|seen| seen.info.created);
                // Nobody comes back to one that names no read model: whoever made it has put it in the way.
                let is_named =
                    seen[chosen].as_ref().is_some_and(|seen| seen.read_model().is_some());
                let watched = if is_named { unused_after } else { BETWEEN_LOOKS };
                if !stays_unused(broker, of, consumer, created, unused_after, watched).await? {
                    continue;
                }
                tracing::info!(
                    consumer,
                    "taking over the consumer of a read model that is not in use"
                );
                stream.delete_consumer(consumer).await?;
                chosen
            }
        };
        let name = names[chosen].clone();
        match stream.create_consumer_strict(wanted(durable, &name)).await {
            Ok(created) => return Ok(Claimed { name, created: Some(created) }),
            // Another read model was first.
            Err(error) if error.kind() == ConsumerCreateStrictErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(AllInUse(names.join(", ")).into())
}

/// Looks at a consumer for as long as it is to be `watched`, during which nobody may use it. After a restart of the broker
/// nobody has a pull there, so what counts is only what is seen on one connection.
async fn stays_unused(
    broker: &Broker,
    stream: &str,
    name: &str,
    created: Option<DateTime>,
    unused_after: Duration,
    watched: Duration,
) -> Result<bool, BoxError> {
    let connections = broker.connections();
    let connection = *connections.borrow();
    let end = Instant::now() + watched.max(BETWEEN_LOOKS);
    while Instant::now() < end {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let now = find(broker, stream, name).await?;
        let is_same = now.as_ref().map(|now| now.info.created) == created
            && *connections.borrow() == connection;
        if !is_same || now.is_some_and(|now| now.is_in_use(unused_after)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Pure.
fn choose(seen: &[Option<Seen>], read_model: &str, unused_after: Duration) -> Choice {
    let is_ours =
        |seen: &Option<Seen>| seen.as_ref().and_then(Seen::read_model) == Some(read_model);
    if let Some(ours) = seen.iter().position(is_ours) {
        return Choice::Ours(ours);
    }
    let unused = || {
        let all = seen.iter().enumerate().filter_map(|(place, seen)| Some((place, seen.as_ref()?)));
        all.filter(|(_, other)| !other.is_in_use(unused_after))
    };
    // Nobody can come back to one that names no read model: nobody knows what was acknowledged there, and by whom.
    if let Some((place, _)) = unused().find(|(_, other)| other.read_model().is_none()) {
        return Choice::Unused(place);
    }
    if let Some(free) = seen.iter().position(Option::is_none) {
        return Choice::Free(free);
    }
    let longest = unused().min_by_key(|(_, other)| other.last_used());
    longest.map_or(Choice::AllInUse, |(place, _)| Choice::Unused(place))
}

impl Seen {
    /// Whether somebody waits for its messages or has got or acknowledged one lately, or it is so new that its creator
    /// may not have asked for any yet. One that names no read model was made by a tool of an operator, so only who waits
    /// counts.
    fn is_in_use(&self, unused_after: Duration) -> bool {
        let lately = || self.at.seconds_since(self.last_used()) < unused_after.as_secs_f64();
        self.info.num_waiting > 0 || (self.read_model().is_some() && lately())
    }

    fn last_used(&self) -> Timestamp {
        let Info { created, delivered, ack_floor, .. } = &self.info;
        let used = [delivered.last_active, ack_floor.last_active].into_iter().flatten();
        timestamp(used.fold(*created, DateTime::max))
    }

    fn read_model(&self) -> Option<&str> {
        read_model_of(&self.info.config)
    }
}

fn timestamp(time: DateTime) -> Timestamp {
    let micros = i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
    Timestamp::from_unix_micros(micros)
}

/// A consumer, unless there is none of that name.
async fn find(broker: &Broker, stream: &str, name: &str) -> Result<Option<Seen>, BoxError> {
    let subject = format!("CONSUMER.INFO.{stream}.{name}");
    match broker.jetstream.request(subject, &json!({})).await? {
        Response::Ok::<Value>(told) => {
            // Servers before 2.10 do not say it.
            let at = told["ts"].as_str().and_then(|at| at.parse().ok());
            let at = at.unwrap_or_else(clock::now);
            Ok(Some(Seen { info: Info::deserialize(&told)?, at }))
        }
        Response::Err { error } if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
        Response::Err { error } => Err(error.into()),
    }
}

/// Removes the consumer that an earlier release created for this read model, once no replica of that release uses it. The
/// broker would keep it for a month.
pub(super) async fn remove_former(
    broker: Broker,
    stream: Stream,
    former: String,
    unused_after: Duration,
) {
    /// Those that this program may not remove: no more than it has followed.
    static REFUSED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if REFUSED.lock().contains(&former) {
        return;
    }
    let removed = async {
        loop {
            let names: Vec<String> = stream.consumer_names().try_collect().await?;
            if !names.contains(&former) {
                return Ok::<_, BoxError>(false);
            }
            match find(&broker, &stream.cached_info().config.name, &former).await? {
                Some(seen) if seen.is_in_use(unused_after) => {
                    tokio::time::sleep(FORMER_INTERVAL).await;
                }
                Some(_) => return Ok(stream.delete_consumer(&former).await?.success),
                None => return Ok(false),
            }
        }
    };
    match removed.await {
        Ok(false) => {}
        Ok(true) => tracing::info!(consumer = former, "removed the consumer of an earlier release"),
        // The server would refuse it each time, and each time it would be the connection's last error.
        Err(error) if broker.last_error().is_some_and(|said| said.contains(&former)) => {
            tracing::warn!(consumer = former, %error, "not permitted to remove the consumer of an earlier release: an operator has to");
            REFUSED.lock().insert(former);
        }
        Err(error) => {
            tracing::warn!(consumer = former, %error, "cannot remove the consumer of an earlier release");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const UNUSED_AFTER: Duration = Duration::from_secs(30);

    /// A consumer of this read model that was made a day ago, on which something last happened so many seconds ago.
    fn used(read_model: &str, seconds_ago: i64) -> Option<Seen> {
        seen(read_model, 86_400, Some(seconds_ago), 0)
    }

    fn seen(
        read_model: &str,
        made_ago: i64,
        used_ago: Option<i64>,
        num_waiting: usize,
    ) -> Option<Seen> {
        let time = |ago| Timestamp::from_unix_micros((NOW - ago) * 1_000_000).to_string();
        let metadata = match read_model {
            "" => json!({}),
            of => json!({ "nudge-read-model": of }),
        };
        let last = json!({ "consumer_seq": 7, "stream_seq": 7, "last_active": used_ago.map(time) });
        let info = json!({
            "stream_name": "CHANGES_store", "name": "search-store", "created": time(made_ago),
            "config": { "metadata": metadata, "ack_policy": "explicit", "deliver_policy": "all",
                        "replay_policy": "instant" },
            "delivered": last, "ack_floor": { "consumer_seq": 0, "stream_seq": 0 },
            "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": num_waiting, "num_pending": 0,
        });
        let at = Timestamp::from_unix_micros(NOW * 1_000_000);
        Some(Seen { info: Info::deserialize(&info).unwrap(), at })
    }

    #[test]
    fn a_name_is_chosen_so_that_nobody_loses_one() {
        use Choice::{AllInUse, Free, Ours, Unused};
        let pulls = || seen("other", 86_400, Some(3_600), 1);
        let fresh = || seen("other", 10, None, 0);
        for (what, seen, expected) in [
            ("nobody was here", vec![None, None], Free(0)),
            ("it has one", vec![pulls(), used("me", 86_000)], Ours(1)),
            ("its own before a free one", vec![None, used("me", 86_000)], Ours(1)),
            (
                "others pull, got something lately, or are new",
                vec![pulls(), used("a", 29), fresh()],
                AllInUse,
            ),
            ("a free one, not that of one that is away", vec![used("a", 3_600), None], Free(1)),
            (
                "the one that is away for longest",
                vec![pulls(), used("a", 31), used("b", 60), used("c", 45)],
                Unused(2),
            ),
            ("one that is away, if all others are there", vec![used("a", 30), pulls()], Unused(0)),
            ("one that is nobody's first", vec![used("a", 60), used("", 1), None], Unused(1)),
            ("unless somebody pulls from it", vec![seen("", 86_400, None, 1), None], Free(1)),
            ("made long ago and never used", vec![seen("a", 86_400, None, 0)], Unused(0)),
        ] {
            assert_eq!(choose(&seen, "me", UNUSED_AFTER), expected, "{what}");
        }
    }
}
