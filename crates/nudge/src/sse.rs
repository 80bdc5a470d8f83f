//! Server-sent events: a pure parser, and a subscription that reconnects.

use std::{collections::VecDeque, time::Duration};

use reqwest::{Method, StatusCode, header};
use tokio::sync::mpsc;

use crate::{
    client::{Api, refusal},
    peers::Peer,
};

/// Path of a subscriber's event stream.
const EVENTS_PATH: &str = "/nudge/v1/events";
/// Pause before the first attempt to reconnect; doubles up to [`MAX_RECONNECT_DELAY`].
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(200);
/// Longest pause between two attempts.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);
/// A stream that is silent for this long, without even a keep-alive comment, is considered dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Longest line that is kept, in bytes; the rest of a longer one is dropped.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Most data of one event, in bytes. Further lines of it are dropped.
const MAX_EVENT_BYTES: usize = 256 * 1024;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The `event` field; empty means `message`.
    pub(crate) event: String,
    /// The `data` lines, joined by line feeds.
    pub(crate) data: String,
}

/// Parses a stream of bytes, however it is split. Memory is bounded.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    seen_data: bool,
    event: SseEvent,
    ready: VecDeque<SseEvent>,
}

impl Parser {
    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                // The second half of CR LF, perhaps in another chunk.
                b'\n' if after_cr => {}
                b'\n' => self.end_line(),
                b'\r' => {
                    self.after_cr = true;
                    self.end_line();
                }
                _ if self.line.len() < MAX_LINE_BYTES => self.line.push(byte),
                _ => {}
            }
        }
    }

    /// The next whole event.
    pub(crate) fn next_event(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // The standard says that an event without data is not dispatched.
            if std::mem::take(&mut self.seen_data) {
                self.ready.push_back(event);
            }
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field.trim_start_matches('\u{feff}') {
            "data" if self.event.data.len() + value.len() < MAX_EVENT_BYTES => {
                if std::mem::replace(&mut self.seen_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.event),
            // Comments (an empty field) keep the connection alive; `id` and `retry` are not used.
            _ => {}
        }
    }
}

/// What a subscription reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Connected; events follow.
    Up(Peer),
    /// Not connected, and why. Reported once per outage.
    Down(Peer, String),
    /// An event.
    Event(Peer, SseEvent),
}

/// Sends a service's events to `sender` for as long as someone receives them. Reconnects
/// whenever the stream ends.
pub(crate) async fn follow(api: Api, peer: Peer, sender: mpsc::Sender<Signal>) {
    let mut delay = MIN_RECONNECT_DELAY;
    let mut told_down = false;
    loop {
        let ended = follow_once(&api, peer, &sender).await;
        let Ended { was_up, reason } = ended;
        if was_up {
            (delay, told_down) = (MIN_RECONNECT_DELAY, false);
        }
        if !std::mem::replace(&mut told_down, true)
            && sender.send(Signal::Down(peer, reason)).await.is_err()
        {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = sender.closed() => return,
        }
        delay = (delay * 2).min(MAX_RECONNECT_DELAY);
    }
}

struct Ended {
    was_up: bool,
    reason: String,
}

async fn follow_once(api: &Api, peer: Peer, sender: &mpsc::Sender<Signal>) -> Ended {
    let ended = |was_up, reason: String| Ended { was_up, reason };
    let request = api
        .long_request(Method::GET, peer, EVENTS_PATH)
        .header(header::ACCEPT, "text/event-stream");
    let mut response = match api.send(peer, request).await {
        Ok(response) if response.status() == StatusCode::OK => response,
        Ok(response) => return ended(false, refusal(peer, response).await.to_string()),
        Err(failure) => return ended(false, failure.to_string()),
    };
    if sender.send(Signal::Up(peer)).await.is_err() {
        return ended(true, String::new());
    }
    let mut parser = Parser::default();
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(SILENCE_LIMIT, response.chunk()) => chunk,
            () = sender.closed() => return ended(true, String::new()),
        };
        match chunk {
            Ok(Ok(Some(bytes))) => parser.push(&bytes),
            Ok(Ok(None) | Err(_)) => {
                return ended(true, format!("{} closed its event stream", peer.name()));
            }
            Err(_) => return ended(true, format!("{} went silent", peer.name())),
        }
        while let Some(event) = parser.next_event() {
            if sender.send(Signal::Event(peer, event)).await.is_err() {
                return ended(true, String::new());
            }
        }
    }
}

#[cfg(test)]
mod tests;
