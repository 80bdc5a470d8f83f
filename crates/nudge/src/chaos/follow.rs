//! Looks at subscribers all the time: what they tell of themselves, and whether they answer readers.

use std::time::{Duration, Instant};

use nudge_protocol::EntityId;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::{
    board::{Board, Gap},
    world::World,
};
use crate::{
    client::{Api, Service},
    commands::status::{EntityStatus, STATUS_PATH},
};

/// Time between two looks at a status.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two reads.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// What one look may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Status {
    entities: Vec<Value>,
}

/// Notes how each subscriber is doing, and starts again what ended by itself. Goes on for ever.
pub(super) async fn watch(world: &World, board: &Board) {
    loop {
        let failed_starts = world.revive().await;
        board.with(|state| state.failed_starts += failed_starts);
        let looks = Service::SUBSCRIBERS.map(|service| status(&world.api, service));
        for (place, status) in futures_util::future::join_all(looks).await.into_iter().enumerate() {
            board.with(|state| {
                let follower = &mut state.subscribers[place];
                if let Some((_, callbacks)) = status {
                    follower.callbacks.note(callbacks);
                }
                follower.status = status.map(|(status, _)| status);
            });
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// How a subscriber follows stores, and its calls to the owner.
async fn status(api: &Api, service: Service) -> Option<(EntityStatus, u64)> {
    let request = api.request(Method::GET, service, STATUS_PATH).timeout(ANSWER_TIMEOUT);
    let status: Status = api.json(service, request).await.ok()?;
    let store = status.entities.into_iter().find(|status| status["entity"] == "store")?;
    let callbacks = store["callbacks"].as_u64()?;
    Some((serde_json::from_value(store).ok()?, callbacks))
}

/// Reads a read model again and again, and notes the longest time without an answer. Goes on for ever.
pub(super) async fn read(world: &World, board: &Board, place: usize) {
    let service = Service::SUBSCRIBERS[place];
    let path = match service {
        Service::Review => {
            let id = EntityId::new("store-000").expect("a good id");
            format!("/stores/{id}/reviews")
        }
        _ => "/stores?limit=1".to_owned(),
    };
    let mut gap = Gap::new(Instant::now());
    loop {
        let request = world.api.request(Method::GET, service, &path).timeout(ANSWER_TIMEOUT);
        let answer = world.api.send(service, request).await;
        // That a store is deleted or unknown is an answer too.
        let good = answer.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 404 | 410));
        let longest = gap.note(Instant::now(), good);
        board.with(|state| state.subscribers[place].longest_gap = longest);
        tokio::time::sleep(READ_INTERVAL).await;
    }
}
