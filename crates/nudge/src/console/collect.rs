//! Collects for the pages, once for all of them and only while one looks: what subscribers tell, and, every second, how
//! each service is.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    http::{HeaderMap, StatusCode},
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use nudge_runtime::Problem;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Console, view::View};
use crate::{
    commands::watch::event::{self, Told},
    sse::{Signal, follow},
};

/// Most pages that can look at a time.
const MAX_WATCHERS: usize = 32;
/// Least time between two frames: ten a second are as many as anybody can see.
const FRAME_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two looks at the services.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);
/// Most events that wait to be folded; beyond that, the subscribers' streams wait.
const MAX_WAITING_EVENTS: usize = 4_096;

/// How many may look at a time.
pub(super) fn watchers() -> tokio::sync::Semaphore {
    tokio::sync::Semaphore::new(MAX_WATCHERS)
}

/// `GET /api/stream`: frames, each with an ID, so that a page that comes back with `Last-Event-ID` gets what it has not
/// seen.
pub(super) async fn stream(
    Extension(console): Extension<Console>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Problem> {
    let Ok(permit) = console.watchers.clone().try_acquire_owned() else {
        let detail = format!("at most {MAX_WATCHERS} pages can look at a time");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let collector = console.clone();
    let start = || AbortOnDropHandle::new(tokio::spawn(collect(collector)));
    let look = console.feed.look(last, start);
    let frames = stream::unfold((look, permit), |(mut look, permit)| async {
        let frame = look.next().await?;
        let event = Event::default().id(&frame.id).data(&frame.text);
        Some((Ok(event), (look, permit)))
    });
    Ok(Sse::new(frames.take_until(Box::pin(console.ended()))).keep_alive(KeepAlive::default()))
}

async fn collect(console: Console) {
    let (sender, mut signals) = mpsc::channel(MAX_WAITING_EVENTS);
    let fold = async {
        let mut waiting = Vec::new();
        while signals.recv_many(&mut waiting, MAX_WAITING_EVENTS).await > 0 {
            for signal in waiting.drain(..) {
                take(&console, signal);
            }
        }
    };
    let send = async {
        let mut ticks = interval(FRAME_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            console.feed.send();
        }
    };
    tokio::join!(fold, send, look(&console, sender));
}

fn take(console: &Console, signal: Signal) {
    match signal {
        Signal::Up(peer) => console.feed.change(|board| board.link(peer.name(), true)),
        Signal::Down(peer, _) => console.feed.change(|board| board.link(peer.name(), false)),
        Signal::Event(peer, line) => match event::read(&line.data) {
            Some(Told::Event(event)) => {
                console.feed.change(|board| board.event(peer.name(), event))
            }
            Some(Told::Missed(count)) => {
                console.feed.change(|board| board.missed(peer.name(), count))
            }
            None => {}
        },
    }
}

/// Looks at every service again and again, and follows the events of those that are found to be subscribers.
async fn look(console: &Console, events: mpsc::Sender<Signal>) {
    let mut ticks = interval(VIEW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut followed = HashSet::new();
    let mut earlier: Option<(Instant, View)> = None;
    loop {
        ticks.tick().await;
        let mut view = console.view().await;
        let now = Instant::now();
        for service in view.services.iter().filter(|one| one.answers && one.is_subscriber) {
            if followed.insert(service.peer) {
                // It ends when nobody receives any more.
                tokio::spawn(follow(console.api.clone(), service.peer, events.clone()));
            }
        }
        if let Some((then, earlier)) = &earlier {
            view.compute_rates(earlier, now.duration_since(*then).as_secs_f64());
        }
        let first = earlier.replace((now, view.clone())).is_none();
        console.feed.change(|board| board.view(view));
        if first {
            // A page that was just opened has nothing to show before.
            console.feed.send();
        }
    }
}
