//! From a bounded queue to the collector, in the background.

use std::{collections::HashMap, future::Future, pin::Pin, sync::OnceLock, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Span, StartError};
use crate::{BoxError, problem::chain};

/// Spans that wait to be exported. Those that find no room are lost.
pub const MAX_QUEUED_SPANS: usize = 8_192;
/// Longest time that a program waits for its last spans to be exported when it stops.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// Most spans in one request to the collector.
const MAX_BATCH_SPANS: usize = 512;
/// How long spans are gathered for a request that is not full.
const GATHERING: Duration = Duration::from_millis(500);
/// Longest time for one request to the collector. Its spans are lost then, as with any other failure.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between two log lines about a collector that fails.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The future of an export.
pub type Exporting<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;

/// The port to a collector.
pub trait Exporter: Send + Sync {
    /// Sends these spans. Called for one batch at a time, and given up after a few seconds.
    fn export(&self, spans: Vec<Span>) -> Exporting<'_>;
}

/// Names and values of headers. A value may be a secret.
pub type Headers = HashMap<String, String>;

/// Makes the exporter to the collector at a base URL, for the service of this name.
pub type Build =
    fn(endpoint: &str, service: &str, headers: Headers) -> Result<Box<dyn Exporter>, BoxError>;

/// A program is built with one exporter or none, as it is built with one allocator.
static LINKED: OnceLock<Build> = OnceLock::new();

/// Makes traces available to this program. Call it first in `main`, if the program is built with them.
pub fn link(build: Build) {
    // A second call would name the same one.
    let _ = LINKED.set(build);
}

pub(super) fn build(
    endpoint: &str,
    service: &str,
    headers: Headers,
) -> Result<Box<dyn Exporter>, StartError> {
    let build = LINKED.get().ok_or(StartError::NotBuilt)?;
    build(endpoint, service, headers)
        .map_err(|source| StartError::Exporter { endpoint: endpoint.to_owned(), source })
}

/// How many spans were exported or lost.
#[derive(Clone, Debug)]
pub(super) struct Outcomes(Family<[(&'static str, &'static str); 1], Counter>);

const EXPORTED: &str = "exported";
const QUEUE_FULL: &str = "queue-full";
const REFUSED: &str = "refused";

impl Default for Outcomes {
    fn default() -> Self {
        let outcomes = Self(Family::default());
        [EXPORTED, QUEUE_FULL, REFUSED].into_iter().for_each(|outcome| outcomes.count(outcome, 0));
        outcomes
    }
}

impl Outcomes {
    fn count(&self, outcome: &'static str, by: usize) {
        self.0.get_or_create(&[("outcome", outcome)]).inc_by(by as u64);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "nudge_spans",
            "Spans for the collector of traces: exported, lost because too many waited (queue-full), or because the \
             collector was away or did not take them (refused); bad: any lost",
            self.0.clone(),
        );
    }
}

/// The way to the collector.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<Span>,
    pub(super) outcomes: Outcomes,
    stop: CancellationToken,
    task: TaskTracker,
}

impl Queue {
    pub(super) fn start(exporter: Box<dyn Exporter>, outcomes: Outcomes) -> Self {
        let (spans, waiting) = mpsc::channel(MAX_QUEUED_SPANS);
        let (stop, task) = (CancellationToken::new(), TaskTracker::new());
        let outlet = Outlet { exporter, outcomes: outcomes.clone(), said: None, lost: 0 };
        task.spawn(outlet.run(waiting, stop.clone()));
        task.close();
        Self { spans, outcomes, stop, task }
    }

    pub(super) fn put(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.outcomes.count(QUEUE_FULL, 1);
        }
    }

    pub(super) async fn flush(&self) {
        self.stop.cancel();
        if timeout(FLUSH_DEADLINE, self.task.wait()).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time: they are lost");
        }
    }
}

/// The task that exports.
struct Outlet {
    exporter: Box<dyn Exporter>,
    outcomes: Outcomes,
    /// When it was last said that the collector fails; `None` while it does not.
    said: Option<Instant>,
    /// Spans lost since then.
    lost: usize,
}

impl Outlet {
    /// Exports until `stop`, then what is left.
    async fn run(mut self, mut waiting: mpsc::Receiver<Span>, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            let gathering = gather(&mut waiting, &mut batch);
            let stopped = stop.run_until_cancelled(gathering).await.is_none();
            if stopped {
                waiting.close();
                while batch.len() < MAX_BATCH_SPANS
                    && let Ok(span) = waiting.try_recv()
                {
                    batch.push(span);
                }
            }
            if batch.is_empty() {
                return;
            }
            self.export(batch).await;
        }
    }

    async fn export(&mut self, batch: Vec<Span>) {
        let count = batch.len();
        let exported = match timeout(EXPORT_TIMEOUT, self.exporter.export(batch)).await {
            Ok(exported) => exported,
            Err(elapsed) => Err(elapsed.into()),
        };
        match exported {
            Ok(()) => {
                self.outcomes.count(EXPORTED, count);
                if self.said.take().is_some() {
                    tracing::info!(
                        lost = std::mem::take(&mut self.lost),
                        "the collector takes spans again"
                    );
                }
            }
            Err(error) => {
                self.outcomes.count(REFUSED, count);
                self.lost += count;
                if self.said.is_none_or(|said| said.elapsed() >= SAID_AGAIN_AFTER) {
                    let (lost, error) = (self.lost, chain(&*error));
                    tracing::warn!(lost, error, "the collector does not take spans: they are lost");
                    self.said = Some(Instant::now());
                }
            }
        }
    }
}

/// Waits for a span, and a little longer for more of them. What was received is in `batch` even if this is cancelled.
async fn gather(waiting: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    let mut until = None;
    while batch.len() < MAX_BATCH_SPANS {
        let more = waiting.recv_many(batch, MAX_BATCH_SPANS - batch.len());
        let received = match until {
            None => more.await,
            Some(until) => timeout_at(until, more).await.unwrap_or(0),
        };
        if received == 0 {
            return;
        }
        until.get_or_insert_with(|| Instant::now() + GATHERING);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use nudge_protocol::Timestamp;
    use parking_lot::Mutex;

    use super::*;
    use crate::traces::{Context, Kind};

    #[derive(Clone, Default)]
    struct Collected(Arc<Mutex<Vec<usize>>>);

    impl Exporter for Collected {
        fn export(&self, spans: Vec<Span>) -> Exporting<'_> {
            self.0.lock().push(spans.len());
            Box::pin(async { Ok(()) })
        }
    }

    struct Hangs;

    impl Exporter for Hangs {
        fn export(&self, _: Vec<Span>) -> Exporting<'_> {
            Box::pin(pending())
        }
    }

    fn span() -> Span {
        let at = Timestamp::from_unix_micros(1);
        Span::new("test", Kind::Internal, Context::root(), at, at)
    }

    fn counted(outcomes: &Outcomes, outcome: &'static str) -> u64 {
        outcomes.0.get_or_create(&[("outcome", outcome)]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_exports_all_that_waits() {
        let collected = Collected::default();
        let queue = Queue::start(Box::new(collected.clone()), Outcomes::default());
        (0..1_000).for_each(|_| queue.put(span()));
        queue.flush().await;
        assert_eq!(collected.0.lock().iter().sum::<usize>(), 1_000);
        assert!(collected.0.lock().iter().all(|batch| *batch <= MAX_BATCH_SPANS));
        assert_eq!(counted(&queue.outcomes, EXPORTED), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_hangs_holds_up_nobody_and_what_is_lost_is_counted() {
        let queue = Queue::start(Box::new(Hangs), Outcomes::default());
        let (all, began) = (2 * MAX_QUEUED_SPANS, Instant::now());
        (0..all).for_each(|_| queue.put(span()));
        assert_eq!(counted(&queue.outcomes, QUEUE_FULL), (all - MAX_QUEUED_SPANS) as u64);
        tokio::time::sleep(EXPORT_TIMEOUT + 2 * GATHERING).await;
        assert_eq!(counted(&queue.outcomes, REFUSED), MAX_BATCH_SPANS as u64);
        let stopping = Instant::now();
        queue.flush().await;
        assert_eq!(stopping.elapsed(), FLUSH_DEADLINE, "{:?}", began.elapsed());
    }
}
