//! The events of a subscriber from a certain moment on.

use std::sync::Arc;

use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

/// See the module documentation.
pub struct Events {
    seen: Arc<Mutex<Vec<Value>>>,
    _task: AbortOnDropHandle<()>,
}

impl Events {
    /// Starts to watch the subscriber at this address.
    pub async fn of(url: &str) -> Self {
        let asked = Client::new().get(format!("{url}/nudge/v1/events")).send();
        let mut stream = asked.await.expect("an answer").bytes_stream();
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let note = seen.clone();
        let task = tokio::spawn(async move {
            let mut text = Vec::new();
            while let Some(Ok(chunk)) = stream.next().await {
                text.extend_from_slice(&chunk);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    if let Some(data) = line.strip_prefix(b"data: ") {
                        let event = serde_json::from_slice(data).expect("JSON");
                        note.lock().push(event);
                    }
                }
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// Whether there was an event that this version of this store was answered but not applied, because the read model
    /// had a newer one.
    pub fn ignored(&self, id: &str, version: u64) -> bool {
        let seen = self.seen.lock();
        seen.iter().any(|event| {
            event["kind"] == "ignored" && event["id"] == id && event["version"] == version
        })
    }
}
