//! The standing of a store, and what it allows.

use nudge_protocol::Version;

/// What this service keeps of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownStore {
    /// Its name.
    pub name: String,
    /// Whether it takes orders, and therefore reviews.
    pub open: bool,
    /// The owner's version of this data.
    pub version: Version,
    /// Whether its owner has deleted it.
    pub deleted: bool,
}

/// What this service knows of a store, as far as it matters for reviews.
///
/// | | unknown | deleted | closed | open |
/// |---|---|---|---|---|
/// | write a review | 404 | 410 | 409 | yes |
/// | list its reviews | 404 | 410 | yes | yes |
/// | read or rewrite one | yes | 410 | yes | yes |
/// | delete one | yes | yes | yes | yes |
///
/// A closed store takes no new reviews, but authors may still edit theirs. Reviews of a deleted store are
/// kept but not shown, since they belong to this service and the store may come back. Deleting one's own
/// review is always allowed. The store of a review is unknown only while the copy of the stores is being
/// refilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStanding {
    /// This service has never heard of it.
    Unknown,
    /// Its owner deleted it.
    Deleted,
    /// It exists but takes no orders at the moment.
    Closed,
    /// It exists and takes orders.
    Open,
}

impl StoreStanding {
    /// Derives the standing from the copy of the store.
    pub fn of(store: Option<&KnownStore>) -> Self {
        match store {
            None => Self::Unknown,
            Some(store) if store.deleted => Self::Deleted,
            Some(store) if store.open => Self::Open,
            Some(_) => Self::Closed,
        }
    }

    /// Whether a new review may be written.
    pub fn may_be_reviewed(self) -> Result<(), Refusal> {
        match self {
            Self::Unknown => Err(Refusal::UnknownStore),
            Self::Deleted => Err(Refusal::DeletedStore),
            Self::Closed => Err(Refusal::ClosedStore),
            Self::Open => Ok(()),
        }
    }

    /// Whether the store's reviews may be listed.
    pub fn may_be_listed(self) -> Result<(), Refusal> {
        match self {
            Self::Unknown => Err(Refusal::UnknownStore),
            Self::Deleted => Err(Refusal::DeletedStore),
            Self::Closed | Self::Open => Ok(()),
        }
    }

    /// Whether one review that exists may be read and rewritten.
    pub fn may_be_rewritten(self) -> Result<(), Refusal> {
        match self {
            Self::Deleted => Err(Refusal::DeletedStore),
            Self::Unknown | Self::Closed | Self::Open => Ok(()),
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 404.
    #[error("no store with this ID is known")]
    UnknownStore,
    /// 410.
    #[error("the store was deleted")]
    DeletedStore,
    /// 409.
    #[error("the store is closed and takes no new reviews")]
    ClosedStore,
    /// 404.
    #[error("there is no review with this ID")]
    UnknownReview,
    /// 410.
    #[error("the review was deleted")]
    DeletedReview,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(open: bool, deleted: bool) -> KnownStore {
        KnownStore { name: "가게".into(), open, version: Version::NONE, deleted }
    }

    #[test]
    fn a_deleted_store_is_deleted_whether_or_not_it_was_open() {
        assert_eq!(StoreStanding::of(None), StoreStanding::Unknown);
        assert_eq!(StoreStanding::of(Some(&store(true, false))), StoreStanding::Open);
        assert_eq!(StoreStanding::of(Some(&store(false, false))), StoreStanding::Closed);
        assert_eq!(StoreStanding::of(Some(&store(true, true))), StoreStanding::Deleted);
        assert_eq!(StoreStanding::of(Some(&store(false, true))), StoreStanding::Deleted);
    }

    #[test]
    fn each_standing_allows_what_the_table_says() {
        use Refusal::{ClosedStore, DeletedStore, UnknownStore};
        let table = [
            (StoreStanding::Unknown, Err(UnknownStore), Err(UnknownStore), Ok(())),
            (StoreStanding::Deleted, Err(DeletedStore), Err(DeletedStore), Err(DeletedStore)),
            (StoreStanding::Closed, Err(ClosedStore), Ok(()), Ok(())),
            (StoreStanding::Open, Ok(()), Ok(()), Ok(())),
        ];
        for (standing, review, list, rewrite) in table {
            assert_eq!(standing.may_be_reviewed(), review, "{standing:?}");
            assert_eq!(standing.may_be_listed(), list, "{standing:?}");
            assert_eq!(standing.may_be_rewritten(), rewrite, "{standing:?}");
        }
    }
}
