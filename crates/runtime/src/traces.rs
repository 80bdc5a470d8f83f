//! Traces, as OpenTelemetry defines them: what one change went through, in every service.
//!
//! Off unless [`TraceArgs`] name a collector. A [`Context`] travels from service to service in a header, `traceparent`. Only
//! sampled traces travel: whatever is not sampled costs no more than the decision. No decision but that one depends on a
//! context, so a lost, forged or malformed one costs nothing but a gap in a picture.
//!
//! Spans are written down when they are over, and go through a bounded queue to the program's [`Exporter`].
//!
//! ```
//! use nudge_protocol::Timestamp;
//! use nudge_runtime::traces::{Kind, Parent, Span, Traces};
//!
//! let traces = Traces::default(); // off
//! if let Some(context) = traces.begin(Parent::None) {
//!     let (start, end) = (Timestamp::from_unix_micros(1), Timestamp::from_unix_micros(2));
//!     traces.record(Span::new("tidy up", Kind::Internal, context, start, end));
//! }
//! ```

mod args;
mod context;
mod current;
mod export;
mod kept;
mod sampler;
mod server;
mod span;

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;

pub use args::{TraceArgs, VARIABLES};
pub use context::{Context, MAX_HEADER_BYTES, Parent, TRACEPARENT};
pub use current::{MAX_NOTED_CHANGES, current, note, noted, within};
pub use export::{Build, Exporter, Exporting, FLUSH_DEADLINE, Headers, MAX_QUEUED_SPANS, link};
pub use kept::{Kept, MAX_CONTEXTS_PER_KEY, MAX_KEYS};
pub use sampler::Sampler;
pub use span::{Kind, Span, Value};

use export::{Outcomes, Queue};

/// Where the spans of one service go. Cloning is cheap and shares it; the default is off.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampler: Sampler,
    queue: Queue,
}

/// Why traces cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program cannot export them.
    #[error(
        "OTEL_EXPORTER_OTLP_ENDPOINT: this program is built without traces; build it with `--features otlp`"
    )]
    NotBuilt,
    /// The exporter refuses its settings.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: cannot export to {endpoint}")]
    Exporter {
        /// The collector.
        endpoint: String,
        /// The cause.
        #[source]
        source: crate::BoxError,
    },
}

impl Traces {
    /// Begins to export the spans of `service`, if `args` name a collector.
    ///
    /// # Errors
    /// If no exporter is [linked](link), or the exporter refuses its settings.
    ///
    /// # Panics
    /// If it is not off, outside an async runtime.
    pub fn start(args: &TraceArgs, service: &str) -> Result<Self, StartError> {
        let Some(endpoint) = &args.otlp_endpoint else {
            return Ok(Self::default());
        };
        let service = args.trace_service_name.as_deref().unwrap_or(service);
        let exporter = export::build(endpoint, service, args.headers())?;
        let queue = Queue::start(exporter, Outcomes::default());
        Ok(Self(Some(Arc::new(Inner { sampler: args.sampler(), queue }))))
    }

    /// Whether any span may be recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The context of a new span, if it is to be recorded.
    pub fn begin(&self, parent: Parent) -> Option<Context> {
        let inner = self.0.as_ref()?;
        let context = match parent {
            Parent::Sampled(parent) => parent.child(),
            Parent::Unsampled | Parent::None => Context::root(),
        };
        inner.sampler.samples(parent, context.trace).then_some(context)
    }

    /// Whether this service records spans of a trace that another service sampled.
    pub fn follows(&self, context: Context) -> bool {
        let sampled = Parent::Sampled(context);
        self.0.as_ref().is_some_and(|inner| inner.sampler.samples(sampled, context.trace))
    }

    /// Hands a span to the exporter. Never waits: if the queue is full, the span is lost, which is counted.
    pub fn record(&self, span: Span) {
        if let Some(inner) = &self.0 {
            inner.queue.put(span);
        }
    }

    /// Records a span for each request that `router` answers. Health checks, metrics and the routes of operators are
    /// recorded only for a client that traces them itself.
    pub fn serve(&self, router: Router) -> Router {
        match self.is_on() {
            true => server::layer(router, self.clone()),
            false => router,
        }
    }

    /// Adds the numbers of exported and lost spans to a registry, unless traces are off.
    pub fn register(&self, registry: &mut Registry) {
        if let Some(inner) = &self.0 {
            inner.queue.outcomes.register(registry);
        }
    }

    /// Exports what is queued, and nothing after that. Takes at most [`FLUSH_DEADLINE`]. Call it when the service has
    /// stopped.
    pub async fn flush(&self) {
        if let Some(inner) = &self.0 {
            inner.queue.flush().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that an operator sets is silently ignored. No test of this crate links an exporter.
    #[test]
    fn a_program_without_an_exporter_refuses_a_collector() {
        let endpoint = Some("http://127.0.0.1:4318".to_owned());
        let args = TraceArgs { otlp_endpoint: endpoint, ..TraceArgs::default() };
        let refused = Traces::start(&args, "store-info").unwrap_err().to_string();
        assert!(refused.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{refused}");
        assert!(refused.contains("--features otlp"), "{refused}");
        assert!(!Traces::start(&TraceArgs::default(), "store-info").unwrap().is_on());
    }
}
