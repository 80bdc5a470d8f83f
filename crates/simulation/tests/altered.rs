//! A stream that others have altered at the broker, for an hour of virtual time: nothing is done again and again.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use nudge_protocol::EntityName;
use nudge_publisher::RelayHealth;
use nudge_simulation::ports::SimulatedOwner;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::stream::Stream;

const ENTITIES: usize = 73;
const HOUR: Duration = Duration::from_secs(3_600);
/// Longer than it takes until the relay looks at its stream.
const LOOK: Duration = Duration::from_secs(6);

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
