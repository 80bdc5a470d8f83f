//! Reviews of the stores that are edited, at random from the seed: what storefront follows besides stores.

use std::{sync::Arc, time::Duration};

use nudge_chance::Random;
use nudge_protocol::{EntityId, subject};
use nudge_testbed::edits::store_id;
use parking_lot::Mutex;
use reqwest::{Method, header};
use serde_json::json;
use tokio::time::Instant;

use super::{
    edits::{Written, answered},
    plan::Plan,
    world::World,
};
use crate::client::Service;

/// Random stream that they are drawn from.
const STREAM: u64 = 3;
/// Edits of stores from one to the next.
const EDITS_APART: u64 = 3;

/// Something done to reviews.
#[derive(Clone, Debug, PartialEq)]
enum Doing {
    /// Of a store, which may be closed or deleted: then it is refused.
    Write(EntityId),
    /// Of those written, the one at this place, counted round.
    Rewrite(usize),
    Delete(usize),
}

impl Doing {
    fn by_chance(random: &mut Random, stores: u64) -> Self {
        let place = random.below(1 << 32) as usize;
        match random.below(10) {
            0..6 => Self::Write(store_id(place as u64 % stores)),
            6..8 => Self::Rewrite(place),
            _ => Self::Delete(place),
        }
    }

    /// Its request, unless no review was written yet.
    fn request(&self, written: &[String]) -> Option<(Method, String)> {
        let at = |place: usize| written.get(place.checked_rem(written.len())?).cloned();
        match self {
            Self::Write(store) => {
                Some((Method::POST, format!("/stores/{}/reviews", subject::encode_token(store))))
            }
            Self::Rewrite(place) => Some((Method::PUT, at(*place)?)),
            Self::Delete(place) => Some((Method::DELETE, at(*place)?)),
        }
    }
}

/// Writes reviews as long as stores are edited, each when it is due or as soon after as review answers.
pub(super) async fn write(
    world: &World,
    plan: &Plan,
    start: Instant,
    deadline: Instant,
    written: &Arc<Mutex<Written>>,
) {
    let mut random = Random::stream(plan.seed, STREAM);
    let pause = Duration::from_millis(plan.edit_every_millis * EDITS_APART);
    let mut paths = Vec::new();
    let count = plan.edits() / EDITS_APART;
    for n in 0..count {
        tokio::time::sleep_until(start + pause * n as u32).await;
        // Of the stores that were edited by now.
        let doing = Doing::by_chance(&mut random, (plan.stores * n / count).max(1));
        let rating = random.between(1, 5);
        let Some((method, path)) = doing.request(&paths) else { continue };
        let body = json!({"rating": rating, "text": format!("맛있어요 {n}"), "author": "달빛"});
        let body = (method != Method::DELETE).then_some(&body);
        let answer = answered(world, Service::Review, n as usize, method.clone(), &path, body);
        let Ok(answer) = tokio::time::timeout_at(deadline, answer).await else {
            return world.surprise("review did not take all reviews in time".to_owned());
        };
        match answer.status().as_u16() {
            200..300 => {
                let mut written = written.lock();
                written.reviews += 1;
                written.note(&answer);
            }
            // As the store or the review stands just now.
            404 | 409 | 410 => continue,
            status => world.surprise(format!("{method} {path}: review answered {status}")),
        }
        let location = answer.headers().get(header::LOCATION);
        paths.extend(location.and_then(|path| path.to_str().ok()).map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_written_rewritten_and_deleted_once_there_are_some() {
        let mut random = Random::stream(1, STREAM);
        let all: Vec<_> = (0..100).map(|_| Doing::by_chance(&mut random, 30)).collect();
        let none = all.iter().filter(|doing| doing.request(&[]).is_some());
        assert!(none.clone().all(|doing| matches!(doing, Doing::Write(_))) && none.count() > 40);
        let written = ["/reviews/1".to_owned(), "/reviews/2".to_owned()];
        let requests: Vec<_> = all.iter().map(|doing| doing.request(&written).unwrap()).collect();
        for method in [Method::PUT, Method::DELETE] {
            for path in &written {
                assert!(requests.contains(&(method.clone(), path.clone())), "{method} {path}");
            }
        }
    }
}
