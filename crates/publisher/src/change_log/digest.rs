//! The change log as a subscriber compares itself with it: ranges of rows, and what it cannot know yet.

use std::{collections::HashSet, sync::Arc};

use nudge_protocol::{
    EntityId, Version,
    digest::{
        Digest, DigestAnswer, DigestRequest, Handled, InFlight, MAX_DIGEST_ROWS, MAX_IN_FLIGHT,
        MAX_LISTED_ROWS, MAX_RECENT, Range, RangeDigest, RangeRow,
    },
};
use nudge_runtime::{
    Tx, clock,
    database::{Kind, Text},
    row,
    set_sql::{Column, Line, lines, read_lines, typed},
};
use sqlx::{AssertSqlSafe, FromRow};

use super::{ChangeLog, tables::beyond};

/// Statements whose text depends on the database, written once.
#[derive(Debug)]
pub(super) struct Sql {
    bounded: Arc<str>,
    to_the_end: Arc<str>,
    pub(super) beyond: Arc<str>,
    pub(super) pending: Arc<str>,
    pub(super) recent: Arc<str>,
}

row! {
    struct Moving { id: Text, version: i64, changed_at: i64 }
}

impl Sql {
    pub(super) fn new(kind: Kind) -> Self {
        let id = typed(kind, "log", &Column::Text("id"));
        let from = "FROM nudge_change_log AS log WHERE log.entity = $1 AND";
        let rows = |to: &str| {
            let rows = format!(
                "SELECT log.id, log.version, log.deleted {from} log.id > $2{to} ORDER BY log.id LIMIT $3"
            );
            lines(kind, &rows)
        };
        // Saying that versions are above 0 makes both databases choose the partial index.
        let moving = |which: &str| {
            format!("SELECT {id} AS id, log.version, log.changed_at {from} {which} LIMIT $2")
        };
        Self {
            bounded: rows(" AND log.id <= $4").into(),
            to_the_end: rows("").into(),
            beyond: moving(&beyond("log.published_seq", "$3")).into(),
            recent: lines(
                kind,
                &format!(
                    "SELECT log.id, log.version, log.deleted {from} log.published_seq > 0 AND log.published_seq <= $3 \
                     AND log.version = log.published_version ORDER BY log.published_seq DESC LIMIT $2"
                ),
            )
            .into(),
            pending: moving("log.version > 0 AND log.version <> log.published_version").into(),
        }
    }
}

impl ChangeLog {
    /// What the log has in these ranges. To be run by [`Database::run`](nudge_runtime::Database::run), in a snapshot.
    pub(crate) async fn digests(
        &self,
        tx: &mut Tx,
        request: &DigestRequest,
    ) -> Result<DigestAnswer, sqlx::Error> {
        let Some(mut in_flight) = self.in_flight(tx, &request.handled).await? else {
            return Ok(DigestAnswer { ranges: Vec::new(), in_flight: None });
        };
        let left_out: HashSet<_> = in_flight.iter().map(|one| one.id.clone()).collect();
        let mut left = if request.list { MAX_LISTED_ROWS } else { MAX_DIGEST_ROWS };
        let mut ranges = Vec::with_capacity(request.ranges.len());
        for range in &request.ranges {
            if left == 0 {
                break;
            }
            let (mut rows, looked_at, to) = self.rows_in(tx, range, left).await?;
            left -= looked_at;
            let whole = to == range.to;
            rows.retain(|row| !left_out.contains(&row.id));
            let count = rows.len() as u64;
            ranges.push(match request.list {
                true => RangeDigest { to, count, digest: None, rows: Some(rows) },
                false => RangeDigest { to, count, digest: Some(Digest::of(&rows)), rows: None },
            });
            if !whole {
                break;
            }
        }
        in_flight.retain(|one| request.ranges.iter().any(|range| range.holds(&one.id)));
        Ok(DigestAnswer { ranges, in_flight: Some(in_flight) })
    }

    /// Up to `limit` rows of a range, how many rows were read for that, and the last ID that was looked at. Rows with
    /// an invalid ID, which SQLite may have, are left out: nobody could ask for them.
    async fn rows_in(
        &self,
        tx: &mut Tx,
        range: &Range,
        limit: usize,
    ) -> Result<(Vec<RangeRow>, usize, Option<EntityId>), sqlx::Error> {
        let sql = match range.to {
            Some(_) => &self.sql.digest.bounded,
            None => &self.sql.digest.to_the_end,
        };
        let query = sqlx::query_as(AssertSqlSafe(sql.clone()))
            .bind(self.entity.as_str())
            .bind(range.after.as_ref().map_or("", EntityId::as_str))
            // One more, to see whether there are any.
            .bind(limit as i64 + 1);
        let query = match &range.to {
            Some(to) => query.bind(to.as_str()),
            None => query,
        };
        let (text,): (String,) = query.fetch_one(&mut **tx).await?;
        let mut rows: Vec<_> = read_lines(&text).collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let looked_at = rows.len();
        let valid: Vec<_> = rows.into_iter().filter_map(|row| row_of(row?)).collect();
        if valid.len() < looked_at {
            let (entity, invalid) = (&self.entity, looked_at - valid.len());
            tracing::error!(%entity, invalid, "rows of nudge_change_log have invalid IDs");
        }
        let to = match more {
            // If none is valid, the rest of the range holds nothing that could be compared.
            true => valid.last().map(|row| row.id.clone()).or_else(|| range.to.clone()),
            false => range.to.clone(),
        };
        Ok((valid, looked_at, to))
    }

    /// What was published last, up to what a subscriber has handled; `None` if that is another stream.
    pub(crate) async fn recent(
        &self,
        tx: &mut Tx,
        handled: &Handled,
    ) -> Result<Option<Vec<RangeRow>>, sqlx::Error> {
        if !self.is_stream(tx, handled).await? {
            return Ok(None);
        }
        let seq = i64::try_from(handled.seq).unwrap_or(i64::MAX);
        let query = sqlx::query_as(AssertSqlSafe(self.sql.digest.recent.clone()));
        let query = query.bind(self.entity.as_str()).bind(MAX_RECENT as i64).bind(seq);
        let (text,): (String,) = query.fetch_one(&mut **tx).await?;
        let mut rows: Vec<_> = read_lines(&text).flatten().filter_map(row_of).collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Some(rows))
    }

    /// Whether it was published to the stream that a subscriber has handled.
    async fn is_stream(&self, tx: &mut Tx, handled: &Handled) -> Result<bool, sqlx::Error> {
        let sql = "SELECT created FROM nudge_relay_stream WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        let created: Option<(String,)> = query.fetch_optional(&mut **tx).await?;
        Ok(created.is_some_and(|(created,)| created == handled.stream_created))
    }

    /// What a subscriber that has handled this much cannot know yet; `None` if that is too much to name, or if it is
    /// another stream.
    async fn in_flight(
        &self,
        tx: &mut Tx,
        handled: &Handled,
    ) -> Result<Option<Vec<InFlight>>, sqlx::Error> {
        if !self.is_stream(tx, handled).await? {
            return Ok(None);
        }
        let most = MAX_IN_FLIGHT as i64 + 1;
        let seq = i64::try_from(handled.seq).unwrap_or(i64::MAX);
        let beyond = sqlx::query(AssertSqlSafe(self.sql.digest.beyond.clone()));
        let beyond = beyond.bind(self.entity.as_str()).bind(most).bind(seq);
        let mut rows = beyond.fetch_all(&mut **tx).await?;
        let pending = sqlx::query(AssertSqlSafe(self.sql.digest.pending.clone()));
        let pending = pending.bind(self.entity.as_str()).bind(most);
        rows.extend(pending.fetch_all(&mut **tx).await?);
        if rows.len() > MAX_IN_FLIGHT {
            return Ok(None);
        }
        let now = clock::now().unix_micros();
        let moving = |row| Moving::from_row(row).ok()?.read(now);
        let mut moving: Vec<_> = rows.iter().filter_map(moving).collect();
        moving.sort_by(|a, b| a.id.cmp(&b.id));
        moving.dedup_by(|a, b| a.id == b.id);
        Ok(Some(moving))
    }
}

/// What is valid in every respect.
fn row_of(line: Line) -> Option<RangeRow> {
    let Line { id, version, deleted } = line;
    let (id, version) = (EntityId::new(&id).ok()?, Version::try_from(version).ok()?);
    Some(RangeRow { id, version, deleted })
}

impl Moving {
    fn read(self, now: i64) -> Option<InFlight> {
        Some(InFlight {
            id: EntityId::new(&self.id.0).ok()?,
            version: Version::try_from(self.version).ok()?,
            seconds: now.saturating_sub(self.changed_at).unsigned_abs() / 1_000_000,
        })
    }
}
