//! The port to an owner: HTTP in production, simulated in tests.

use std::{collections::HashSet, future::Future, pin::Pin, time::Duration};

use nudge_protocol::{EntityId, EntityName, sync_api::Item};

/// What a failed callback means. Loops match this, never a status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchErrorKind {
    /// The owner cannot be reached, or says itself when to come again. Says nothing about any key.
    Unavailable,
    /// A failure, nonsense, half an answer or none in time. The owner may be ill, or one key may be
    /// the cause: a probe tells which.
    Broken,
    /// The owner does not let this subscriber in, or does not offer this: mostly a configuration fault
    /// of the whole owner. Never a delete.
    Misconfigured,
    /// The owner refuses this very request. For a single key that is final, if a probe shows that it
    /// does not refuse everything.
    Refused,
}

/// A failed callback.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    /// What it means.
    pub kind: FetchErrorKind,
    /// What happened, in words.
    pub message: String,
    /// What the owner asked for in `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl FetchError {
    /// An error without a `Retry-After`.
    pub fn new(kind: FetchErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

/// The future of a callback.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Vec<Item>, FetchError>> + Send + 'a>>;

/// The future of a probe.
pub type Probing<'a> = Pin<Box<dyn Future<Output = Result<(), FetchError>> + Send + 'a>>;

/// The port to an owner: HTTP in production, simulated in tests.
pub trait OwnerClient: Send + Sync + 'static {
    /// Current states of some of `ids` (at most 512), at least one, all from one snapshot begun
    /// after this call. `fields` are the top-level fields wanted; none means all.
    fn batch_get<'a>(
        &'a self,
        entity: &'a EntityName,
        ids: &'a [EntityId],
        fields: &'a [&'static str],
    ) -> Fetching<'a>;

    /// Whether the owner answers at all: asks for nothing about any particular key. It is asked while no
    /// other key is known that the owner answered, and an owner need not offer it: one that says so
    /// ([`FetchErrorKind::Misconfigured`]) does answer.
    fn probe<'a>(&'a self, entity: &'a EntityName) -> Probing<'a>;
}

/// Asks for all of `ids`: what an answer leaves out is asked again. Every round makes progress, so
/// this ends; an answer with none of what was asked is nonsense.
///
/// Returns what was answered, one item of an id, and why the rest was not, if there is a rest.
pub async fn fetch_all(
    owner: &dyn OwnerClient,
    entity: &EntityName,
    ids: &[EntityId],
    fields: &[&'static str],
) -> (Vec<Item>, Result<(), FetchError>) {
    let mut left = ids.to_vec();
    let mut all = Vec::with_capacity(ids.len());
    while !left.is_empty() {
        let items = match owner.batch_get(entity, &left, fields).await {
            Ok(items) => items,
            Err(error) => return (all, Err(error)),
        };
        let mut asked: HashSet<EntityId> = left.iter().cloned().collect();
        // Of an id that is answered twice, the first answer counts; others were not asked for.
        let before = all.len();
        all.extend(items.into_iter().filter(|item| asked.remove(&item.id)));
        if all.len() == before {
            let message = "the answer holds none of the ids that were asked";
            return (all, Err(FetchError::new(FetchErrorKind::Broken, message)));
        }
        left.retain(|id| asked.contains(id));
    }
    (all, Ok(()))
}

#[cfg(test)]
mod tests {
    use nudge_protocol::Version;

    use super::*;

    /// Answers with at most `at_most` of what is asked, each twice, and with strangers; fails for `bad`.
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
