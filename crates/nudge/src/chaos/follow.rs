//! Polls subscribers: their status, and whether they answer readers.

use std::time::{Duration, Instant};

use nudge_protocol::{
    EntityId,
    admin::{EntityStatus, Status},
};
use reqwest::Method;

use super::{
    board::{Board, Follower, Gap},
    plan::Who,
    world::{Subscriber, World},
};
use crate::{
    client::Service,
    roles::{STATUS_PATH, metric},
};

/// Interval between polls of a status.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);
/// Interval between reads.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// Timeout of one poll. More than storefront gives those that it asks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Records how each subscriber is doing, and restarts programs that ended by themselves. Never returns.
pub(super) async fn watch(world: &World, board: &Board) {
    let subscribers = world.subscribers();
    loop {
        let failed_starts = world.revive().await;
        board.with(|state| state.failed_starts += failed_starts);
        let looks = subscribers.iter().map(Look::at);
        let looks = futures_util::future::join_all(looks).await;
        board.with(|state| {
            let followers = state.subscribers.iter_mut();
            followers.zip(looks).for_each(|(follower, look)| look.note(follower));
        });
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// The result of one poll of a subscriber.
#[derive(Debug)]
struct Look {
    /// How it follows stores.
    status: Option<EntityStatus>,
    callbacks: Option<u64>,
    asked: Option<u64>,
}

impl Look {
    async fn at(subscriber: &Subscriber<'_>) -> Self {
        let Subscriber { api, peer, .. } = *subscriber;
        let get = |path| api.request(Method::GET, peer, path).timeout(ANSWER_TIMEOUT);
        let status = api.json::<Status>(peer, get(STATUS_PATH)).await.ok();
        let store = |status: Status| {
            status.entities.into_iter().find(|status| status.entity.as_str() == "store")
        };
        let counters = async {
            let answer = api.expect(peer, get("/metrics")).await.ok()?;
            answer.text().await.ok()
        };
        let counters = counters.await.unwrap_or_default();
        Self {
            status: status.and_then(store),
            callbacks: metric(&counters, "nudge_callbacks_total", "store"),
            asked: metric(&counters, "nudge_asked_total", "store"),
        }
    }

    fn note(self, follower: &mut Follower) {
        self.callbacks.into_iter().for_each(|count| follower.callbacks.note(count));
        self.asked.into_iter().for_each(|count| follower.asked.note(count));
        follower.status = self.status;
    }
}

/// Reads a read model over and over, and records the longest time without an answer. Never returns.
pub(super) async fn read(subscriber: &Subscriber<'_>, board: &Board, place: usize) {
    let Subscriber { api, peer, who, .. } = *subscriber;
    let path = match who {
        Who::Demo(Service::Review) => {
            let id = EntityId::new("store-000").expect("a good id");
            format!("/stores/{id}/reviews")
        }
        Who::Demo(Service::Search | Service::StoreInfo) => "/stores?limit=1".to_owned(),
        // From search, which may be away: then from what it has itself.
        Who::Demo(Service::Storefront) => "/stores?source=search&limit=1".to_owned(),
        Who::Demo(Service::Favourites) => "/users/chaos/favourites".to_owned(),
        Who::Demo(Service::Ads) => "/ads".to_owned(),
        // What else it answers is not known here. It stays ready, whoever is away.
        Who::Guest(_) => "/readyz".to_owned(),
    };
    let mut gap = Gap::new(Instant::now());
    loop {
        let request = api.request(Method::GET, peer, &path).timeout(ANSWER_TIMEOUT);
        let answer = api.send(peer, request).await;
        // "Deleted" and "unknown" are answers, too.
        let good = answer.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 404 | 410));
        let longest = gap.note(Instant::now(), good);
        board.with(|state| state.subscribers[place].longest_gap = longest);
        tokio::time::sleep(READ_INTERVAL).await;
    }
}
