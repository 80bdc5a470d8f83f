//! The port to an owner: HTTP in production, simulated in tests.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use nudge_protocol::{
    EntityId, EntityName,
    digest::{DigestAnswer, DigestRequest, RecentAnswer, RecentRequest, RenewRequest, Renewed},
    sync_api::{Item, ItemsPage, ItemsRequest, Lane},
};
use tokio::time::Instant;

/// What a failed callback means. Callers match on this, never on a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchErrorKind {
    /// The owner cannot be reached, or is unavailable and asks to be called again later. Says nothing about any key.
    Unavailable,
    /// The owner is well, and asks to be called again later: more is asked for than its budget. Says nothing about any
    /// key.
    Busy,
    /// The owner failed, or its answer was invalid, incomplete or late. The owner may be at fault, or a single
    /// key: a probe shows which.
    Broken,
    /// The owner denies access to this subscriber or does not offer the operation. Usually a configuration error
    /// that concerns all keys. Never a delete.
    Misconfigured,
    /// The owner refuses this particular request. For a single key this is final, if a probe shows that the
    /// owner does not refuse everything.
    Refused,
}

impl FetchErrorKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Unavailable, Self::Busy, Self::Broken, Self::Misconfigured, Self::Refused];

    /// Whether it says nothing about any key.
    pub(crate) const fn is_owners(self) -> bool {
        matches!(self, Self::Unavailable | Self::Busy)
    }

    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Broken => "broken",
            Self::Misconfigured => "misconfigured",
            Self::Refused => "refused",
        }
    }
}

/// A failed callback.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    /// What it means.
    pub kind: FetchErrorKind,
    /// What happened, as text.
    pub message: String,
    /// The wait that the owner asked for in `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Whether the owner refused only this call, and lets others of this subscriber wait for their turns.
    pub gives_turns: bool,
}

impl FetchError {
    /// The wait that the owner asks for because it is busy, which is no failure of its.
    pub fn asks_to_wait(&self) -> Option<Duration> {
        self.retry_after.filter(|_| self.kind == FetchErrorKind::Busy)
    }
}

impl FetchError {
    /// An error without a `Retry-After`, from an owner that gives no turns.
    pub fn new(kind: FetchErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, gives_turns: false }
    }
}

/// The future of a call to the owner.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, FetchError>> + Send + 'a>>;

/// The future of a callback.
pub type Fetching<'a> = Asking<'a, Vec<Item>>;

/// The future of a probe.
pub type Probing<'a> = Asking<'a, ()>;

/// The port to an owner: HTTP in production, simulated in tests.
pub trait OwnerClient: Send + Sync + 'static {
    /// Returns the current states of at least one of `ids` (at most 512), all from one snapshot that begins
    /// after this call. `fields` are the top-level fields to return; if empty, all of them.
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a>;

    /// Its address, for reports.
    fn address(&self) -> String {
        "its owner".to_owned()
    }

    /// The same owner, to be asked in this lane; `None` if it makes no difference. What says nothing else is backlog.
    fn in_lane(&self, lane: Lane) -> Option<Arc<dyn OwnerClient>> {
        let _ = lane;
        None
    }

    /// How long the calls of this client, together, have waited at the owner for their turn. What a call took besides is
    /// the owner's work. Clients that are got [in a lane](Self::in_lane) are counted by themselves.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    /// Checks whether the owner answers at all, with a request about no particular key. Used while no key is
    /// known that the owner has answered. An owner need not support it: if it says so
    /// ([`FetchErrorKind::Misconfigured`]), it does answer.
    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a>;

    /// What the owner has in ranges of entities. An owner need not offer it: [`FetchErrorKind::Misconfigured`] says
    /// so, and [`items`](Self::items) is read instead.
    fn digest<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a DigestRequest,
    ) -> Asking<'a, DigestAnswer> {
        let _ = (entity, request);
        not_offered()
    }

    /// What the owner published last. Without it, differences among the newest entities are found no sooner than
    /// others.
    fn recent<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RecentRequest,
    ) -> Asking<'a, RecentAnswer> {
        let _ = (entity, request);
        not_offered()
    }

    /// A page of the owner's list of all entities. An owner that does not offer it cannot be compared with.
    fn items<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a ItemsRequest,
    ) -> Asking<'a, ItemsPage> {
        let _ = (entity, request);
        not_offered()
    }

    /// Asks for fresh versions of entities that differ here although their versions are not older than the owner's.
    /// Without it, such differences stay.
    fn renew<'a>(
        &'a self,
        entity: &'a EntityName,
        request: &'a RenewRequest,
    ) -> Asking<'a, Renewed> {
        let _ = (entity, request);
        not_offered()
    }
}

fn not_offered<'a, T: 'a>() -> Asking<'a, T> {
    let error = FetchError::new(FetchErrorKind::Misconfigured, "the owner does not offer this");
    Box::pin(async move { Err(error) })
}

/// Fetches all of `ids`, asking again for those that an answer leaves out. Every round makes progress, so this
/// ends: an answer with none of the requested IDs is an error.
///
/// Returns the items, at most one per ID, and why the rest is missing, if anything is.
pub async fn fetch_all(
    owner: &dyn OwnerClient,
    entity: &EntityName,
    ids: &[EntityId],
    fields: &[&'static str],
) -> (Vec<Item>, Result<(), FetchError>) {
    let mut left = ids.to_vec();
    let mut all = Vec::with_capacity(ids.len());
    while !left.is_empty() {
        match fetch_some(owner, entity, &left, fields).await {
            Ok(items) => {
                let answered: HashSet<_> = items.iter().map(|item| &item.id).collect();
                left.retain(|id| !answered.contains(id));
                all.extend(items);
            }
            Err(error) => return (all, Err(error)),
        }
    }
    (all, Ok(()))
}

/// Awaits a call to this owner, and adds to `took` how long the owner worked for it: without the wait for its turn.
pub(crate) async fn timed<T>(
    owner: &dyn OwnerClient,
    took: &mut Duration,
    call: impl Future<Output = T>,
) -> T {
    let (began, waited) = (Instant::now(), owner.waited());
    let answer = call.await;
    *took += began.elapsed().saturating_sub(owner.waited().saturating_sub(waited));
    answer
}

/// Fetches at least one of `ids`, at most one item per ID: what one answer holds.
///
/// # Errors
/// Those of the call; and an answer with none of the requested IDs.
pub(crate) async fn fetch_some(
    owner: &dyn OwnerClient,
    entity: &EntityName,
    ids: &[EntityId],
    fields: &[&'static str],
) -> Result<Vec<Item>, FetchError> {
    let mut items = owner.batch_get(entity, ids, fields).await?;
    // If an ID occurs twice, its first item counts. IDs that were not requested are ignored.
    let mut asked: HashSet<&EntityId> = ids.iter().collect();
    items.retain(|item| asked.remove(&item.id));
    match items.is_empty() {
        true => {
            let message = "the answer contains none of the requested IDs";
            Err(FetchError::new(FetchErrorKind::Broken, message))
        }
        false => Ok(items),
    }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::Version;

    use super::*;

    /// Answers at most `at_most` of the requested IDs, each twice, along with others; fails for `bad`.
    struct Sparse {
        at_most: usize,
        bad: Option<&'static str>,
    }

    impl OwnerClient for Sparse {
        fn batch_get<'a>(
            &'a self,
            _: &'a EntityName,
            ids: &'a [EntityId],
            _: &'a [&'static str],
        ) -> Fetching<'a> {
            if ids.first().map(EntityId::as_str) == self.bad {
                let error = FetchError::new(FetchErrorKind::Broken, "the owner failed");
                return Box::pin(async move { Err(error) });
            }
            let stranger = EntityId::new("stranger").expect("an id");
            let asked = ids.iter().take(self.at_most);
            let asked = asked.flat_map(|id| [(id.clone(), 1), (id.clone(), 2)]);
            let items = asked.chain([(stranger, 1)]).map(|(id, version)| Item {
                id,
                status: nudge_protocol::sync_api::ItemStatus::Deleted,
                version: Version::new(version).ok(),
                changed_at: None,
                state: None,
            });
            let items = Ok(items.collect());
            Box::pin(async move { items })
        }

        fn probe<'a>(&'a self, _: &'a EntityName) -> Probing<'a> {
            Box::pin(async { Ok(()) })
        }
    }

    async fn ask(at_most: usize, bad: Option<&'static str>) -> (Vec<Item>, Result<(), FetchError>) {
        let entity = EntityName::new("store").unwrap();
        fetch_all(&Sparse { at_most, bad }, &entity, &ten(), &[]).await
    }

    fn ten() -> Vec<EntityId> {
        (0..10).map(|n| EntityId::new(&n.to_string()).unwrap()).collect()
    }

    fn answered(items: Vec<Item>) -> Vec<EntityId> {
        assert!(items.iter().all(|item| item.version == Version::new(1).ok()), "the first counts");
        items.into_iter().map(|item| item.id).collect()
    }

    #[tokio::test]
    async fn what_an_answer_leaves_out_is_asked_again() {
        let (items, rest) = ask(3, None).await;
        assert!(rest.is_ok());
        assert_eq!(answered(items), ten(), "of an id that is answered twice, one answer is taken");
    }

    #[tokio::test]
    async fn what_was_answered_is_not_lost_when_the_rest_fails() {
        let (items, rest) = ask(3, Some("6")).await;
        assert_eq!(answered(items), ten()[..6]);
        assert_eq!(rest.unwrap_err().message, "the owner failed");
    }

    #[tokio::test]
    async fn an_answer_with_nothing_that_was_asked_is_nonsense() {
        let (items, rest) = ask(0, None).await;
        assert!(items.is_empty());
        assert_eq!(rest.unwrap_err().kind, FetchErrorKind::Broken);
    }
}
