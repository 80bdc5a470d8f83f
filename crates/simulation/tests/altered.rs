//! A stream that others have altered at the broker, for an hour of virtual time: nothing is done again and again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use nudge_protocol::EntityName;
use nudge_publisher::{
    RelayHealth,
    sink::{Altered, Asking, Looked, Message, Sink, Stored, StreamInfo},
};
use nudge_simulation::ports::SimulatedOwner;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

const ENTITIES: usize = 73;
const HOUR: Duration = Duration::from_secs(3_600);
/// Longer than it takes until the relay looks at its stream.
const LOOK: Duration = Duration::from_secs(6);

/// A stream, and what is wrong with it.
struct Stream {
    /// The messages that stand in it, by their places.
    messages: Mutex<BTreeMap<u64, Message>>,
    /// How many it keeps.
    room: AtomicUsize,
    /// Whether it takes nothing.
    refuses: AtomicBool,
    /// Whether it is altered back when that is asked for.
    can_be_mended: AtomicBool,
    altered: AtomicBool,
    published: AtomicUsize,
    mends: AtomicUsize,
    connections: watch::Sender<u64>,
}

impl Stream {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            messages: Mutex::default(),
            room: AtomicUsize::new(usize::MAX),
            refuses: AtomicBool::new(false),
            can_be_mended: AtomicBool::new(false),
            altered: AtomicBool::new(false),
            published: AtomicUsize::new(0),
            mends: AtomicUsize::new(0),
            connections: watch::Sender::new(1),
        })
    }

    fn take(&self, message: Message) -> u64 {
        let mut messages = self.messages.lock();
        messages.retain(|_, one| one.subject != message.subject);
        let place = self.published.load(SeqCst) as u64;
        messages.insert(place, message);
        while messages.len() > self.room.load(SeqCst) {
            messages.pop_first();
        }
        place
    }
}

impl Sink for Stream {
    fn ensure<'a>(&'a self, _: &'a EntityName) -> Asking<'a, StreamInfo> {
        let what = || "max_msgs is 20, not -1".to_owned();
        let info = StreamInfo {
            created: "once".to_owned(),
            last_seq: self.published.load(SeqCst) as u64,
            messages: self.messages.lock().len() as u64,
            server: Some("always the same".to_owned()),
            altered: self.altered.load(SeqCst).then(|| Altered { what: what(), loses: true }),
        };
        Box::pin(async { Ok(info) })
    }

    fn mend<'a>(&'a self, _: &'a EntityName) -> Asking<'a, Option<String>> {
        self.mends.fetch_add(1, SeqCst);
        let refused = !self.can_be_mended.load(SeqCst);
        if !refused {
            self.room.store(usize::MAX, SeqCst);
            self.altered.store(false, SeqCst);
        }
        Box::pin(async move { Ok(refused.then(|| "no right".to_owned())) })
    }

    fn publish<'a>(&'a self, _: &'a EntityName, message: Message) -> Asking<'a, u64> {
        let refuses = self.refuses.load(SeqCst);
        self.published.fetch_add(1, SeqCst);
        let taken = if refuses { Err("it is full".into()) } else { Ok(self.take(message)) };
        Box::pin(async { taken })
    }

    fn beyond<'a>(
        &'a self,
        _: &'a EntityName,
        sequence: u64,
        limit: usize,
    ) -> Asking<'a, Vec<Stored>> {
        let messages = self.messages.lock();
        let beyond = messages.range(sequence + 1..).take(limit);
        let stored = beyond.map(|(sequence, message)| Stored {
            sequence: *sequence,
            subject: message.subject.clone(),
            version: Some(message.version.clone()),
        });
        let stored = stored.collect();
        Box::pin(async { Ok(stored) })
    }

    fn look_up<'a>(
        &'a self,
        _: &'a EntityName,
        subjects: Vec<String>,
    ) -> Asking<'a, Option<Looked>> {
        let messages = self.messages.lock();
        let wanted = messages.iter().filter(|(_, message)| subjects.contains(&message.subject));
        let stored = wanted.map(|(sequence, message)| Stored {
            sequence: *sequence,
            subject: message.subject.clone(),
            version: Some(message.version.clone()),
        });
        let stored = stored.collect();
        let last_seq = self.published.load(SeqCst) as u64;
        Box::pin(async move { Ok(Some(Looked { last_seq, stored })) })
    }

    fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    fn is_connected(&self) -> bool {
        true
    }
}

/// An owner whose relay publishes to the stream, and has looked at it.
async fn owner(stream: &Arc<Stream>) -> SimulatedOwner {
    let owner = SimulatedOwner::new(7, &EntityName::new("thing").unwrap()).await;
    owner.write((0..ENTITIES).map(|n| (format!("thing-{n}"), Some(json!({}))))).await;
    owner.spawn_relay_to(stream.clone(), CancellationToken::new());
    sleep(LOOK).await;
    owner
}

/// What is published in the next hour.
async fn published_in_an_hour(stream: &Stream) -> usize {
    let before = stream.published.load(SeqCst);
    sleep(HOUR).await;
    stream.published.load(SeqCst) - before
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_drops_what_it_acknowledged_is_filled_up_ever_more_seldom() {
    let stream = Stream::new();
    let owner = owner(&stream).await;
    assert_eq!(published_in_an_hour(&stream).await, 0);
    stream.room.store(20, SeqCst);
    stream.messages.lock().retain(|place, _| *place > (ENTITIES - 20) as u64);
    // After 0, 5, 15, 35, 75, 155, 315 and 635 s, then every 600 s.
    let published = published_in_an_hour(&stream).await;
    assert!((9..=14).contains(&published.div_ceil(ENTITIES)), "{published}");
    // What changes waits for none of it.
    owner.write([("fresh".to_owned(), Some(json!({})))]).await;
    sleep(LOOK).await;
    let is_there = stream.messages.lock().values().any(|one| one.subject.ends_with(".fresh"));
    assert!(is_there);
    // Once nothing is dropped any more, it is filled up.
    stream.room.store(usize::MAX, SeqCst);
    sleep(HOUR).await;
    assert_eq!(stream.messages.lock().len(), ENTITIES + 1);
    assert_eq!(published_in_an_hour(&stream).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_refuses_what_is_published_is_asked_ever_more_seldom() {
    let stream = Stream::new();
    stream.refuses.store(true, SeqCst);
    let owner = owner(&stream).await;
    let told = owner.health();
    assert!(!told.connected && told.broker_connected && told.pending == ENTITIES as u64);
    let rounds = published_in_an_hour(&stream).await / ENTITIES;
    assert!((100..=450).contains(&rounds), "every 8 s: {rounds}");
    stream.refuses.store(false, SeqCst);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(stream.messages.lock().len(), ENTITIES);
    assert!(owner.health().connected);
}

#[tokio::test(start_paused = true)]
async fn an_alteration_that_stays_is_named_and_fought_over_ever_more_seldom() {
    let stream = Stream::new();
    stream.altered.store(true, SeqCst);
    let owner = owner(&stream).await;
    let RelayHealth { altered, connected, .. } = owner.health();
    assert!(altered && connected);
    let before = stream.mends.load(SeqCst);
    assert_eq!(published_in_an_hour(&stream).await, 0);
    let mends = stream.mends.load(SeqCst) - before;
    assert!((5..=12).contains(&mends), "{mends}");
    stream.can_be_mended.store(true, SeqCst);
    sleep(Duration::from_secs(660)).await;
    assert!(!owner.health().altered);
}

/// It holds as many messages as it should.
#[tokio::test(start_paused = true)]
async fn what_a_stream_took_while_it_was_altered_is_published_again_once() {
    let stream = Stream::new();
    stream.can_be_mended.store(true, SeqCst);
    let owner = owner(&stream).await;
    let before = stream.published.load(SeqCst);
    stream.altered.store(true, SeqCst);
    sleep(LOOK).await;
    assert!(!owner.health().altered);
    assert_eq!(stream.published.load(SeqCst) - before, ENTITIES);
    assert_eq!(published_in_an_hour(&stream).await, 0);
    assert_eq!(stream.mends.load(SeqCst), 1);
}
