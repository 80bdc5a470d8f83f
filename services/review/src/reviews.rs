//! The operations on reviews, one transaction each. A write and its row in the change log are committed
//! together; then the relay is woken.

use nudge_protocol::{Change, EntityId, Version, WriteToken};
use nudge_publisher::{Owner, Publisher};
use nudge_runtime::{BoxError, Database, Tx, database::WorkError, paging::cut};
use uuid::Uuid;

use crate::{
    domain::{Draft, KnownStore, Ratings, Refusal, Review, StoreStanding},
    storage, stores,
};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The rules of the domain forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The review does not have the version that the caller requires.
    #[error("the review now has version {0}")]
    Stale(Version),
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl WorkError for Failure {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Refused(_) | Self::Stale(_) => None,
        }
    }
}

/// A review and its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned {
    /// The state.
    pub review: Review,
    /// Its version.
    pub version: Version,
}

/// A page of a store's reviews and the totals over all of them, from one snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreReviews {
    /// The store.
    pub store: KnownStore,
    /// The ratings of all of its reviews.
    pub ratings: Ratings,
    /// The reviews on this page, newest first.
    pub items: Vec<Review>,
    /// The ID to continue after; `None` on the last page.
    pub next: Option<EntityId>,
}

/// The reviews of this service. Cloning is cheap.
#[derive(Clone)]
pub struct Reviews {
    db: Database,
    publisher: Publisher,
}

impl Reviews {
    /// Reviews kept in `db`, whose changes are recorded with `publisher`.
    pub fn new(db: Database, publisher: Publisher) -> Self {
        Self { db, publisher }
    }

    /// The token that identifies a write.
    pub fn token(&self, id: &EntityId, version: Version) -> WriteToken {
        self.publisher.token(id, version)
    }

    /// Writes a new review.
    pub async fn create(&self, store_id: &EntityId, draft: Draft) -> Result<Versioned, Failure> {
        self.db.run_afresh(|| self.create_once(store_id, draft.clone())).await
    }

    async fn create_once(&self, store_id: &EntityId, draft: Draft) -> Result<Versioned, Failure> {
        let mut tx = self.publisher.begin_read_committed().await?;
        let store = stores::find(&mut tx, store_id).await?;
        StoreStanding::of(store.as_ref()).may_be_reviewed()?;
        // Created inside the transaction: where writers take turns, the order of IDs is their order.
        let id = EntityId::new(&Uuid::now_v7().to_string()).expect("a UUID is an id");
        let review = Review::written(id, store_id.clone(), draft, nudge_runtime::clock::now());
        storage::insert(&mut tx, &review).await?;
        let version = self.publisher.record(&mut tx, &review.id, Change::Created).await?;
        self.publisher.commit(tx).await?;
        Ok(Versioned { review, version })
    }

    /// Rewrites a review, provided that `allowed` accepts its current version. The same content as before
    /// changes nothing and keeps the version.
    pub async fn rewrite(
        &self,
        id: &EntityId,
        draft: Draft,
        allowed: impl Fn(Version) -> bool + Send + Sync,
    ) -> Result<Versioned, Failure> {
        self.db.run_afresh(|| self.rewrite_once(id, draft.clone(), &allowed)).await
    }

    async fn rewrite_once(
        &self,
        id: &EntityId,
        draft: Draft,
        allowed: &(impl Fn(Version) -> bool + Send + Sync),
    ) -> Result<Versioned, Failure> {
        let mut tx = self.publisher.begin_read_committed().await?;
        let review = storage::get_for_update(&mut tx, self.db.kind(), id).await?;
        let Versioned { review, version } = self.versioned(&mut tx, id, review).await?;
        self.standing(&mut tx, &review).await?.may_be_rewritten()?;
        if !allowed(version) {
            return Err(Failure::Stale(version));
        }
        match review.clone().rewritten(draft, nudge_runtime::clock::now()) {
            None => Ok(Versioned { review, version }),
            Some(review) => {
                storage::update(&mut tx, &review).await?;
                let version = self.publisher.record(&mut tx, id, Change::Updated).await?;
                self.publisher.commit(tx).await?;
                Ok(Versioned { review, version })
            }
        }
    }

    /// Deletes a review, provided that `allowed` accepts its current version. Returns the tombstone's
    /// version.
    pub async fn delete(
        &self,
        id: &EntityId,
        allowed: impl Fn(Version) -> bool + Send + Sync,
    ) -> Result<Version, Failure> {
        self.db.run_afresh(|| self.delete_once(id, &allowed)).await
    }

    async fn delete_once(
        &self,
        id: &EntityId,
        allowed: &(impl Fn(Version) -> bool + Send + Sync),
    ) -> Result<Version, Failure> {
        let mut tx = self.publisher.begin_read_committed().await?;
        let review = storage::get_for_update(&mut tx, self.db.kind(), id).await?;
        let Versioned { version, .. } = self.versioned(&mut tx, id, review).await?;
        if !allowed(version) {
            return Err(Failure::Stale(version));
        }
        storage::remove(&mut tx, id).await?;
        let version = self.publisher.record(&mut tx, id, Change::Deleted).await?;
        self.publisher.commit(tx).await?;
        Ok(version)
    }

    /// Reads one review.
    pub async fn get(&self, id: &EntityId) -> Result<Versioned, Failure> {
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            let review = storage::get(&mut tx, id).await?;
            let found = self.versioned(&mut tx, id, review).await?;
            self.standing(&mut tx, &found.review).await?.may_be_rewritten()?;
            Ok(found)
        };
        self.db.run_afresh(look).await
    }

    /// Reads a page of a store's reviews, newest first, starting after the review `after`, which need not
    /// exist any more.
    pub async fn of_store(
        &self,
        store_id: &EntityId,
        after: Option<&EntityId>,
        limit: usize,
    ) -> Result<StoreReviews, Failure> {
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            let store = stores::find(&mut tx, store_id).await?;
            StoreStanding::of(store.as_ref()).may_be_listed()?;
            let store = store.ok_or(Refusal::UnknownStore)?;
            let ratings = storage::ratings(&mut tx, store_id).await?;
            let mut items = storage::page(&mut tx, store_id, after, limit + 1).await?;
            let next = cut(&mut items, limit, |last| last.id.clone());
            Ok(StoreReviews { store, ratings, items, next })
        };
        self.db.run_afresh(look).await
    }

    async fn standing(&self, tx: &mut Tx, review: &Review) -> Result<StoreStanding, sqlx::Error> {
        let store = stores::find(tx, &review.store_id).await?;
        Ok(StoreStanding::of(store.as_ref()))
    }

    /// Adds the version to a row that was read. Only the change log holds versions: a copy beside the row
    /// would differ from it once the publisher raises versions after a restore.
    async fn versioned(
        &self,
        tx: &mut Tx,
        id: &EntityId,
        review: Option<Review>,
    ) -> Result<Versioned, Failure> {
        let recorded = self.publisher.recorded(tx, std::slice::from_ref(id)).await?.remove(id);
        match (review, recorded) {
            (Some(review), recorded) => {
                let version = recorded.map_or(Version::NONE, |recorded| recorded.version);
                Ok(Versioned { review, version })
            }
            (None, Some(recorded)) if !recorded.never_existed => Err(Refusal::DeletedReview.into()),
            (None, _) => Err(Refusal::UnknownReview.into()),
        }
    }
}

impl Owner for Reviews {
    type State = Review;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Review)>, BoxError> {
        let reviews = storage::get_all(tx, self.db.kind(), ids).await?;
        Ok(reviews.into_iter().map(|review| (review.id.clone(), review)).collect())
    }
}
