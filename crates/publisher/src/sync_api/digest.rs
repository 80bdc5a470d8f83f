//! The routes by which a subscriber compares itself with the owner.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use nudge_protocol::{
    EntityId, Object, Version,
    digest::{
        DigestAnswer, DigestRequest, Held, MAX_RANGES, MAX_RECENT, MAX_RENEWED, RecentAnswer,
        RecentRequest, RenewRequest, Renewed,
    },
};
use nudge_runtime::{Problem, body::Json};

use super::{Api, no_store};
use crate::{
    budget::{Asker, AskerHeaders, ROWS_PER_ENTITY},
    change_log::outbox::Published,
};

/// Digests of up to 256 ranges of entities
///
/// All from one snapshot, with what is in flight to this subscriber left out and named instead. An answer covers at
/// most 65,536 rows, or lists 10,000, and may end before the last range does: ask again for the rest.
#[utoipa::path(post, path = "/digest", operation_id = "syncDigest", tag = "sync",
request_body = DigestRequest, params(AskerHeaders), responses(
    (status = 200, description = "What the owner has in each range", body = DigestAnswer),
))]
pub(super) async fn digest(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Json(Object(request)): Json<Object<DigestRequest>>,
) -> Result<Response, Problem> {
    if !request.is_valid() {
        return Err(Problem::field("ranges", format!("must contain 1 to {MAX_RANGES} ranges")));
    }
    // What it costs is known once it is answered: a turn at most.
    let turn = api.budget.turn(&asker, 1).await?;
    let most = api.budget.rows_at_a_time();
    let look = || async {
        let mut tx = api.log.db().snapshot().await?;
        api.log.digests(&mut tx, &request, most).await
    };
    let answer = api.log.db().run_afresh(look).await?;
    let rows: u64 = answer.ranges.iter().map(|range| range.count).sum();
    api.budget.charge(&asker, usize::try_from(rows).unwrap_or(usize::MAX) / ROWS_PER_ENTITY);
    Ok((turn, no_store(axum::Json(answer))).into_response())
}

/// What was published last, up to what a subscriber has handled
///
/// At most 1,000 entities. The subscriber must have all of them in these versions or later ones.
#[utoipa::path(post, path = "/recent", operation_id = "syncRecent", tag = "sync",
request_body = RecentRequest, params(AskerHeaders), responses(
    (status = 200, description = "The entities with their versions", body = RecentAnswer),
))]
pub(super) async fn recent(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Json(Object(request)): Json<Object<RecentRequest>>,
) -> Result<Response, Problem> {
    let turn = api.budget.whole_turn(&asker, MAX_RECENT.div_ceil(ROWS_PER_ENTITY)).await?;
    let look = || async {
        let mut tx = api.log.db().snapshot().await?;
        api.log.recent(&mut tx, &request.handled).await
    };
    let rows = api.log.db().run_afresh(look).await?;
    Ok((turn, no_store(axum::Json(RecentAnswer { rows }))).into_response())
}

/// Give fresh versions to up to 512 entities
///
/// A subscriber has versions of them that are not older than the owner's, although they differ: the owner was
/// restored, or somebody edited the read model. With a fresh version, every copy returns to what the owner has. An ID
/// that the owner has no record of gets a tombstone: 2,000 at once, and then 100 a second. Where the owner has a budget, fewer
/// entities may be looked at than were asked for, the first that were named.
#[utoipa::path(post, path = "/renew", operation_id = "syncRenew", tag = "sync",
request_body = RenewRequest, params(AskerHeaders), responses(
    (status = 200, description = "How many got one, and how many must be asked for again", body = Renewed),
))]
pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Json(Object(RenewRequest { mut items })): Json<Object<RenewRequest>>,
) -> Result<Response, Problem> {
    if !(1..=MAX_RENEWED).contains(&items.len()) {
        return Err(Problem::field("items", format!("must contain 1 to {MAX_RENEWED} entities")));
    }
    let turn = api.budget.turn(&asker, items.len()).await?;
    let unanswered = items.len().saturating_sub(turn.granted) as u64;
    items.truncate(turn.granted);
    // Of an entity that occurs twice, the highest version counts.
    let mut highest: BTreeMap<EntityId, Version> = BTreeMap::new();
    for Held { id, version } in items {
        let known = highest.entry(id).or_default();
        *known = version.max(*known);
    }
    // An equal version that stands for something else must be exceeded, too.
    let shown = |(id, version): (EntityId, Version)| {
        let version = Version::new(version.get() + 1).unwrap_or(version);
        Published { id, version, seq: 0 }
    };
    let shown: Vec<_> = highest.into_iter().map(shown).collect();
    let allowed = api.allowance.lock().allowed();
    let done = api.log.renew(&shown, allowed).await?;
    api.allowance.lock().made(done.strangers);
    if done.strangers > 0 {
        let made = done.strangers;
        tracing::warn!(entity = %api.log.entity(), made, "a subscriber has entities that this owner does not know: tombstones made");
        api.metrics.stranger_tombstones.set(api.log.count_strangers().await? as i64);
    }
    let renewed = done.renewed.saturating_sub(done.left);
    if renewed > 0 {
        api.metrics.renewed.inc_by(renewed);
        api.wake.notify_one();
    }
    let left = done.left + done.deferred.len() as u64;
    let renewed = Renewed { renewed, left, unanswered };
    Ok((turn, axum::Json(renewed)).into_response())
}

#[cfg(test)]
mod tests {
    use nudge_protocol::digest::{Digest, RangeRow};

    use super::*;

    /// The blocks of text in the section about digests: the lines, and their digest.
    fn example() -> (Vec<RangeRow>, String) {
        let page = include_str!("../../../../docs/protocol.md");
        let section = page.split_once("\n## 7. Digests").expect("the section").1;
        let mut blocks = section.split("```text\n").skip(1);
        let mut block = || blocks.next().expect("a block").split_once("```").expect("its end").0;
        let row = |line: &str| {
            let (length, rest) = line.split_once(':')?;
            let (id, rest) = rest.split_at(length.parse().ok()?);
            let (version, deleted) = rest.trim_start().split_once(' ')?;
            let (id, version) = (EntityId::new(id).ok()?, version.parse().ok()?);
            Some(RangeRow { id, version, deleted: deleted == "1" })
        };
        let rows = block().lines().map(|line| row(line).expect("an entity")).collect();
        (rows, block().trim().to_owned())
    }

    #[test]
    fn the_example_in_the_protocol_has_the_digest_that_is_written_there() {
        let (mut rows, digest) = example();
        assert_eq!(rows.len(), 3);
        assert_eq!(Digest::of(&rows).as_str(), digest);
        assert!(rows.is_sorted_by(|a, b| a.id < b.id));
        rows[1].deleted = true;
        assert_ne!(Digest::of(&rows).as_str(), digest);
    }
}
