//! How rows are made pending again: their messages are lost, or unknown.

use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::{database::Kind, row, set_sql::strings};
use sqlx::{Any, AssertSqlSafe};

use super::{
    ChangeLog,
    outbox::{Published, bytes, read_id},
    tables::beyond,
};
use crate::sink::StreamInfo;

row! {
    /// The stream, as stored in the log.
    pub(crate) struct StreamRow {
        /// Which incarnation.
        pub(crate) created: String,
        /// The sequence up to which everything in it is marked.
        known_seq: i64,
        /// The run of the server under which it was last compared completely.
        pub(crate) checked: Option<String>,
    }
}

impl StreamRow {
    pub(crate) fn known(&self) -> u64 {
        self.known_seq.unsigned_abs()
    }
}

/// Which rows to make pending again. `$2` is the parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Ids,
    Beyond,
    /// Sequences of another stream, which are all meaningless now.
    InAnother,
}

impl Which {
    fn condition(self, kind: Kind) -> String {
        match self {
            // Also those that are already pending: an earlier acknowledgement must not count for
            // them either.
            Self::Ids => format!("id IN {}", strings(kind, "$2")),
            Self::Beyond => beyond("published_seq", "$2"),
            // Skip rows that already say so: a log may be long, and a writer may have them locked.
            Self::InAnother => "(published_version <> 0 OR published_seq <> $2)".to_owned(),
        }
    }

    /// Makes rows pending again, and returns those that are skipped because they are locked.
    pub(super) fn unpublish(self, kind: Kind) -> String {
        let condition = self.condition(kind);
        let seq = match self {
            // The check takes time: what was marked meanwhile has a higher sequence.
            Self::Ids => "CASE WHEN published_seq > $3 THEN published_seq ELSE $3 END",
            Self::Beyond | Self::InAnother => "$3",
        };
        let set = format!("SET published_version = 0, published_seq = {seq}");
        match kind {
            Kind::Sqlite => {
                format!("UPDATE nudge_change_log {set} WHERE entity = $1 AND {condition}")
            }
            Kind::Postgres => format!(
                "WITH wanted AS (SELECT id FROM nudge_change_log WHERE entity = $1 AND {condition}), \
                 free AS (SELECT id FROM nudge_change_log WHERE entity = $1 AND {condition} \
                 FOR NO KEY UPDATE SKIP LOCKED), \
                 done AS (UPDATE nudge_change_log AS log {set} \
                 FROM free WHERE log.entity = $1 AND log.id = free.id) \
                 SELECT id FROM wanted EXCEPT SELECT id FROM free"
            ),
        }
    }
}

row! {
    struct PublishedRow { id: Vec<u8>, version: i64, published: i64, seq: i64 }
}

row! {
    struct Rows { number: i64, published: i64, last: Option<Vec<u8>> }
}

/// Rows of the log, in ID order.
#[derive(Debug, Default)]
pub(crate) struct PublishedPage {
    /// What was published for rows that changed recently and are not pending.
    pub(crate) looked_for: Vec<Published>,
    /// Rows that changed recently and are pending.
    pub(crate) pending: Vec<EntityId>,
    /// How many rows there are.
    pub(crate) rows: u64,
    /// How many of them were published.
    pub(crate) published: u64,
    /// The ID after which the next page begins; `None` if this was the last.
    pub(crate) next: Option<Vec<u8>>,
}

impl ChangeLog {
    /// The next `limit` rows after an ID, and which of them changed at `since` or later. The whole log is read
    /// this way, page by page: an index on the time of a change would make every change more expensive.
    pub(crate) async fn published_page(
        &self,
        since: Timestamp,
        after: &[u8],
        limit: usize,
    ) -> Result<PublishedPage, sqlx::Error> {
        let kind = self.db.kind();
        // A row whose ID is not text is never published.
        let (after_id, last_id, only_text) = match kind {
            Kind::Sqlite => ("CAST($2 AS TEXT)", "CAST($4 AS TEXT)", "AND typeof(id) = 'text'"),
            Kind::Postgres => ("convert_from($2, 'UTF8')", "convert_from($4, 'UTF8')", ""),
        };
        let from =
            format!("FROM nudge_change_log WHERE entity = $1 AND id > {after_id} {only_text}");
        let count = format!(
            "SELECT count(*) AS number, {} AS last, \
             COALESCE(sum(CASE WHEN published_version <> 0 THEN 1 ELSE 0 END), 0) AS published \
             FROM (SELECT id, published_version {from} ORDER BY id LIMIT $3) AS page",
            bytes(kind, "max(id)")
        );
        let changed = format!(
            "SELECT {} AS id, version, published_version AS published, published_seq AS seq {from} \
             AND changed_at >= $3 AND id <= {last_id}",
            bytes(kind, "id")
        );
        let entity = self.entity.as_str();
        // Row by row, only what changed: that is little, and crossing from SQLite's thread is slow.
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            let query = sqlx::query_as(AssertSqlSafe(count.clone())).bind(entity);
            let rows: Rows =
                query.bind(after.to_vec()).bind(limit as i64).fetch_one(&mut *tx).await?;
            let Some(last) = rows.last.clone() else { return Ok((rows, Vec::new())) };
            let query = sqlx::query_as(AssertSqlSafe(changed.clone())).bind(entity);
            let query = query.bind(after.to_vec()).bind(since.unix_micros()).bind(last);
            let changed: Vec<PublishedRow> = query.fetch_all(&mut *tx).await?;
            Ok::<_, sqlx::Error>((rows, changed))
        };
        let (rows, changed) = self.db.run_afresh(look).await?;
        let mut page = PublishedPage {
            rows: rows.number.unsigned_abs(),
            published: rows.published.unsigned_abs(),
            next: rows.last.filter(|_| rows.number as usize == limit),
            ..PublishedPage::default()
        };
        for row in changed {
            match row.version == row.published {
                true => page.looked_for.extend(Published::read(&row.id, row.published, row.seq)),
                false => page.pending.extend(read_id(&row.id)),
            }
        }
        Ok(page)
    }

    /// Makes these rows pending again, since it is unknown what the stream holds for them. `last_seq` is the
    /// stream's current last sequence: acknowledgements of earlier publishes no longer count for them. Returns
    /// those that are skipped because a writer has them locked; they must not be forgotten.
    pub(crate) async fn unpublish(
        &self,
        ids: &[EntityId],
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::Ids, serde_json::json!(ids).to_string(), last_seq).await
    }

    /// Makes every row pending again whose sequence is beyond the stream's end: the broker
    /// went back to an older state. Returns those that are skipped.
    pub(crate) async fn unpublish_beyond(
        &self,
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::Beyond, last_seq as i64, last_seq).await
    }

    /// Makes every row pending again: the stream is another one. Returns those that are skipped.
    pub(crate) async fn unpublish_all(&self, last_seq: u64) -> Result<Vec<EntityId>, sqlx::Error> {
        self.make_pending(Which::InAnother, last_seq as i64, last_seq).await
    }

    async fn make_pending<'q, P>(
        &self,
        which: Which,
        parameter: P,
        last_seq: u64,
    ) -> Result<Vec<EntityId>, sqlx::Error>
    where
        P: Send + sqlx::Encode<'q, Any> + sqlx::Type<Any> + 'q,
    {
        let sql = which.unpublish(self.db.kind());
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(self.entity.to_string());
        let query = query.bind(parameter).bind(last_seq as i64);
        let work = async {
            let mut tx = self.db.begin_skipping_locked().await?;
            let left: Vec<(String,)> = query.fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(left)
        };
        let left = self.db.run(work).await?;
        Ok(left.iter().filter_map(|(id,)| EntityId::new(id).ok()).collect())
    }

    /// The stream that this log was published to, as last stored.
    pub(crate) async fn stream(&self) -> Result<Option<StreamRow>, sqlx::Error> {
        let sql = "SELECT created, known_seq, checked FROM nudge_relay_stream WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        self.db.run(query.fetch_optional(self.db.reader())).await
    }

    /// From now on, only acknowledgements by this run of the server count. To be called before finding out what the
    /// last one lost: otherwise another relay, which does not know yet, could mark what was lost with it.
    pub(crate) async fn trust_only(&self, server: Option<&str>) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_relay_stream SET server = $2 WHERE entity = $1";
        let query = sqlx::query(sql).bind(self.entity.as_str());
        self.db.write_skipping_locked(query.bind(server.map(str::to_owned))).await.map(drop)
    }

    /// What this run of the server may have lost at its start need not be looked for any more.
    pub(crate) async fn set_checked(&self, server: Option<&str>) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_relay_stream SET checked = $2 WHERE entity = $1";
        let query = sqlx::query(sql).bind(self.entity.as_str());
        self.db.write_skipping_locked(query.bind(server.map(str::to_owned))).await.map(drop)
    }

    /// Stores which stream it is, and the sequence up to which everything in it is marked.
    pub(crate) async fn set_stream(&self, now: &StreamInfo, known: u64) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO nudge_relay_stream (entity, created, known_seq, server) \
                   VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (entity) DO UPDATE SET created = excluded.created, \
                   known_seq = excluded.known_seq, server = excluded.server";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(now.created.as_str());
        let query = query.bind(known as i64).bind(now.server.clone());
        self.db.write_skipping_locked(query).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use nudge_protocol::{Change, EntityName};
    use nudge_testbed::TestDatabase;

    use super::*;
    use crate::change_log::MIGRATIONS;

    #[tokio::test]
    async fn an_acknowledgement_from_before_a_row_was_made_pending_again_counts_no_more() {
        for kind in [Kind::Sqlite, Kind::Postgres] {
            let database = TestDatabase::of(kind).await;
            let db = database.open().await;
            db.migrate("publisher", MIGRATIONS).await.unwrap();
            let log = ChangeLog::new(db, EntityName::new("store").unwrap());
            counts_no_more_from_before_it_was_made_pending(&log).await;
            counts_no_more_from_before_the_server_was_started_again(&log).await;
            log.db.close().await;
        }
    }

    /// Else they would be published again as soon as the writer ends.
    #[tokio::test]
    async fn rows_that_were_never_published_and_are_locked_do_not_have_to_be_made_pending() {
        let database = TestDatabase::of(Kind::Postgres).await;
        let db = database.open().await;
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        let log = ChangeLog::new(db, EntityName::new("store").unwrap());
        let changes = [(EntityId::new("42").unwrap(), Change::Updated)];
        let mut tx = log.db.begin().await.unwrap();
        log.record(&mut tx, &changes).await.unwrap();
        tx.commit().await.unwrap();
        let mut writer = log.db.begin().await.unwrap();
        log.record(&mut writer, &changes).await.unwrap();
        assert_eq!(log.unpublish_all(0).await.unwrap(), []);
        // An acknowledgement that the stream before gave may count for it, though.
        assert_eq!(log.unpublish_all(7).await.unwrap(), [changes[0].0.clone()]);
        writer.rollback().await.unwrap();
        log.db.close().await;
    }

    async fn counts_no_more_from_before_it_was_made_pending(log: &ChangeLog) {
        let id = EntityId::new("42").unwrap();
        let mut tx = log.db.begin().await.unwrap();
        let changes = [(id.clone(), Change::Updated)];
        let version = log.record(&mut tx, &changes).await.unwrap()[0];
        tx.commit().await.unwrap();
        let mark = async |seq| {
            let id = id.clone();
            log.mark(&[Published { id, version, seq }], None).await.unwrap();
            log.count_pending().await.unwrap().0
        };
        // Pending already, and published by a relay that has not marked it yet.
        let unpublish = async |seq| log.unpublish(std::slice::from_ref(&id), seq).await.unwrap();
        unpublish(5).await;
        assert_eq!((mark(5).await, mark(7).await), (1, 0));
        unpublish(20).await;
        assert_eq!((mark(20).await, mark(21).await), (1, 0));
        // A slow check: what was marked meanwhile is not forgotten.
        unpublish(7).await;
        assert_eq!((mark(20).await, mark(21).await, mark(22).await), (1, 1, 0));
        // The broker went back: from here on, lower places are new ones.
        log.unpublish_beyond(3).await.unwrap();
        assert_eq!((mark(3).await, mark(4).await), (1, 0));
        // Another stream begins at one.
        log.unpublish_all(0).await.unwrap();
        assert_eq!((mark(0).await, mark(1).await), (1, 0));
    }

    /// Another relay has it from a server that has ended since, and does not know that yet.
    async fn counts_no_more_from_before_the_server_was_started_again(log: &ChangeLog) {
        assert_eq!(log.count_pending().await.unwrap().0, 0);
        let id = EntityId::new("42").unwrap();
        let mut tx = log.db.begin().await.unwrap();
        let changes = [(id.clone(), Change::Updated)];
        let version = log.record(&mut tx, &changes).await.unwrap()[0];
        tx.commit().await.unwrap();
        let mark = async |seq, server| {
            let id = id.clone();
            log.mark(&[Published { id, version, seq }], server).await.unwrap();
            log.count_pending().await.unwrap().0
        };
        let server = Some("first".to_owned());
        let stream = StreamInfo {
            created: "now".to_owned(),
            last_seq: 9,
            subjects: 1,
            server,
            altered: None,
            doubled: false,
        };
        log.set_stream(&stream, 9).await.unwrap();
        assert_eq!(log.stream().await.unwrap().unwrap().checked, None);
        log.set_checked(stream.server.as_deref()).await.unwrap();
        assert_eq!(log.stream().await.unwrap().unwrap().checked, stream.server);
        log.trust_only(Some("second")).await.unwrap();
        assert_eq!(mark(30, Some("first")).await, 1);
        assert_eq!(log.stream().await.unwrap().unwrap().checked, stream.server);
        assert_eq!(mark(30, Some("second")).await, 0);
    }
}
