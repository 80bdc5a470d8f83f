//! Calls to the owner that nobody waits for: they come again when a busy owner says so, for as long as it takes. So
//! whatever they belong to goes on where it is, instead of starting over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nudge_protocol::{
    EntityId, EntityName,
    digest::{DigestAnswer, DigestRequest, RecentAnswer, RecentRequest, RenewRequest, Renewed},
    sync_api::{ItemsPage, ItemsRequest, Lane},
};
use tokio::time::{Instant, sleep_until};

use crate::callback::{
    owner_client::{Asking, Fetching, OwnerClient, Probing},
    owner_link::OwnerLink,
};

/// See the module documentation. It asks for backlog.
pub(crate) struct Patient {
    link: OwnerLink,
    client: Arc<dyn OwnerClient>,
    /// How long its calls have waited, for their turn at the owner and because it was busy, in microseconds.
    waited: AtomicU64,
}

impl Patient {
    /// The owner at the end of this link.
    pub(crate) fn of(link: &OwnerLink) -> Self {
        // Of its own, so that it counts its own waits.
        let client = link.client.in_lane(Lane::Backlog).unwrap_or_else(|| link.client.clone());
        Self { link: link.clone(), client, waited: AtomicU64::new(0) }
    }

    fn ask<'a, T: Send + 'a>(
        &'a self,
        call: impl Fn(&'a dyn OwnerClient) -> Asking<'a, T> + Send + Sync + 'a,
    ) -> Asking<'a, T> {
        Box::pin(async move {
            let began = Instant::now();
            loop {
                if let Some(busy) = self.link.busy(Lane::Backlog).filter(|busy| busy.most == 0) {
                    sleep_until(busy.until).await;
                }
                let (called, before) = (Instant::now(), self.client.waited());
                let answer = call(&*self.client).await;
                let refused = answer.as_ref().err();
                match refused.and_then(|error| self.link.refused(Lane::Backlog, error)) {
                    Some(until) => sleep_until(until).await,
                    None => {
                        let waited = self.client.waited().saturating_sub(before);
                        let waited = waited + called.duration_since(began);
                        self.waited.fetch_add(waited.as_micros() as u64, Relaxed);
                        return answer;
                    }
                }
            }
        })
    }
}

impl OwnerClient for Patient {
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a> {
        self.ask(move |client| client.batch_get(entity, ids, fields))
    }

    fn address(&self) -> String {
        self.client.address()
    }

    fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Relaxed))
    }

    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a> {
        self.ask(move |client| client.probe(entity))
    }

    fn digest<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a DigestRequest,
    ) -> Asking<'a, DigestAnswer> {
        self.ask(move |client| client.digest(entity, request))
    }

    fn recent<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RecentRequest,
    ) -> Asking<'a, RecentAnswer> {
        self.ask(move |client| client.recent(entity, request))
    }

    fn items<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a ItemsRequest,
    ) -> Asking<'a, ItemsPage> {
        self.ask(move |client| client.items(entity, request))
    }

    fn renew<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RenewRequest,
    ) -> Asking<'a, Renewed> {
        self.ask(move |client| client.renew(entity, request))
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::sleep;

    use super::*;
    use crate::callback::owner_client::{FetchError, FetchErrorKind, timed};

    const LATER: Duration = Duration::from_secs(7);
    const WORK: Duration = Duration::from_millis(20);

    /// Lets each call wait, refuses the first few, and says how long those that it answers have waited.
    #[derive(Clone, Default)]
    struct Busy {
        refuses: Arc<Mutex<u32>>,
        waited: Arc<Mutex<Duration>>,
    }

    impl OwnerClient for Busy {
        fn batch_get<'a>(
            &'a self,
            _: &'a EntityName,
            _: &'a [EntityId],
            _: &'a [&'static str],
        ) -> Fetching<'a> {
            Box::pin(async {
                sleep(Duration::from_secs(2)).await;
                let refuses = std::mem::take(&mut *self.refuses.lock());
                if let Some(fewer) = refuses.checked_sub(1) {
                    *self.refuses.lock() = fewer;
                    let retry_after = Some(LATER);
                    let error = FetchError::new(FetchErrorKind::Busy, "later");
                    return Err(FetchError { retry_after, ..error });
                }
                *self.waited.lock() += Duration::from_secs(2);
                sleep(WORK).await;
                Ok(Vec::new())
            })
        }

        fn waited(&self) -> Duration {
            *self.waited.lock()
        }

        fn probe<'a>(&'a self, _: &'a EntityName) -> Probing<'a> {
            Box::pin(async { Err(FetchError::new(FetchErrorKind::Unavailable, "away")) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_again_when_it_may_and_only_the_owners_work_counts() {
        let owner = Busy { refuses: Arc::new(Mutex::new(3)), ..Busy::default() };
        let link = OwnerLink::new(Arc::new(owner));
        let (patient, store) = (Patient::of(&link), EntityName::new("store").unwrap());
        let (began, mut took) = (Instant::now(), Duration::ZERO);
        timed(&patient, &mut took, patient.batch_get(&store, &[], &[])).await.unwrap();
        assert_eq!(took, WORK);
        assert_eq!(
            began.elapsed(),
            (LATER + Duration::from_secs(2)) * 3 + Duration::from_secs(2) + WORK
        );
        assert!(link.busy(Lane::Fresh).is_none());
        // No other failure is waited for.
        assert!(patient.probe(&store).await.is_err());
    }
}
