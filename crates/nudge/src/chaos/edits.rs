//! Edits of stores, and what both owners answer to writes.

use std::{sync::Arc, time::Duration};

use nudge_chance::Random;
use nudge_testbed::{
    compare::Newest,
    edits::{Edit, store_id},
};
use parking_lot::Mutex;
use reqwest::{Method, Response};
use serde_json::Value;
use tokio::time::Instant;

use super::{plan::Plan, world::World};
use crate::client::{Service, store_path, write_token};

/// Random stream that edits are drawn from.
const STREAM: u64 = 2;
/// Stores that are edited at a time. They change throughout the run, so that each store's last
/// edit comes at a different time: otherwise a later edit would soon make up for a lost change.
const AT_A_TIME: u64 = 60;
/// Longest wait for an answer: the owner may be frozen.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before an edit is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// What was written.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// Edits of stores that were answered, and how many of them changed something.
    pub(super) made: u64,
    pub(super) changes: u64,
    /// Reviews that were written, rewritten and deleted.
    pub(super) reviews: u64,
    /// What owners must not forget.
    pub(super) newest: Newest,
}

impl Written {
    /// Notes what an owner answered to a write. Returns whether it was a change.
    pub(super) fn note(&mut self, answer: &Response) -> bool {
        let Some(token) = write_token(answer) else { return false };
        let newest = self.newest.entry((token.entity, token.id)).or_default();
        let newer = token.version.get() > *newest;
        *newest = token.version.get().max(*newest);
        newer
    }
}

/// All edits of a plan, in their order.
pub(super) fn edits(plan: &Plan) -> impl Iterator<Item = Edit> + use<> {
    let mut random = Random::stream(plan.seed, STREAM);
    let (count, stores) = (plan.edits(), plan.stores);
    let at_a_time = AT_A_TIME.min(stores);
    (0..count).map(move |n| {
        let first = n * (stores - at_a_time + 1) / count;
        let id = store_id(first + random.below(at_a_time));
        Edit::by_chance(&mut random, id)
    })
}

/// Makes all edits of a plan, each when it is due or as soon after as the owner answers. Edits
/// not made by `deadline` are a surprise.
pub(super) async fn write(
    world: &World,
    plan: &Plan,
    start: Instant,
    deadline: Instant,
    written: &Arc<Mutex<Written>>,
) {
    for (n, edit) in edits(plan).enumerate() {
        tokio::time::sleep_until(start + Duration::from_millis(n as u64 * plan.edit_every_millis))
            .await;
        let carried_out = carry_out(world, n, &edit, written);
        if tokio::time::timeout_at(deadline, carried_out).await.is_err() {
            let left = plan.edits() - n as u64;
            world.surprise(format!("store-info did not take {left} edits in time"));
            return;
        }
    }
}

/// An edit without an answer may have been carried out all the same, which only the owner knows.
async fn carry_out(world: &World, n: usize, edit: &Edit, written: &Arc<Mutex<Written>>) {
    let Edit { id, method, body } = edit;
    let path = store_path(id).expect("no id of ours is a dot");
    let answer = answered(world, Service::StoreInfo, n, method.clone(), &path, body.as_ref()).await;
    match answer.status().as_u16() {
        200..300 | 404 | 410 => {
            let mut written = written.lock();
            written.made += 1;
            let changed = written.note(&answer);
            written.changes += u64::from(changed);
        }
        status => world.surprise(format!("{method} {id}: store-info answered {status}")),
    }
}

/// Tries one replica after the other until one answers with anything but a failure of its own; the n-th request begins with
/// the n-th.
pub(super) async fn answered(
    world: &World,
    service: Service,
    n: usize,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Response {
    for api in world.apis.iter().cycle().skip(n % world.apis.len()) {
        let owner = api.of(service);
        let mut request = api.request(method.clone(), owner, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = api.send(owner, request.timeout(ANSWER_TIMEOUT)).await;
        if let Ok(answer) = answer
            && answer.status().as_u16() < 500
        {
            return answer;
        }
        tokio::time::sleep(AGAIN).await;
    }
    unreachable!("the replicas never come to an end")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use reqwest::Method;

    use super::*;
    use crate::chaos::plan::Databases;

    #[test]
    fn a_plan_has_the_same_edits_each_time_and_another_seed_has_others() {
        let all =
            |seed| edits(&Plan::generate(seed, 60_000, Databases::Sqlite, 1)).collect::<Vec<_>>();
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        assert_eq!(all(1).len() as u64, Plan::generate(1, 60_000, Databases::Sqlite, 1).edits());
    }

    #[test]
    fn edits_reach_nearly_every_store_and_leave_most_alone_before_the_end() {
        let plan = Plan::generate(1, 60_000, Databases::Sqlite, 1);
        let all: Vec<_> = edits(&plan).collect();
        let ids = |edits: &[Edit]| edits.iter().map(|e| e.id.clone()).collect::<BTreeSet<_>>();
        assert!(ids(&all).len() as u64 >= plan.stores * 9 / 10);
        let half = all.len() / 2;
        let (first, second) = (ids(&all[..half]), ids(&all[half..]));
        assert!(first.difference(&second).count() >= 100, "their last edit is in the first half");
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(all.iter().filter(|edit| edit.method == method).count() > all.len() / 10);
        }
    }

    #[test]
    fn a_plan_of_one_store_has_edits_too() {
        let plan = Plan { stores: 1, ..Plan::generate(1, 60_000, Databases::Sqlite, 1) };
        assert_eq!(edits(&plan).map(|edit| edit.id).collect::<BTreeSet<_>>().len(), 1);
    }
}
