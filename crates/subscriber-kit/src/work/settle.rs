//! Makes the ends of runs durable, reports them, and acknowledges, in this order.

use std::{sync::Arc, time::Duration};

use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    admin::{KeyRun, RunOutcome},
};
use nudge_runtime::{alerts::What, clock, mutated};

use crate::{
    intake::acknowledge::{Held, ack_all},
    read_model::dead_letter::{DeadLetters, Parking, shortened},
    retry::{InARow, RetryPolicy, database_delay},
    telemetry::{
        events::{Event, EventKind, Events, event},
        progress::Progress,
        runs::{Call, MAX_KEPT_ERROR_BYTES, Runs},
        seldom::Seldom,
        traces::Waiting,
    },
    work::{
        ending::End,
        run::{Cause, Run},
    },
};

/// How the work queue continues after a run.
#[derive(Debug)]
pub(crate) enum Finish {
    /// Nothing is left to do.
    Done(EntityId),
    /// It must run again.
    Again { run: Run<Held>, cause: Cause, after: Duration },
}

/// Where the ends of one followed entity's runs are written and reported.
pub(crate) struct Settling {
    pub(crate) entity: EntityName,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) events: Events,
    pub(crate) progress: Arc<Progress>,
    pub(crate) runs: Arc<Runs>,
    pub(crate) traces: Waiting,
    pub(crate) retry: RetryPolicy,
    /// Consecutive failures to write the dead-letter table.
    pub(crate) parking: InARow,
    /// Limits log lines about dead letters.
    pub(crate) said: Seldom,
}

impl Settling {
    /// Writes the dead-letter table, then acknowledges. In this order, because a message may be acknowledged only when
    /// its key is durable in the read model or in the table.
    pub(crate) async fn settle(&self, ends: Vec<(Run<Held>, End)>, call: &Call) -> Vec<Finish> {
        let parked = self.park(&ends).await;
        let now = clock::now();
        let told: Vec<_> =
            ends.iter().map(|(run, end)| (run.id.clone(), told(run, end, call, now))).collect();
        self.traces.ended(&self.entity, &told, call);
        self.runs.keep(told.into_iter());
        let mut finished = Vec::with_capacity(ends.len());
        let mut handled = Vec::new();
        for (mut run, end) in ends {
            finished.push(match end {
                End::Park(_) if !parked => {
                    run.error = Some("the dead-letter table cannot be written".into());
                    let failures = self.parking.count();
                    let after = database_delay(&self.retry, failures, run.id.as_str());
                    Finish::Again { run, cause: Cause::DatabaseFailed, after }
                }
                End::Again { cause, after, reason } => {
                    self.progress.second_looks.inc_by(u64::from(cause.owes_second_look()));
                    run.error = Some(shortened(&reason, MAX_KEPT_ERROR_BYTES).into());
                    self.tell(EventKind::Retried, &run.id, reason);
                    mutated!(AckOnError: Finish::Again { run, cause, after } => {
                        handled.extend(run.tokens);
                        Finish::Done(run.id)
                    })
                }
                End::Park(Parking { retry_after, error, .. }) => {
                    let kind = match retry_after {
                        Some(_) => EventKind::Retried,
                        None => EventKind::DeadLettered,
                    };
                    if kind == EventKind::Retried && self.said.may_say() {
                        let (entity, id) = (&self.entity, &run.id);
                        tracing::warn!(%entity, %id, error, "key parked, to be retried later");
                    }
                    self.tell(kind, &run.id, error);
                    handled.extend(run.tokens);
                    Finish::Done(run.id)
                }
                End::Done => {
                    handled.extend(run.tokens);
                    Finish::Done(run.id)
                }
            });
        }
        ack_all(handled).await;
        finished
    }

    /// Writes the keys to be parked to the table. Returns whether this succeeded.
    async fn park(&self, ends: &[(Run<Held>, End)]) -> bool {
        let parking = |(_, end): &(_, End)| match end {
            End::Park(parking) => Some(parking.clone()),
            _ => None,
        };
        let parkings: Vec<_> = ends.iter().filter_map(parking).collect();
        if parkings.is_empty() {
            return true;
        }
        let parked = self.dead_letters.park(&parkings).await;
        self.parking.note(parked.is_err());
        if let Err(error) = &parked {
            tracing::warn!(entity = %self.entity, %error, "cannot write the dead-letter table: retrying");
        }
        parked.is_ok()
    }

    /// Makes parked keys due, because what failed works again.
    pub(crate) async fn hasten_parked(&self) {
        if let Err(error) = self.dead_letters.hasten_parked().await {
            tracing::warn!(entity = %self.entity, %error, "cannot retry parked keys early: they keep their delays");
        }
    }

    fn tell(&self, kind: EventKind, id: &EntityId, reason: String) {
        match kind {
            EventKind::DeadLettered => {
                self.progress.dead_lettered.inc();
                self.progress.alarm.raise(What::DeadLetter, Some(id));
                if let Some(more) = self.said.left_out() {
                    tracing::warn!(entity = %self.entity, more, "more keys were parked or became dead letters than were logged");
                }
                if self.said.may_say() {
                    tracing::warn!(entity = %self.entity, %id, error = reason, "dead letter");
                }
            }
            _ => {
                self.progress.retried.inc();
            }
        }
        self.events.emit(|| Event { detail: Some(reason), ..event(kind, &self.entity, id) });
    }
}

/// How a run went, to be told afterwards.
fn told(run: &Run<Held>, end: &End, call: &Call, now: Timestamp) -> KeyRun {
    let answer = call.answers.get(&run.id);
    let (outcome, error) = match end {
        End::Done if answer.is_some_and(|answer| answer.applied) => (RunOutcome::Applied, None),
        End::Done => (RunOutcome::Ignored, None),
        End::Again { reason, .. } => (RunOutcome::Retried, Some(reason)),
        End::Park(Parking { retry_after: Some(_), error, .. }) => (RunOutcome::Parked, Some(error)),
        End::Park(Parking { error, .. }) => (RunOutcome::DeadLetter, Some(error)),
    };
    KeyRun {
        since: run.heard.since,
        notifications: run.heard.notifications,
        sequence: (run.heard.sequence > 0).then_some(run.heard.sequence),
        published_at: run.heard.published_at,
        asked_at: call.asked_at,
        answered_at: call.answered_at,
        version: answer.map(|answer| answer.version),
        deleted: answer.map(|answer| answer.deleted),
        changed_at: answer.map(|answer| answer.changed_at),
        outcome: Some(outcome),
        ended_at: now,
        attempts: run.attempts,
        error: error.map(|error| shortened(error, MAX_KEPT_ERROR_BYTES).to_owned()),
    }
}
