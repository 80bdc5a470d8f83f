//! The link from a followed entity to its owner: the client, the breaker, and the owner's condition.

use std::{sync::Arc, time::Duration};

use nudge_protocol::{EntityId, EntityName, sync_api::Lane};
use nudge_runtime::breaker::{Breaker, MAX_RETRY_AFTER};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{
    callback::{
        owner_client::{FetchError, FetchErrorKind, OwnerClient, fetch_some},
        witness::{MAX_WITNESSES, Witnesses},
    },
    read_model::applied::Waiters,
};

/// Shortest wait for an owner that is busy, whatever it says.
const MIN_BUSY_WAIT: Duration = Duration::from_secs(1);
/// The lane of probes: each asks for one entity, and whether anything else can be asked for hangs on it.
const PROBES: Lane = Lane::Fresh;

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct OwnerLink {
    pub(crate) client: Arc<dyn OwnerClient>,
    fresh: Arc<dyn OwnerClient>,
    lanes: Arc<Mutex<[InLane; Lane::ALL.len()]>>,
    /// Until when probes have to wait. They keep no lane waiting: keys that fail are retried, and probed for, over and over.
    probes_wait: Arc<Mutex<Option<Instant>>>,
    breaker: Arc<Mutex<Breaker>>,
    witnesses: Arc<Mutex<Witnesses>>,
}

/// The calls in one lane. Fresh changes need not wait because backlog has to.
#[derive(Clone, Copy, Debug, Default)]
struct InLane {
    /// How many are being made for keys that wait.
    under_way: usize,
    busy: Option<Busy>,
}

/// A busy owner refused a call, and told it when to come again.
///
/// No call is made until then. An owner that gives turns has refused only this one: those that it lets wait go on, and each
/// that it answers may be followed by another. If all had to wait instead, a subscriber would get less than its share, since
/// its last turn is often over long before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) until: Instant,
    /// How many calls may be under way at a time.
    pub(crate) most: usize,
}

/// A call that is under way, until it is dropped.
pub(crate) struct Calling<'a> {
    link: &'a OwnerLink,
    lane: Lane,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.link.lanes.lock()[self.lane as usize].under_way -= 1;
    }
}

/// The owner's condition, judged without the keys for which a callback failed.
#[derive(Debug)]
pub(crate) enum Condition {
    /// It answers.
    Well,
    /// It fails.
    Ill(FetchError),
    /// It answers that it is busy, which tells nothing about any key.
    Busy,
    /// It lists its entities, but fails for the one other key that was asked for.
    Unclear(FetchError),
    /// It answers, but offers no list, and no other key gives evidence.
    Unlisted(FetchError),
}

impl OwnerLink {
    pub(crate) fn new(client: Arc<dyn OwnerClient>) -> Self {
        let fresh = client.in_lane(Lane::Fresh).unwrap_or_else(|| client.clone());
        let (lanes, probes_wait, breaker, witnesses) = Default::default();
        Self { client, fresh, lanes, probes_wait, breaker, witnesses }
    }

    /// The owner, to be asked in this lane.
    pub(crate) fn in_lane(&self, lane: Lane) -> &dyn OwnerClient {
        match lane {
            Lane::Fresh => &*self.fresh,
            Lane::Backlog => &*self.client,
        }
    }

    /// A call in this lane begins.
    pub(crate) fn calls(&self, lane: Lane) -> Calling<'_> {
        self.lanes.lock()[lane as usize].under_way += 1;
        Calling { link: self, lane }
    }

    /// Whether the owner is too busy for more calls in this lane.
    pub(crate) fn busy(&self, lane: Lane) -> Option<Busy> {
        self.lanes.lock()[lane as usize].busy.filter(|busy| busy.until > Instant::now())
    }

    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }

    /// A call in this lane failed through the owner's fault. Returns whether it had answered until now. An owner that is
    /// busy does not fail: fewer calls are made in that lane, and nothing else happens.
    pub(crate) fn failed(&self, lane: Lane, error: &FetchError) -> bool {
        if self.refused(lane, error).is_some() {
            return false;
        }
        self.breaker().failure(Instant::now().into_std(), error.retry_after)
    }

    /// Whether this is a busy owner's answer that the call is to come again later. Returns when.
    pub(crate) fn refused(&self, lane: Lane, error: &FetchError) -> Option<Instant> {
        let until = after(error.asks_to_wait()?);
        self.breaker().has_answered();
        let in_lane = &mut self.lanes.lock()[lane as usize];
        let before = in_lane.busy.filter(|busy| busy.until > Instant::now());
        let most = if error.gives_turns { in_lane.under_way } else { 0 };
        in_lane.busy = Some(match before {
            Some(busy) => Busy { until: busy.until.max(until), most: busy.most.min(most) },
            None => Busy { until, most },
        });
        Some(until)
    }

    /// Notes that the owner answered these keys.
    pub(crate) fn answered<'a>(&self, ids: impl Iterator<Item = &'a EntityId>) {
        self.witnesses.lock().answered(ids);
    }

    /// Determines the owner's condition: by a key that it answered recently and that is not one of `not`; if that fails
    /// or there is no such key, by its list. Both are asked for in the lane of [`PROBES`].
    pub(crate) async fn condition(
        &self,
        entity: &EntityName,
        fields: &[&'static str],
        not: &[EntityId],
        read_model: &Waiters,
    ) -> Condition {
        if self.probes_wait.lock().is_some_and(|until| Instant::now() < until) {
            self.breaker().has_answered();
            return Condition::Busy;
        }
        let (owner, mut failed) = (self.in_lane(PROBES), None);
        if let Some(id) = self.witness(not, read_model).await {
            match fetch_some(owner, entity, std::slice::from_ref(&id), fields).await {
                Ok(_) => {
                    self.answered([id].iter());
                    return Condition::Well;
                }
                Err(error) if error.kind.is_owners() => {
                    if error.kind == FetchErrorKind::Busy {
                        // It has testified to nothing.
                        self.answered([id].iter());
                    }
                    return self.busy_or_ill(error);
                }
                Err(error) => failed = Some(error),
            }
        }
        let offers_none = |error: &FetchError| error.kind == FetchErrorKind::Misconfigured;
        match (owner.probe(entity).await, failed) {
            (Ok(()), None) => Condition::Well,
            (Ok(()), Some(failed)) => Condition::Unclear(failed),
            (Err(error), None) if offers_none(&error) => Condition::Unlisted(error),
            (Err(error), Some(failed)) if offers_none(&error) && !offers_none(&failed) => {
                Condition::Unlisted(failed)
            }
            (Err(error), _) => self.busy_or_ill(error),
        }
    }

    /// What the failure of a probe says.
    fn busy_or_ill(&self, error: FetchError) -> Condition {
        match error.kind {
            FetchErrorKind::Busy => {
                let asked = error.asks_to_wait().unwrap_or(MIN_BUSY_WAIT);
                self.breaker().has_answered();
                let mut wait = self.probes_wait.lock();
                *wait = (*wait).max(Some(after(asked)));
                Condition::Busy
            }
            _ => Condition::Ill(error),
        }
    }

    /// A key that the owner has answered and that is not one of `not`. After a start, the read model provides some.
    async fn witness(&self, not: &[EntityId], read_model: &Waiters) -> Option<EntityId> {
        let witness = self.witnesses.lock().take(not);
        if witness.is_some() {
            return witness;
        }
        let some = read_model.some(not.len() + MAX_WITNESSES).await.unwrap_or_default();
        let mut witnesses = self.witnesses.lock();
        witnesses.answered(some.iter().filter(|id| !not.contains(id)));
        witnesses.take(not)
    }
}

/// The end of a wait that a busy owner asks for and that begins now.
fn after(asked: Duration) -> Instant {
    Instant::now() + asked.clamp(MIN_BUSY_WAIT, MAX_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use nudge_protocol::{
        admin::BreakerState,
        sync_api::{Item, ItemStatus},
    };
    use nudge_runtime::{Database, breaker::Permit, database::Durability};

    use super::*;
    use crate::{
        callback::owner_client::{Fetching, Probing},
        read_model::tables::MIGRATIONS,
    };

    /// How an owner fails: when it is asked for a key, and when it is asked for its list.
    struct Owner {
        key: Option<FetchErrorKind>,
        list: Option<FetchErrorKind>,
    }

    impl OwnerClient for Owner {
        fn batch_get<'a>(
            &'a self,
            _: &'a EntityName,
            ids: &'a [EntityId],
            _: &'a [&'static str],
        ) -> Fetching<'a> {
            let unknown = |id: &EntityId| Item {
                id: id.clone(),
                status: ItemStatus::Unknown,
                version: None,
                changed_at: None,
                state: None,
            };
            let items = ids.iter().map(unknown).collect();
            let answer = self.key.map_or(Ok(items), |kind| Err(FetchError::new(kind, "key")));
            Box::pin(async move { answer })
        }

        fn probe<'a>(&'a self, _: &'a EntityName) -> Probing<'a> {
            let answer = self.list.map_or(Ok(()), |kind| Err(FetchError::new(kind, "list")));
            Box::pin(async move { answer })
        }
    }

    /// How it is found to be, and whose failure is named.
    async fn condition(owner: Owner, witness: bool) -> (&'static str, String) {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        db.migrate("subscriber-kit", MIGRATIONS).await.unwrap();
        let store = EntityName::new("store").unwrap();
        let (link, waiters) = (OwnerLink::new(Arc::new(owner)), Waiters::new(db, store.clone()));
        let [bad, good] = ["bad", "good"].map(|id| EntityId::new(id).unwrap());
        link.answered(witness.then_some(&good).into_iter());
        match link.condition(&store, &[], &[bad], &waiters).await {
            Condition::Well => ("well", String::new()),
            Condition::Ill(error) => ("ill", error.message),
            Condition::Busy => ("busy", String::new()),
            Condition::Unclear(error) => ("unclear", error.message),
            Condition::Unlisted(error) => ("unlisted", error.message),
        }
    }

    #[tokio::test]
    async fn an_owner_that_is_busy_does_not_fail_and_keeps_only_that_lane_waiting() {
        let link = OwnerLink::new(Arc::new(Owner { key: None, list: None }));
        let asks = |kind| {
            let retry_after = Some(Duration::from_secs(5));
            FetchError { retry_after, ..FetchError::new(kind, "later") }
        };
        for _ in 0..20 {
            assert!(!link.failed(Lane::Backlog, &asks(FetchErrorKind::Busy)));
        }
        assert_eq!(link.breaker().state(), BreakerState::Closed);
        assert_eq!(link.breaker().permit(Instant::now().into_std()), Permit::Full);
        assert!(link.busy(Lane::Backlog).is_some() && link.busy(Lane::Fresh).is_none());
        // One that is away is not well, also if it says when it will be back.
        for _ in 0..20 {
            link.failed(Lane::Fresh, &asks(FetchErrorKind::Unavailable));
        }
        assert_eq!(link.breaker().state(), BreakerState::Open);
        assert!(link.busy(Lane::Fresh).is_none());
        let now = Instant::now().into_std() + MAX_RETRY_AFTER;
        assert_eq!(link.breaker().permit(now), Permit::Probe);
        link.failed(Lane::Backlog, &asks(FetchErrorKind::Busy));
        assert_eq!(link.breaker().state(), BreakerState::Closed, "it answered the probe");
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_busy_no_call_is_added_to_those_that_it_let_wait() {
        let link = OwnerLink::new(Arc::new(Owner { key: None, list: None }));
        let (lane, began) = (Lane::Fresh, Instant::now());
        let busy = |most, seconds| Some(Busy { until: began + seconds * MIN_BUSY_WAIT, most });
        let refused = |asked, gives_turns| {
            let error = FetchError::new(FetchErrorKind::Busy, "later");
            link.refused(lane, &FetchError { retry_after: Some(asked), gives_turns, ..error })
        };
        let (first, second, third) = (link.calls(lane), link.calls(lane), link.calls(lane));
        let _of_the_other_lane = link.calls(Lane::Backlog);
        assert_eq!(link.busy(lane), None);
        drop(third);
        assert_eq!(refused(5 * MIN_BUSY_WAIT, true), Some(began + 5 * MIN_BUSY_WAIT));
        assert_eq!(link.busy(lane), busy(2, 5));
        // Another one is refused, and told a shorter wait.
        drop(second);
        assert_eq!(refused(Duration::ZERO, true), Some(began + MIN_BUSY_WAIT));
        assert_eq!(link.busy(lane), busy(1, 5));
        drop(first);
        // The next call is refused as well, and nobody may wait for a day.
        drop(link.calls(lane));
        assert_eq!(refused(Duration::MAX, true), Some(began + MAX_RETRY_AFTER));
        assert_eq!(link.busy(lane).map(|busy| busy.most), Some(0));
        tokio::time::advance(MAX_RETRY_AFTER).await;
        assert_eq!((link.busy(lane), link.busy(Lane::Backlog)), (None, None));
        // Whoever gives no turns wants none at all.
        let _under_way = link.calls(lane);
        refused(MIN_BUSY_WAIT, false);
        assert_eq!(link.busy(lane).map(|busy| busy.most), Some(0));
    }

    #[tokio::test]
    async fn another_key_and_the_list_tell_how_the_owner_is() {
        use FetchErrorKind::{Broken, Busy, Misconfigured, Refused, Unavailable};
        // Whether it answers for another key, its list, and what that means.
        for (key, list, is) in [
            (None, Some(Broken), ("well", "")),
            (Some(Broken), None, ("unclear", "key")),
            (Some(Refused), None, ("unclear", "key")),
            (Some(Misconfigured), None, ("unclear", "key")),
            (Some(Broken), Some(Misconfigured), ("unlisted", "key")),
            (Some(Misconfigured), Some(Misconfigured), ("ill", "list")),
            (Some(Broken), Some(Broken), ("ill", "list")),
            // It says itself when to come again, or nobody is there. No list denies that.
            (Some(Unavailable), None, ("ill", "key")),
            (Some(Unavailable), Some(Misconfigured), ("ill", "key")),
            // It answers, and gives no evidence.
            (Some(Busy), None, ("busy", "")),
            (Some(Broken), Some(Busy), ("busy", "")),
        ] {
            let found = condition(Owner { key, list }, true).await;
            assert_eq!((found.0, &*found.1), is, "{key:?}, {list:?}");
        }
        // No other key is known.
        for (list, is) in [
            (None, ("well", "")),
            (Some(Misconfigured), ("unlisted", "list")),
            (Some(Broken), ("ill", "list")),
            (Some(Unavailable), ("ill", "list")),
            (Some(Busy), ("busy", "")),
        ] {
            let found = condition(Owner { key: Some(Broken), list }, false).await;
            assert_eq!((found.0, &*found.1), is, "{list:?}");
        }
    }
}
