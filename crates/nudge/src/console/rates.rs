//! What flowed per second: the difference of two looks. Pure.

use super::view::{Followed, Owned, PerSecond, Totals, View};

impl View {
    /// Computes what flowed per second since an earlier look. A counter that went down belongs to a service that was
    /// started again: nothing is said of it.
    pub(super) fn compute_rates(&mut self, earlier: &Self, seconds: f64) {
        for service in &mut self.services {
            let Some(before) = earlier.services.iter().find(|one| one.peer == service.peer) else {
                continue;
            };
            for owned in &mut service.owns {
                let of = |one: &&Owned| one.relay.entity == owned.relay.entity;
                let before = before.owns.iter().find(of).and_then(|one| one.relay.published);
                owned.published_per_second = per_second(before, owned.relay.published, seconds);
            }
            for followed in &mut service.follows {
                let of = |one: &&Followed| one.entity == followed.entity;
                let before = before.follows.iter().find(of).map(|one| one.totals);
                followed.per_second =
                    before.and_then(|before| followed.totals.since(before, seconds));
            }
        }
    }
}

impl Totals {
    fn since(self, before: Self, seconds: f64) -> Option<PerSecond> {
        let rate = |before, now| per_second(Some(before), Some(now), seconds);
        Some(PerSecond {
            received: rate(before.received, self.received)?,
            callbacks: rate(before.callbacks, self.callbacks)?,
            fetched: rate(before.fetched, self.fetched)?,
            applied: rate(before.applied, self.applied)?,
        })
    }
}

fn per_second(before: Option<u64>, now: Option<u64>, seconds: f64) -> Option<f64> {
    let more = now?.checked_sub(before?)?;
    (seconds > 0.0).then(|| more as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{console::view::ServiceView, peers::Peer};

    #[test]
    fn a_rate_is_of_one_run_of_a_service() {
        assert_eq!(per_second(Some(10), Some(30), 2.0), Some(10.0));
        assert_eq!(per_second(Some(10), Some(9), 2.0), None, "it was started again");
        assert_eq!(per_second(None, Some(9), 2.0), None);
        assert_eq!(per_second(Some(1), Some(9), 0.0), None);
    }

    #[test]
    fn rates_belong_to_the_entity_of_the_service() {
        let peer = Peer::new("map", "http://127.0.0.1:1");
        let view = |received, callbacks| {
            let totals = Totals { received, callbacks, ..Totals::default() };
            let of = |entity: &str, totals| Followed {
                entity: entity.into(),
                totals,
                ..Followed::default()
            };
            let follows = vec![of("other", Totals::default()), of("station", totals)];
            let (name, url) = (peer.name(), peer.url());
            let service = ServiceView {
                peer,
                name,
                url,
                answers: true,
                owns: vec![],
                follows,
                is_subscriber: true,
            };
            View { services: vec![service], ..View::default() }
        };
        let mut now = view(120, 14);
        now.compute_rates(&view(100, 10), 2.0);
        let rates: Vec<_> =
            now.services[0].follows.iter().map(|one| one.per_second.unwrap()).collect();
        assert_eq!((rates[0].received, rates[1].received, rates[1].callbacks), (0.0, 10.0, 2.0));
    }
}
