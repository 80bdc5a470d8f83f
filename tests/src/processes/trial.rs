//! A trial: programs, a stream of edits and streams of reads. In the end, everyone must be in step.

use std::{collections::BTreeMap, time::Duration};

use super::{
    SUBSCRIBERS, World,
    compare::{applied, converged, found_by_text, silent},
    reader::Reader,
    writer::{Writer, Written},
};
use crate::{Service, database, figure::Figure};

/// Longest time without a good answer while any replica is up: far more than a busy machine needs.
const LONGEST_GAP: Duration = Duration::from_secs(6);

/// See the module documentation.
pub struct Trial {
    name: &'static str,
    /// The programs.
    pub world: World,
    writer: Option<Writer>,
    written: Written,
    readers: Vec<(Service, Reader)>,
}

impl Trial {
    /// Starts to write and to read.
    pub fn start(name: &'static str, world: World, seed: u64) -> Self {
        let writer = Some(Writer::start(&world.roster, seed));
        let readers = SUBSCRIBERS.map(|service| (service, Reader::start(&world.roster, service)));
        Self { name, world, writer, written: Written::default(), readers: readers.into() }
    }

    /// The stream of edits.
    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("the stream of edits has not ended")
    }

    /// The newest version of each store, once the stream of edits has ended.
    pub fn newest(&self) -> BTreeMap<String, u64> {
        self.written.newest.clone()
    }

    /// Ends the stream of edits, and waits until the programs that are up are in step.
    pub async fn settle(&mut self) -> Duration {
        if let Some(writer) = self.writer.take() {
            self.written = writer.finish().await;
        }
        self.world.nobody_ended();
        converged(&self.world, &self.written).await
    }

    /// Waits until the read models have all edits so far. Returns how long after the last repair that was.
    async fn in_step(&self) -> Duration {
        let written = self.writer.as_ref().map_or_else(|| self.written.clone(), Writer::written);
        for service in SUBSCRIBERS {
            applied(self.world.database(service), &written.newest).await;
        }
        self.world.mended().elapsed()
    }

    /// When everyone is up again: waits until all are in step and at rest, and prints the results.
    pub async fn end(mut self) {
        let in_step = self.in_step().await;
        self.settle().await;
        silent(&self.world).await;
        self.settle().await;
        found_by_text(&self.world, &self.written).await;
        assert_eq!(self.written.surprises, [""; 0], "what was written");
        assert!(self.written.edits > 0, "nothing was written");
        let mut longest_gap = Duration::ZERO;
        for (service, reader) in self.readers {
            let reads = reader.finish().await;
            assert!(reads.faults.is_empty(), "{service:?} was read: {:?}", reads.faults);
            assert!(reads.good > 0, "{service:?} was never read");
            longest_gap = longest_gap.max(reads.longest_gap);
        }
        assert!(longest_gap < LONGEST_GAP, "nobody was answered for {longest_gap:?}");
        Figure {
            kind: database::kind(),
            name: self.name,
            changes: self.written.edits,
            asked: self.world.asked().await,
            subscribers: SUBSCRIBERS.len() as u64,
            in_step,
            longest_gap,
            failed_reads: 0,
        }
        .print();
    }
}
