//! The traces of changes, from the request that made them to their notifications.
//!
//! The change log knows nothing of traces: each write would have to pay for a column. What this process committed and has
//! not yet published is kept in memory instead (decision 29).

use nudge_protocol::{EntityId, EntityName, Timestamp, Version};
use nudge_runtime::{
    clock,
    traces::{self, Context, Kept, Kind, Span, Traces},
};

use crate::change_log::outbox::Pending;

/// What was committed here, and is not published yet. Cloning is cheap and shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    traces: Traces,
    waiting: Kept<Version>,
}

impl Written {
    pub(crate) fn new(traces: Traces) -> Self {
        Self { traces, waiting: Kept::default() }
    }

    /// The caller's transaction, whose changes were noted, is being committed. To be called before it is: afterwards the
    /// relay may already have published them.
    pub(crate) fn commits(&self, entity: &EntityName) {
        let Some((context, changes)) = traces::noted(entity).filter(|_| self.traces.is_on()) else {
            return;
        };
        for (id, version) in changes {
            self.waiting.keep(&id, context, version);
        }
    }

    /// Begins to publish a row. `None` if no trace wants to know.
    pub(crate) fn publishes(&self, row: &Pending) -> Option<Publication<'_>> {
        if self.waiting.is_empty() {
            return None;
        }
        let written = self.waiting.take(&row.id, row.version);
        let spans = written.iter().map(|(context, version)| (*context, context.child(), *version));
        let spans: Vec<_> = spans.collect();
        (!spans.is_empty()).then(|| Publication { of: self, spans, began: clock::now() })
    }
}

/// One notification that is being published, for all the changes that it tells of.
pub(crate) struct Publication<'a> {
    of: &'a Written,
    /// The span of each request that changed the entity, the span of its publication, and the version that it made.
    spans: Vec<(Context, Context, Version)>,
    began: Timestamp,
}

impl Publication<'_> {
    /// The context that the notification carries: that of the newest change.
    pub(crate) fn context(&self) -> Option<Context> {
        self.spans.last().map(|(_, own, _)| *own)
    }

    /// It was acknowledged, with this sequence, or it was not: then it will be published once more.
    pub(crate) fn ends(self, entity: &EntityName, id: &EntityId, sequence: Option<u64>) {
        let (end, carried) = (clock::now(), self.context());
        for (written, own, version) in self.spans {
            let mut span =
                Span::new(format!("publish {entity}"), Kind::Producer, own, self.began, end)
                    .child_of(written)
                    .with("nudge.entity", entity.to_string())
                    .with("nudge.id", id.to_string())
                    .with("nudge.version", version.get() as i64);
            // An earlier change of the same entity is told by the notification of the newest.
            span.links.extend(carried.filter(|carried| *carried != own));
            match sequence {
                Some(sequence) => span = span.with("nudge.sequence", sequence as i64),
                None => {
                    span.error = Some("not acknowledged".into());
                    self.of.waiting.keep(id, written, version);
                }
            }
            self.of.traces.record(span);
        }
    }
}
