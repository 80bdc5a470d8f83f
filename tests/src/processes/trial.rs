//! A trial: programs, a stream of edits, streams of reads; and at its end, everyone in step.

use std::{collections::BTreeMap, time::Duration};

use super::{
    World,
    compare::{converged, silent},
    reader::Reader,
    roster::Service,
    writer::{Writer, Written},
};
use crate::database;

/// See the module's description.
pub struct Trial {
    name: &'static str,
    /// The programs.
    pub world: World,
    writer: Option<Writer>,
    written: Written,
    readers: Vec<(Service, Reader)>,
}

impl Trial {
    /// Begins to write and to read.
    pub fn start(name: &'static str, world: World, seed: u64) -> Self {
        let writer = Some(Writer::start(&world.roster, seed));
        let readers = [Service::Search, Service::Review]
            .map(|service| (service, Reader::start(&world.roster, service)));
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

    /// Ends the stream of edits, and waits until those who are up are in step.
    pub async fn settle(&mut self) -> Duration {
        if let Some(writer) = self.writer.take() {
            self.written = writer.finish().await;
        }
        self.world.nobody_ended();
        converged(&self.world, &self.written).await
    }

    /// Everybody is up again: waits until all are in step and at rest, and says how it went.
    pub async fn end(mut self) {
        let after = self.settle().await;
        let callbacks = self.world.callbacks().await;
        silent(&self.world).await;
        self.settle().await;
        assert_eq!(self.written.surprises, [""; 0], "what was written");
        assert!(self.written.edits > 0, "nothing was written");
        let mut line = format!(
            "figure | {:?} | {} | {} edits | {:.2} callbacks per edit and subscriber | in step after {:.2} s",
            database::kind(),
            self.name,
            self.written.edits,
            callbacks as f64 / self.written.edits as f64 / 2.0,
            after.as_secs_f64(),
        );
        for (service, reader) in self.readers {
            let reads = reader.finish().await;
            assert!(reads.faults.is_empty(), "{service:?} was read: {:?}", reads.faults);
            assert!(reads.good > 0, "{service:?} was never read");
            let gap = reads.longest_gap.as_millis();
            line += &format!(" | longest gap in reads of {service:?} {gap} ms");
        }
        println!("{line}");
    }
}
