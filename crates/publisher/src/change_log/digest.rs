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

/// The columns of a row that is compared.
const VERSIONS: [Column; 3] = [Column::Text("id"), Column::Int("version"), Column::Int("deleted")];

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
            lines(kind, &VERSIONS, &rows)
        };
        // Saying that versions are above 0 makes both databases choose the partial index.
        // In its order, or PostgreSQL would read the whole log instead: it believes that many rows are meant, and that it
        // will soon have enough of them.
        let moving = |which: &str, by: &str| {
            format!(
                "SELECT {id} AS id, log.version, log.changed_at {from} {which} ORDER BY {by} LIMIT $2"
            )
        };
        Self {
            bounded: rows(" AND log.id <= $4").into(),
            to_the_end: rows("").into(),
            beyond: moving(&beyond("log.published_seq", "$3"), "log.published_seq").into(),
            recent: lines(
                kind,
                &VERSIONS,
                &format!(
                    "SELECT log.id, log.version, log.deleted {from} log.published_seq > 0 AND log.published_seq <= $3 \
                     AND log.version = log.published_version ORDER BY log.published_seq DESC LIMIT $2"
                ),
            )
            .into(),
            pending: moving("log.version > 0 AND log.version <> log.published_version", "log.version").into(),
        }
    }
}

impl ChangeLog {
    /// What the log has in these ranges, as far as `most` rows go. To be run by [`Database::run`](nudge_runtime::Database::run), in a snapshot.
    pub(crate) async fn digests(
        &self,
        tx: &mut Tx,
        request: &DigestRequest,
        most: usize,
    ) -> Result<DigestAnswer, sqlx::Error> {
        let Some(mut in_flight) = self.in_flight(tx, &request.handled).await? else {
            return Ok(DigestAnswer { ranges: Vec::new(), in_flight: None });
        };
        let left_out: HashSet<_> = in_flight.iter().map(|one| one.id.clone()).collect();
        let mut left = if request.list { MAX_LISTED_ROWS } else { MAX_DIGEST_ROWS }.min(most);
        let mut ranges = Vec::with_capacity(request.ranges.len());
        // Ranges that follow upon one another are read together.
        for run in request.ranges.chunk_by(follows) {
            if left == 0 {
                break;
            }
            let to = run.last().and_then(|range| range.to.clone());
            let all = Range { after: run[0].after.clone(), to };
            let (mut rows, looked_at, to) = self.rows_in(tx, &all, &run[0], left).await?;
            left -= looked_at;
            rows.retain(|row| !left_out.contains(&row.id));
            ranges.extend(divided(run, rows, to.as_ref(), request.list));
            if to != all.to {
                break;
            }
        }
        in_flight.retain(|one| request.ranges.iter().any(|range| range.holds(&one.id)));
        Ok(DigestAnswer { ranges, in_flight: Some(in_flight) })
    }

    /// Up to `limit` rows of a range that begins with `first`, how many rows were read for that, and the last ID that was
    /// looked at. Rows with an invalid ID, which SQLite may have, are left out: nobody could ask for them.
    async fn rows_in(
        &self,
        tx: &mut Tx,
        range: &Range,
        first: &Range,
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
        let valid: Vec<_> = rows.into_iter().filter_map(row_of).collect();
        if valid.len() < looked_at {
            let (entity, invalid) = (&self.entity, looked_at - valid.len());
            tracing::error!(%entity, invalid, "rows of nudge_change_log have invalid IDs");
        }
        let to = match more {
            // If none is valid, the rest of the first of its parts holds nothing that could be compared.
            true => valid.last().map(|row| row.id.clone()).or_else(|| first.to.clone()),
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
        let mut rows: Vec<_> = read_lines(&text).filter_map(row_of).collect();
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

/// Whether a range begins where the one before ends, and neither ends before it begins.
fn follows(before: &Range, range: &Range) -> bool {
    let rises = |range: &Range| range.to.is_none() || range.to > range.after;
    before.to.is_some() && before.to == range.after && rises(before) && rises(range)
}

/// What lies in each of these ranges, up to the last ID that was looked at.
fn divided(
    ranges: &[Range],
    rows: Vec<RangeRow>,
    looked_to: Option<&EntityId>,
    list: bool,
) -> Vec<RangeDigest> {
    let (mut rows, mut divided) = (rows.into_iter().peekable(), Vec::with_capacity(ranges.len()));
    for range in ranges {
        let ends_here = match (looked_to, &range.to) {
            (Some(looked_to), Some(to)) => looked_to <= to,
            (Some(_), None) => true,
            (None, to) => to.is_none(),
        };
        let to = if ends_here { looked_to.cloned() } else { range.to.clone() };
        let is_within = |row: &RangeRow| to.as_ref().is_none_or(|to| row.id <= *to);
        let within: Vec<_> = std::iter::from_fn(|| rows.next_if(is_within)).collect();
        let count = within.len() as u64;
        divided.push(match list {
            true => RangeDigest { to, count, digest: None, rows: Some(within) },
            false => RangeDigest { to, count, digest: Some(Digest::of(&within)), rows: None },
        });
        if ends_here {
            break;
        }
    }
    divided
}

/// What is valid in every respect.
fn row_of(mut line: Line<'_>) -> Option<RangeRow> {
    let (id, version, deleted) = (line.text()?, line.int()?, line.int()?);
    let (id, version) = (EntityId::new(&id).ok()?, Version::try_from(version).ok()?);
    Some(RangeRow { id, version, deleted: deleted != 0 })
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

#[cfg(test)]
mod tests {
    use nudge_protocol::{Change, EntityName};
    use nudge_runtime::{Database, database::Durability};

    use super::*;
    use crate::change_log::MIGRATIONS;

    const IDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    fn id(text: &str) -> EntityId {
        EntityId::new(text).unwrap()
    }

    fn range(after: &str, to: &str) -> Range {
        let end = |text: &str| (!text.is_empty()).then(|| id(text));
        Range { after: end(after), to: end(to) }
    }

    async fn log() -> ChangeLog {
        let db = Database::open("sqlite::memory:", Durability::Full).await.unwrap();
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        let log = ChangeLog::new(db, EntityName::new("store").unwrap());
        let mut tx = log.db.begin().await.unwrap();
        log.record(&mut tx, &IDS.map(|text| (id(text), Change::Updated))).await.unwrap();
        let published =
            "UPDATE nudge_change_log SET published_version = version, published_seq = 1";
        sqlx::query(published).execute(&mut *tx).await.unwrap();
        let stream = "INSERT INTO nudge_relay_stream (entity, created, known_seq) VALUES ('store', 'now', 1)";
        sqlx::query(stream).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        log
    }

    async fn ask(log: &ChangeLog, ranges: &[Range], list: bool) -> Vec<RangeDigest> {
        let handled = Handled { stream_created: "now".to_owned(), seq: 1 };
        let request = DigestRequest { ranges: ranges.to_vec(), handled, list };
        let mut tx = log.db.snapshot().await.unwrap();
        log.digests(&mut tx, &request, usize::MAX).await.unwrap().ranges
    }

    /// Also those that nobody asks for: that overlap, fall, or are empty.
    #[tokio::test]
    async fn ranges_asked_for_together_have_the_answers_of_each_alone() {
        let log = log().await;
        let together = [
            vec![range("", "b"), range("b", "d"), range("d", "")],
            vec![range("", "b"), range("b", "bb"), range("bb", "bc"), range("bc", "d")],
            vec![range("a", "c"), range("d", "f"), range("f", "g")],
            vec![range("a", "c"), range("c", "b"), range("b", "e")],
            vec![range("", ""), range("a", "b"), range("b", "b"), range("b", "")],
            vec![range("x", "y"), range("y", "")],
        ];
        for ranges in together {
            for list in [false, true] {
                let mut alone = Vec::new();
                for range in &ranges {
                    alone.extend(ask(&log, std::slice::from_ref(range), list).await);
                }
                assert_eq!(ask(&log, &ranges, list).await, alone, "{ranges:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_an_answer_has_no_room_for_is_left_to_the_next() {
        let log = log().await;
        let ranges = [range("", "c"), range("c", "e"), range("e", "")];
        let mut tx = log.db.snapshot().await.unwrap();
        for (limit, ends) in
            [(2, vec!["b"]), (3, vec!["c"]), (4, vec!["c", "d"]), (6, vec!["c", "e", "f"])]
        {
            let (rows, looked_at, to) =
                log.rows_in(&mut tx, &range("", ""), &ranges[0], limit).await.unwrap();
            assert_eq!(looked_at, limit);
            let found = divided(&ranges, rows, to.as_ref(), true);
            let of: Vec<_> = found.iter().map(|one| one.to.clone().unwrap()).collect();
            assert_eq!(of, ends.into_iter().map(id).collect::<Vec<_>>());
            assert_eq!(found.iter().map(|one| one.count).sum::<u64>(), limit as u64);
        }
    }
}
