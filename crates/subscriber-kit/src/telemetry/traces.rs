//! Traces of changes, from their notifications to this read model.
//!
//! A callback is for many keys, and a key may have been announced by many messages. So a callback is a trace of its own,
//! linked to what it is for; and each change's own trace gets spans that say how long this service waited, fetched and
//! applied, which are made when the run is over. The work queue knows nothing of it.

use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    admin::{KeyRun, RunOutcome},
};
use nudge_runtime::{
    clock,
    traces::{Context, Kept, Kind, Span, Traces},
};

use crate::{callback::owner_client::FetchError, telemetry::runs::Call};

/// Most changes that the span of a callback is linked to.
const MAX_LINKS: usize = 128;

/// The traces of what is to be done for one followed entity. Cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    traces: Traces,
    /// By the time of their messages.
    waiting: Kept<Timestamp>,
}

/// A callback that a trace wants to know of.
pub(crate) struct Callback<'a> {
    of: &'a Traces,
    pub(crate) context: Context,
    links: Vec<Context>,
    asked_at: Timestamp,
}

impl Waiting {
    pub(crate) fn new(traces: &Traces) -> Self {
        Self { traces: traces.clone(), waiting: Kept::default() }
    }

    /// A message about a key arrived.
    pub(crate) fn heard(&self, id: &EntityId, context: Option<Context>, now: Timestamp) {
        if let Some(context) = context.filter(|context| self.traces.follows(*context)) {
            self.waiting.keep(id, context, now);
        }
    }

    /// Begins a callback. `None` if none of these keys is traced.
    pub(crate) fn calls_back(&self, ids: &[EntityId], asked_at: Timestamp) -> Option<Callback<'_>> {
        if self.waiting.is_empty() {
            return None;
        }
        let traced = ids.iter().flat_map(|id| self.waiting.get(id, asked_at));
        let links: Vec<_> = traced.map(|(context, _)| context).take(MAX_LINKS).collect();
        let of = &self.traces;
        (!links.is_empty()).then(|| Callback { of, context: Context::root(), links, asked_at })
    }

    /// What a callback answered was applied, since `answered_at` until now.
    pub(crate) fn applied(
        &self,
        entity: &EntityName,
        callback: Option<Context>,
        answered_at: Timestamp,
        states: usize,
    ) {
        let Some(callback) = callback else { return };
        let (name, own) = (format!("apply batch of {entity}"), callback.child());
        let span = Span::new(name, Kind::Internal, own, answered_at, clock::now());
        self.traces.record(span.child_of(callback).with("nudge.states", states as i64));
    }

    /// Runs are over. Those that must run again stay traced.
    pub(crate) fn ended(&self, entity: &EntityName, runs: &[(EntityId, KeyRun)], call: &Call) {
        if self.waiting.is_empty() {
            return;
        }
        for (id, run) in runs {
            let of_it = match run.outcome {
                Some(RunOutcome::Retried) => self.waiting.get(id, call.asked_at),
                _ => self.waiting.take(id, call.asked_at),
            };
            for (context, arrived) in of_it {
                self.tell(entity, id, run, call.span, (context, arrived));
            }
        }
    }

    /// One run, in the trace of one change that it was for.
    fn tell(
        &self,
        entity: &EntityName,
        id: &EntityId,
        run: &KeyRun,
        callback: Option<Context>,
        (change, arrived): (Context, Timestamp),
    ) {
        let process = change.child();
        let part = |name: &str, start, end| {
            let name = format!("{name} {entity}");
            Span::new(name, Kind::Internal, process.child(), start, end).child_of(process)
        };
        let mut whole =
            Span::new(format!("process {entity}"), Kind::Consumer, process, arrived, run.ended_at)
                .child_of(change)
                .with("nudge.entity", entity.to_string())
                .with("nudge.id", id.to_string())
                .with("nudge.notifications", i64::from(run.notifications))
                .with("nudge.attempts", i64::from(run.attempts));
        let version = run.version.map(|version| ("nudge.version", (version.get() as i64).into()));
        let outcome = run.outcome.map(|outcome| ("nudge.outcome", outcome.as_str().into()));
        whole.attributes.extend(version.into_iter().chain(outcome));
        whole.error.clone_from(&run.error);
        self.traces.record(whole);
        self.traces.record(part("wait", arrived, run.asked_at));
        let answered_at = run.answered_at.unwrap_or(run.ended_at);
        let mut fetch = part("fetch", run.asked_at, answered_at);
        fetch.links.extend(callback);
        self.traces.record(fetch);
        if let Some(answered_at) = run.answered_at {
            let mut apply = part("apply", answered_at, run.ended_at);
            apply.links.extend(callback);
            self.traces.record(apply);
        }
    }
}

impl Callback<'_> {
    /// It was answered, or it failed.
    pub(crate) fn ends<T>(
        self,
        entity: &EntityName,
        keys: usize,
        answered: &Result<T, FetchError>,
    ) {
        let name = format!("callback for {entity}");
        let mut span = Span::new(name, Kind::Client, self.context, self.asked_at, clock::now())
            .with("nudge.entity", entity.to_string())
            .with("nudge.keys", keys as i64);
        span.links = self.links;
        span.error = answered.as_ref().err().map(|error| error.message.clone());
        self.of.record(span);
    }
}
