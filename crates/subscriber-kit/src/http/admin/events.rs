//! A live stream of what happens to each key.

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

/// Watch what happens to each key, as server-sent events
///
/// Events of this replica only, each as JSON in one `data:` line. A client that reads too slowly gets
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
            // The client read too slowly; tell it how many events it missed.
            Err(RecvError::Lagged(missed)) => to_json(&Missed::new(missed)),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(sse::Event::default().data(data)), receiver))
    });
    // Without this, an open stream would hold up a graceful shutdown.
    let until_stop = events.take_until(shared.stop.clone().cancelled_owned());
    Sse::new(until_stop).keep_alive(KeepAlive::default())
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("events hold strings and numbers")
}
