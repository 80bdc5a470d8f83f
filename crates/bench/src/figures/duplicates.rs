//! Thousands of messages that were delivered and applied before: how many callbacks they cost, and whether anything is written.

use async_nats::HeaderMap;
use futures_util::{StreamExt, TryStreamExt, stream::iter};
use nudge_protocol::{EntityId, EntityName, subject};
use nudge_runtime::BoxError;

use super::{Bench, OURS};
use crate::{
    report::{Aim, Figure},
    subscriber::Subscriber,
    thing::{ENTITY, id},
};

pub(super) const NAME: &str = "duplicates";
/// Things whose messages are sent again, and how many times.
const THINGS: usize = 1_000;
const TIMES: usize = 10;
/// Messages on their way at a time.
const IN_FLIGHT: usize = 256;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BoxError> {
    let kind = bench.kind();
    let title = "callbacks per 100 duplicates";
    let mut callbacks = Figure::new(NAME, title, kind, "", vec![Aim::at_most(2.0, None)]);
    let title = "writes per 100 duplicates";
    let mut writes = Figure::new(NAME, title, kind, "", vec![Aim::at_most(0.0, None)]);
    let title = "duplicates delivered";
    let mut delivered = Figure::new(NAME, title, kind, "", Vec::new());
    let messages = messages(bench).await?;
    let jetstream = bench.world.jetstream().await;
    bench
        .rounds(NAME, async |_| {
            let subscriber = Subscriber::start(&bench.world, &bench.owner, "copies").await?;
            subscriber.caught_up(bench.things).await?;
            let before = subscriber.settled(&bench.world).await?;
            let counted = async |name| subscriber.metric(name).await;
            let asked = counted("nudge_callbacks_total").await?;
            let applied = counted("nudge_applied_total").await?;
            let again = messages.iter().cycle().take(messages.len() * TIMES);
            let send = async |(subject, headers, body): &(String, HeaderMap, Vec<u8>)| {
                let (subject, body) = (subject.clone(), body.clone().into());
                let sent = jetstream.publish_with_headers(subject, headers.clone(), body);
                sent.await?.await?;
                Ok::<_, BoxError>(())
            };
            iter(again).map(send).buffered(IN_FLIGHT).try_collect::<Vec<_>>().await?;
            // Of those that waited together at the broker, only the last is delivered.
            let received = subscriber.settled(&bench.world).await? - before;
            if received == 0 {
                return Err("no duplicate was delivered".into());
            }
            delivered.add(OURS, received as f64);
            let each = |count: u64| count as f64 / received as f64 * 100.0;
            callbacks.add(OURS, each(counted("nudge_callbacks_total").await? - asked));
            writes.add(OURS, each(counted("nudge_applied_total").await? - applied));
            subscriber.stop(&bench.world).await
        })
        .await?;
    Ok(vec![callbacks, writes, delivered])
}

/// The messages of some things, as the owner published them.
async fn messages(bench: &Bench<'_>) -> Result<Vec<(String, HeaderMap, Vec<u8>)>, BoxError> {
    let (stream, entity) = (bench.world.stream().await?, EntityName::new(ENTITY)?);
    let mut messages = Vec::new();
    for n in 0..bench.some(THINGS) {
        let subject = subject::subject(&entity, &EntityId::new(&id(n))?);
        let message = stream.get_last_raw_message_by_subject(&subject).await?;
        // What they tell the server would keep it from storing the message again.
        let headers =
            message.headers.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-"));
        let mut kept = HeaderMap::new();
        for (name, values) in headers {
            values.iter().for_each(|value| kept.append(name.clone(), value.clone()));
        }
        messages.push((subject, kept, message.payload.to_vec()));
    }
    Ok(messages)
}
