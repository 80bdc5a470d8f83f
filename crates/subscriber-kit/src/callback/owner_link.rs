//! The link from a followed entity to its owner: the client, the breaker, and the owner's condition.

use std::sync::Arc;

use nudge_protocol::{EntityId, EntityName};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::{
    callback::{
        breaker::Breaker,
        owner_client::{FetchError, FetchErrorKind, OwnerClient, fetch_all},
        witness::{MAX_WITNESSES, Witnesses},
    },
    read_model::applied::Waiters,
};

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct OwnerLink {
    pub(crate) client: Arc<dyn OwnerClient>,
    breaker: Arc<Mutex<Breaker>>,
    witnesses: Arc<Mutex<Witnesses>>,
}

/// The owner's condition, judged without the keys for which a callback failed.
#[derive(Debug)]
pub(crate) enum Condition {
    /// It answers.
    Well,
    /// It fails.
    Ill(FetchError),
    /// It lists its entities, but fails for the one other key that was asked for.
    Unclear(FetchError),
    /// It answers, but offers no list, and no other key gives evidence.
    Unlisted(FetchError),
}

impl OwnerLink {
    pub(crate) fn new(client: Arc<dyn OwnerClient>) -> Self {
        Self { client, breaker: Arc::default(), witnesses: Arc::default() }
    }

    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }

    /// A call failed through the owner's fault. Returns whether it had answered until now.
    pub(crate) fn failed(&self, error: &FetchError) -> bool {
        self.breaker().failure(Instant::now().into_std(), error.retry_after)
    }

    /// Notes that the owner answered these keys.
    pub(crate) fn answered<'a>(&self, ids: impl Iterator<Item = &'a EntityId>) {
        self.witnesses.lock().answered(ids);
    }

    /// Determines the owner's condition: by a key that it answered recently and that is not one of `not`; if that fails
    /// or there is no such key, by its list.
    pub(crate) async fn condition(
        &self,
        entity: &EntityName,
        fields: &[&'static str],
        not: &[EntityId],
        read_model: &Waiters,
    ) -> Condition {
        let mut failed = None;
        if let Some(id) = self.witness(not, read_model).await {
            match fetch_all(&*self.client, entity, std::slice::from_ref(&id), fields).await.1 {
                Ok(()) => {
                    self.answered([id].iter());
                    return Condition::Well;
                }
                Err(error) if error.kind == FetchErrorKind::Unavailable => {
                    return Condition::Ill(error);
                }
                Err(error) => failed = Some(error),
            }
        }
        let offers_none = |error: &FetchError| error.kind == FetchErrorKind::Misconfigured;
        match (self.client.probe(entity).await, failed) {
            (Ok(()), None) => Condition::Well,
            (Ok(()), Some(failed)) => Condition::Unclear(failed),
            (Err(error), None) if offers_none(&error) => Condition::Unlisted(error),
            (Err(error), Some(failed)) if offers_none(&error) && !offers_none(&failed) => {
                Condition::Unlisted(failed)
            }
            (Err(error), _) => Condition::Ill(error),
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
