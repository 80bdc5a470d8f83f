//! What happens to each key, as it happens.

use std::convert::Infallible;

use axum::{
    extract::State,
    response::sse::{self, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use nudge_protocol::admin::{Event, Missed};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::Api;

/// What happens to each key, as server-sent events
///
/// Of this replica. One JSON event in each `data:` line. A watcher that reads too slowly gets
/// `{"kind":"missed","count":n}`.
#[utoipa::path(get, path = "/events", operation_id = "events", tag = "subscriber", responses(
    (status = 200, description = "Events", body = Event, content_type = "text/event-stream"),
))]
pub(super) async fn events(
    State(shared): Api,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let receiver = shared.events.subscribe();
    let events = stream::unfold(receiver, |mut receiver| async {
        let data = match receiver.recv().await {
            Ok(event) => to_json(&*event),
            // The watcher read too slowly. It is told how much it missed.
            Err(RecvError::Lagged(missed)) => to_json(&Missed::new(missed)),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(sse::Event::default().data(data)), receiver))
    });
    // Without this an open watcher would hold up a graceful stop.
    let until_stop = events.take_until(shared.stop.clone().cancelled_owned());
    Sse::new(until_stop).keep_alive(KeepAlive::default())
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("events hold strings and numbers")
}
