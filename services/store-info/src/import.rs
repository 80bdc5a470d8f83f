//! Imports stores, one per line, from a request or from the sample file.
//!
//! Only the current line and one batch are held in memory, so a file may be larger than the
//! memory. Each batch is one transaction: if the sender goes away, what was committed stays.

mod lines;
mod read;

use std::time::Duration;

use nudge_protocol::{EntityId, EntityName};
use nudge_publisher::stream::told_of;
use nudge_runtime::{Broker, body::MAX_BODY_BYTES, problem::chain};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::{domain::Store, storage::Stores};
pub use read::{MAX_ERROR_CHARS, ReadLine, Reader};

/// Longest line, in bytes: a store on a line may be as large as one in a request body.
pub const MAX_LINE_BYTES: usize = MAX_BODY_BYTES;
/// How much is read before other tasks get their turn, in bytes: a few milliseconds of work if each line is
/// short and invalid.
const TURN_BYTES: usize = 2 * 1024;
/// Stores per transaction.
pub const BATCH_LINES: usize = 256;
/// Most rejected lines that a report lists; all are counted.
pub const MAX_REJECTED_LISTED: usize = 1_000;

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Report {
    /// Stores that did not exist, or were deleted.
    pub created: u64,
    /// Stores whose state changed.
    pub updated: u64,
    /// Lines that changed nothing: the store had this state already, or a later line of the same batch
    /// overrides it.
    pub unchanged: u64,
    /// Number of invalid lines.
    pub rejected_total: u64,
    /// The first 1,000 of them.
    #[schema(max_items = 1000)]
    pub rejected: Vec<Rejected>,
}

/// An invalid line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rejected {
    /// Its number, from 1, counting blank lines.
    pub line: u64,
    /// What is wrong with it.
    pub error: String,
}

/// An import in progress.
#[derive(Debug)]
pub struct Import {
    stores: Stores,
    reader: Reader,
    batch: Vec<Store>,
    report: Report,
}

impl Import {
    /// An import into these stores.
    pub fn new(stores: Stores) -> Self {
        let (reader, batch) = (Reader::new(MAX_LINE_BYTES), Vec::with_capacity(BATCH_LINES));
        Self { stores, reader, batch, report: Report::default() }
    }

    /// The result so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Processes the next bytes, however the input is split.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), sqlx::Error> {
        for bytes in bytes.chunks(TURN_BYTES) {
            for line in self.reader.feed(bytes) {
                self.line(line).await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Processes the rest as the last line, and writes the last batch.
    pub async fn finish(mut self) -> Result<Report, (Report, sqlx::Error)> {
        let done = async {
            if let Some(line) = self.reader.finish() {
                self.line(line).await?;
            }
            self.flush().await
        };
        match done.await {
            Ok(()) => Ok(self.report),
            Err(error) => Err((self.report, error)),
        }
    }

    async fn line(&mut self, line: ReadLine) -> Result<(), sqlx::Error> {
        match line.store {
            Ok(store) => self.batch.push(store),
            Err(error) => self.reject(line.number, error),
        }
        if self.batch.len() >= BATCH_LINES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), sqlx::Error> {
        if !self.batch.is_empty() {
            let done = self.stores.import(std::mem::take(&mut self.batch)).await?;
            self.report.created += done.created;
            self.report.updated += done.updated;
            self.report.unchanged += done.unchanged;
        }
        Ok(())
    }

    fn reject(&mut self, line: u64, error: String) {
        self.stores.metrics().rejected_line();
        self.report.rejected_total += 1;
        if self.report.rejected.len() < MAX_REJECTED_LISTED {
            self.report.rejected.push(Rejected { line, error });
        }
    }
}

/// The project's own invented stores.
const SAMPLE: &[u8] = include_bytes!("../sample/stores.ndjson");

/// How long a start waits for NATS before it continues without the sample stores.
const STREAM_WAIT: Duration = Duration::from_secs(2);
/// Pause between attempts.
const STREAM_PAUSE: Duration = Duration::from_millis(50);

/// Loads the sample stores, unless this database has, or ever had, stores; or the stream holds stores: then the
/// database was lost, and samples would hide that.
///
/// If NATS does not answer within two seconds, the returned task loads them once it does.
pub async fn load_sample(
    stores: &Stores,
    broker: &Broker,
    stop: CancellationToken,
) -> Result<Option<JoinHandle<()>>, sqlx::Error> {
    if !is_untouched(stores).await? {
        tracing::info!("the database has stores, so the sample stores are not loaded");
        return Ok(None);
    }
    let entity = stores.publisher().entity();
    if let Ok(told_of) = tokio::time::timeout(STREAM_WAIT, stream_tells_of(broker, entity)).await {
        return load_unless_lost(stores, told_of).await.map(|()| None);
    }
    tracing::warn!(
        "NATS does not answer, so it is unknown whether this database was lost: loading the sample stores once it does"
    );
    let (stores, broker) = (stores.clone(), broker.clone());
    let late = async move {
        let told_of = stream_tells_of(&broker, stores.publisher().entity()).await;
        if is_untouched(&stores).await? {
            load_unless_lost(&stores, told_of).await?;
        }
        Ok::<_, sqlx::Error>(())
    };
    Ok(Some(tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            loaded = late => if let Err(error) = loaded {
                tracing::error!(error = %chain(&error), "cannot load the sample stores");
            }
        }
    })))
}

/// How many stores the stream holds. The connection may still be being established.
async fn stream_tells_of(broker: &Broker, entity: &EntityName) -> u64 {
    loop {
        match told_of(broker, entity).await {
            Ok(told_of) => return told_of,
            Err(_) => tokio::time::sleep(STREAM_PAUSE).await,
        }
    }
}

/// Whether this database has no stores, and never had any of the samples.
async fn is_untouched(stores: &Stores) -> Result<bool, sqlx::Error> {
    let lines = SAMPLE.split(|byte| *byte == b'\n').map(serde_json::from_slice);
    let ids: Vec<EntityId> =
        lines.filter_map(|line: Result<IdOnly, _>| Some(line.ok()?.id)).collect();
    stores.is_untouched(&ids).await
}

async fn load_unless_lost(stores: &Stores, told_of: u64) -> Result<(), sqlx::Error> {
    if told_of > 0 {
        tracing::warn!(
            told_of,
            "the database is empty but the stream holds stores: was the database lost? Not loading the sample stores"
        );
        return Ok(());
    }
    let mut import = Import::new(stores.clone());
    import.feed(SAMPLE).await?;
    let report = import.finish().await.map_err(|(_, error)| error)?;
    tracing::info!(
        created = report.created,
        rejected = report.rejected_total,
        "sample stores loaded"
    );
    Ok(())
}

#[derive(serde::Deserialize)]
struct IdOnly {
    id: EntityId,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use nudge_publisher::Publisher;
    use nudge_runtime::{Database, database::Durability};

    use super::*;
    use crate::metrics::Metrics;

    /// Such lines wait for no database, which would give others their turn.
    #[tokio::test]
    async fn lines_that_are_no_stores_leave_others_their_turn() {
        let db = Database::open("sqlite::memory:", Durability::Full).await.unwrap();
        let publisher = Publisher::open(&db, crate::entity()).await.unwrap();
        let stores = Stores::open(&db, publisher, Metrics::default()).await.unwrap();
        let junk = "{}\n".repeat(10_000);
        let turns = AtomicUsize::new(0);
        let others = async {
            loop {
                turns.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
        };
        let mut import = Import::new(stores);
        tokio::select! {
            biased;
            fed = import.feed(junk.as_bytes()) => fed.unwrap(),
            () = others => unreachable!("they go on forever"),
        }
        let turns = turns.load(Relaxed);
        assert!(turns >= junk.len() / TURN_BYTES, "{turns}");
        assert_eq!(import.report().rejected_total, 10_000);
    }

    #[test]
    fn every_sample_line_is_a_store_of_its_own() {
        let lines = Reader::new(MAX_LINE_BYTES).feed(SAMPLE);
        let stores: Vec<_> = lines.map(|line| line.store.unwrap()).collect();
        let ids: std::collections::HashSet<_> = stores.iter().map(|store| &store.id).collect();
        assert!(stores.len() >= 60 && ids.len() == stores.len());
        assert!(stores.iter().all(|store| !store.menus.is_empty()));
    }
}
