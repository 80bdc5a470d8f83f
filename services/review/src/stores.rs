//! What this service knows of stores: a read model that the subscriber kit keeps in step with
//! store-info. Reviews are accepted or refused on its basis, without calling another service.

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{Tx, row};
use nudge_subscriber_kit::Mirror;
use serde::{Deserialize, Serialize};

use crate::domain::KnownStore;

/// The fields of a store's state that this service reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreState {
    /// Its name.
    pub name: String,
    /// Whether it takes orders.
    pub open: bool,
}

/// The table of known stores. It keeps deleted ones, to tell them apart from unknown ones.
pub fn mirror() -> Mirror<StoreState> {
    Mirror::table("known_store").version("version").mark_deleted("deleted")
}

row! {
    struct Found {
        name: String,
        open: bool,
        version: i64,
        deleted: bool,
    }
}

/// Reads a store, in the transaction of the decision that depends on it.
pub async fn find(tx: &mut Tx, id: &EntityId) -> Result<Option<KnownStore>, sqlx::Error> {
    let sql = "SELECT name, open, version, deleted FROM known_store WHERE id = $1";
    let found: Option<Found> =
        sqlx::query_as(sql).bind(id.as_str()).fetch_optional(&mut **tx).await?;
    let known = |Found { name, open, version, deleted }| {
        let version = Version::try_from(version).map_err(|e| sqlx::Error::Decode(e.into()))?;
        Ok(KnownStore { name, open, version, deleted })
    };
    found.map(known).transpose()
}
