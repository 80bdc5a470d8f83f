//! The documentation of the sync API, which the publisher serves.
//!
//! These functions and types exist for their annotations alone; a test compares what they say with
//! what the service answers.
#![expect(dead_code, reason = "only the annotations are used")]

use utoipa::ToSchema;

use super::BodyProblems;
use crate::domain::Store;

/// One store with its version
#[utoipa::path(get, path = "/sync/v1/store/{id}", operation_id = "syncGet", tag = "sync", params(
    ("id" = String, Path, description = "Its id, percent-encoded"),
    ("If-None-Match" = Option<String>, Header, description = "Answer 304 while it is in this version"),
), responses(
    (status = 200, description = "State and version of one snapshot", body = LiveStore, headers(
        ("ETag" = String, description = "The version, in quotes"),
    )),
    (status = 304, description = "It is in the version that the request named"),
    (status = 410, description = "It was deleted", body = DeletedStore),
    (status = 404, description = "There never was one", body = super::ProblemDocument,
     content_type = "application/problem+json"),
))]
pub(super) fn get_one() {}

/// Up to 512 stores with their versions
///
/// One snapshot. May answer with fewer than asked, never with none: ask again for the rest.
#[utoipa::path(post, path = "/sync/v1/store/batch-get", operation_id = "syncBatchGet", tag = "sync", request_body = BatchGet,
responses(
    (status = 200, description = "What is known of each, in any order", body = Batch),
    BodyProblems,
))]
pub(super) fn batch_get() {}

/// Every store's version, a page at a time
///
/// In bytewise order of ids, tombstones included.
#[utoipa::path(post, path = "/sync/v1/store/items", operation_id = "syncItems", tag = "sync", request_body = ItemsQuery,
responses(
    (status = 200, description = "A page", body = ItemsPage),
    BodyProblems,
))]
pub(super) fn items() {}

/// A store with its version.
#[derive(ToSchema)]
struct LiveStore {
    id: String,
    /// Rises with every change, through delete and re-creation.
    #[schema(minimum = 0)]
    version: i64,
    /// When this version was committed, RFC 3339.
    #[schema(format = DateTime)]
    changed_at: String,
    state: Store,
}

/// A store that was deleted.
#[derive(ToSchema)]
struct DeletedStore {
    id: String,
    /// The tombstone's version.
    #[schema(minimum = 0)]
    version: i64,
    /// Always true.
    deleted: bool,
}

/// Which stores, and what of them.
#[derive(ToSchema)]
struct BatchGet {
    #[schema(min_items = 1, max_items = 512)]
    ids: Vec<String>,
    /// Top-level fields of the state to answer with; all when absent.
    #[schema(max_items = 64)]
    fields: Option<Vec<String>>,
}

/// The answer to a batch-get.
#[derive(ToSchema)]
struct Batch {
    items: Vec<BatchItem>,
}

/// What is known of one id.
#[derive(ToSchema)]
struct BatchItem {
    id: String,
    status: ItemStatus,
    /// Absent when unknown.
    #[schema(minimum = 0)]
    version: Option<i64>,
    /// Absent when unknown.
    #[schema(format = DateTime)]
    changed_at: Option<String>,
    /// The wanted fields of the store, when live.
    #[schema(value_type = Option<Object>)]
    state: Option<()>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum ItemStatus {
    Live,
    Deleted,
    Unknown,
}

/// Which page.
#[derive(ToSchema)]
struct ItemsQuery {
    /// Begin after this id.
    after: Option<String>,
    #[schema(minimum = 1, maximum = 1000, default = 500)]
    limit: Option<i64>,
}

/// A page of versions.
#[derive(ToSchema)]
struct ItemsPage {
    items: Vec<ItemVersion>,
    /// Pass it as `after` for the next page; null on the last.
    next: Option<String>,
}

/// One store's newest version.
#[derive(ToSchema)]
struct ItemVersion {
    id: String,
    #[schema(minimum = 0)]
    version: i64,
    /// Whether that version is a tombstone.
    deleted: bool,
    /// When it was committed, RFC 3339.
    #[schema(format = DateTime)]
    changed_at: String,
}
