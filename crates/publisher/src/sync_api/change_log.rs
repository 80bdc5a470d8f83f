//! The route that tells what the change log and the stream hold of single entities.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use nudge_protocol::{
    EntityId, Object,
    admin::{
        ChangeLogAnswer, ChangeLogItem, ChangeLogRequest, MAX_CHANGE_LOG_IDS, StreamEnd,
        StreamMessage,
    },
    subject,
};
use nudge_runtime::{Problem, body::Json};

use super::{Api, no_store};
use crate::{
    budget::{Asker, AskerHeaders},
    sink::Looked,
};

/// Longest wait for the broker to say what the stream holds.
const STREAM_TIMEOUT: Duration = Duration::from_millis(500);

/// What the change log and the stream hold of up to 256 entities
///
/// For people and tools: no subscriber depends on it. It says for each ID, in order, which version the owner
/// has, whether that is published, and which notification stands in the stream.
#[utoipa::path(post, path = "/change-log", operation_id = "syncChangeLog", tag = "sync",
request_body = ChangeLogRequest, params(AskerHeaders), responses(
    (status = 200, description = "What they hold", body = ChangeLogAnswer),
))]
pub(super) async fn change_log(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Json(Object(ChangeLogRequest { ids })): Json<Object<ChangeLogRequest>>,
) -> Result<Response, Problem> {
    if !(1..=MAX_CHANGE_LOG_IDS).contains(&ids.len()) {
        let detail = format!("must contain 1 to {MAX_CHANGE_LOG_IDS} IDs");
        return Err(Problem::field("ids", detail));
    }
    api.budget.whole_turn(&asker, ids.len()).await?;
    // The log first: what is published in between then shows in the stream, and nothing seems to be lost from
    // it.
    let recorded = api.log.single(&ids).await?;
    let looked = api.look_up(&ids).await;
    let stream = looked.as_ref().map(|looked| StreamEnd { last_sequence: looked.last_seq });
    let messages = looked.map(|looked| api.messages(looked)).unwrap_or_default();
    let item = |id: EntityId| ChangeLogItem {
        recorded: recorded.get(&id).copied(),
        message: messages.get(&id).copied(),
        id,
    };
    let items = ids.into_iter().map(item).collect();
    Ok(no_store(axum::Json(ChangeLogAnswer { items, stream })))
}

impl Api {
    /// What stands in the stream for these IDs; `None` if the broker does not say so in time.
    async fn look_up(&self, ids: &[EntityId]) -> Option<Looked> {
        let (sink, entity) = (self.outlet.sink()?, self.log.entity());
        let mut subjects: Vec<_> = ids.iter().map(|id| subject::subject(entity, id)).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let looked = tokio::time::timeout(STREAM_TIMEOUT, sink.look_up(entity, subjects)).await;
        match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                tracing::debug!(%entity, %error, "the stream cannot be looked at");
                None
            }
            Err(_) => None,
        }
    }

    fn messages(&self, looked: Looked) -> HashMap<EntityId, StreamMessage> {
        let message = |stored: crate::sink::Stored| {
            let id = subject::decode_subject(self.log.entity(), &stored.subject).ok()?;
            let version = stored.version.and_then(|version| version.parse().ok());
            let (sequence, published_at) = (stored.sequence, stored.published_at);
            Some((id, StreamMessage { sequence, version, published_at }))
        };
        looked.stored.into_iter().filter_map(message).collect()
    }
}
