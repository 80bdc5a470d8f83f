//! Which of the names of a service's consumers is this read model's.
//!
//! The names are fixed, so that a permission at NATS can grant them; the identity of the read model is in the consumer's
//! metadata. An original and a copy of it beside it take different names. A name whose read model is not in use any
//! more is taken over: the consumer is deleted and created anew, so it delivers everything that is in the stream. What
//! one read model has acknowledged thus never counts as handled by another.

use std::time::Duration;

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
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    consumer::{read_model_of, wanted},
    source::Durable,
};

/// Pause between the two looks at a consumer before it is taken over. One that is in use pulls again at once after a
/// pull has expired, so at most one of them finds it without a pull.
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
                tokio::time::sleep(BETWEEN_LOOKS).await;
                let before = seen[chosen].as_ref().map(|seen| seen.info.created);
                let now = find(broker, of, &names[chosen]).await?;
                let same = now.as_ref().map(|now| now.info.created) == before;
                if !same || now.is_some_and(|now| now.is_in_use(unused_after)) {
                    continue;
                }
                let consumer = &names[chosen];
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

/// Pure.
fn choose(seen: &[Option<Seen>], read_model: &str, unused_after: Duration) -> Choice {
    let is_ours = |seen: &Option<Seen>| {
        seen.as_ref().and_then(|seen| read_model_of(&seen.info.config)) == Some(read_model)
    };
    if let Some(ours) = seen.iter().position(is_ours) {
        return Choice::Ours(ours);
    }
    let choice = seen.iter().enumerate().find_map(|(place, seen)| match seen {
        None => Some(Choice::Free(place)),
        // Also one that names none: nobody knows what was acknowledged there, and by whom.
        Some(other) => (!other.is_in_use(unused_after)).then_some(Choice::Unused(place)),
    });
    choice.unwrap_or(Choice::AllInUse)
}

impl Seen {
    /// Whether somebody waits for its messages or has got or acknowledged one lately, or it is so new that its creator
    /// may not have asked for any yet. One that names no read model was made by a tool of an operator, so only who waits
    /// counts.
    fn is_in_use(&self, unused_after: Duration) -> bool {
        let Info { created, delivered, ack_floor, num_waiting, config, .. } = &self.info;
        if read_model_of(config).is_none() {
            return *num_waiting > 0;
        }
        let last = [Some(*created), delivered.last_active, ack_floor.last_active];
        let lately = |time: DateTime| {
            let since = self.at.seconds_since(timestamp(time));
            since < unused_after.as_secs_f64()
        };
        *num_waiting > 0 || last.into_iter().flatten().any(lately)
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
        Err(error) => {
            tracing::warn!(consumer = former, %error, "cannot remove the consumer of an earlier release");
        }
    }
}
