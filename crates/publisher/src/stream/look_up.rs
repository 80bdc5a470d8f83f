//! Looks up many subjects at once: a direct get of the newest message on each (`multi_last`,
//! nats-server 2.11 and newer). async-nats has no call for it.

use std::time::Duration;

use futures_util::StreamExt;
use nudge_protocol::{EntityName, notification::VERSION_HEADER, subject};
use nudge_runtime::{BoxError, Broker};
use serde::Serialize;
use tokio::time::timeout;

use crate::sink::{Looked, Stored};

/// Longest wait for the next message of an answer. Requests without permission are not answered at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The statuses that end an answer, and that say that there is no message.
const END: u16 = 204;
const NOTHING: u16 = 404;

#[derive(Serialize)]
struct Request<'a> {
    multi_last: &'a [String],
}

/// `None` if the server is too old, if the stream allows no direct gets, if this client has no permission for them,
/// or if the stream has replicas: any of them may answer, and one may show what the leader has lost.
pub(super) async fn look_up(
    broker: &Broker,
    entity: &EntityName,
    subjects: Vec<String>,
) -> Result<Option<Looked>, BoxError> {
    let name = subject::stream_name(entity);
    let inbox = broker.client.new_inbox();
    let mut answers = broker.client.subscribe(inbox.clone()).await?;
    let request = serde_json::to_vec(&Request { multi_last: &subjects })?;
    let to = format!("$JS.API.DIRECT.GET.{name}");
    broker.client.publish_with_reply(to, inbox, request.into()).await?;
    let mut stored = Vec::with_capacity(subjects.len());
    loop {
        let Ok(answer) = timeout(ANSWER_TIMEOUT, answers.next()).await else {
            tracing::warn!(%entity, "subjects cannot be looked up in the stream: publishing again instead");
            return Ok(None);
        };
        let answer = answer.ok_or("the connection to the broker is closed")?;
        match answer.status.map(|status| status.as_u16()) {
            None | Some(200) => stored.push(read(&answer)?),
            Some(END | NOTHING) => break,
            Some(status) => {
                tracing::debug!(%entity, status, "the broker cannot look subjects up");
                return Ok(None);
            }
        }
    }
    let info = broker.jetstream.get_stream(&name).await?;
    let info = info.cached_info();
    let looked = Looked { last_seq: info.state.last_sequence, stored };
    Ok((info.config.num_replicas <= 1).then_some(looked))
}

/// One message of an answer: a direct get puts its sequence into headers.
fn read(message: &async_nats::Message) -> Result<Stored, BoxError> {
    let headers = message.headers.as_ref().ok_or("a message without a sequence")?;
    let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let sequence = header("Nats-Sequence").ok_or("a message without a sequence")?.parse()?;
    let subject = header("Nats-Subject").ok_or("a message without a subject")?;
    let published_at = header("Nats-Time-Stamp").and_then(|time| time.parse().ok());
    Ok(Stored { sequence, subject, version: header(VERSION_HEADER), published_at })
}
