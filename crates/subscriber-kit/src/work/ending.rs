//! How a run ends: done, again later, or in the dead-letter table. And the order in which that is
//! made durable and told.

use std::time::Duration;

use nudge_protocol::{EntityId, Version};
use nudge_runtime::mutant::planted;

use crate::{
    intake::acknowledge::{Held, ack_all},
    apply::Apply,
    read_model::guard::Applied,
    work::batch::Batches,
    read_model::dead_letter::Parking,
    telemetry::events::{Event, EventKind, event},
    work::outcome::{Answer, Asked, Reason, Verdict, judge},
    work::queue::{Again, Finish, Run},
};

/// How one run ends, before acknowledgements and the dead-letter table are written.
pub(crate) enum End {
    Done,
    Later { after: Duration, failed: bool, yields: bool, spoils: bool, unsure: bool },
    Park(Parking),
}

impl<A: Apply> Batches<A> {
    /// What the owner said and what became of it, put together.
    pub(crate) fn end_of(
        &self,
        run: &Run<Held>,
        answer: Answer,
        applied: Option<&Applied>,
    ) -> (End, String) {
        let believes = !planted("stale-answer-accepted");
        let floor = if believes { run.floor } else { Version::NONE };
        let verdict = judge(answer, Asked { floor, unsure: run.unsure });
        let version = match answer {
            Answer::Live(version) | Answer::Deleted(version) => version,
            Answer::Unknown => Version::NONE,
        };
        match (applied, verdict) {
            (Some(Applied::Later(error)), _) => {
                let after = self.applying.delay(&self.settings.retry, run.id.as_str());
                let end = End::Later {
                    after,
                    failed: false,
                    yields: false,
                    spoils: false,
                    unsure: run.unsure,
                };
                (end, error.clone())
            }
            // An answer that is not the last word is not the last failure either.
            (Some(Applied::Refused(error)), Verdict::Apply) => {
                (self.dead(run, version, error), error.clone())
            }
            (_, Verdict::Apply) => (End::Done, String::new()),
            (_, Verdict::ApplyAndLookAgain(reason) | Verdict::LookAgain(reason)) => {
                let second_look = Some(self.settings.second_look_after);
                match reason {
                    Reason::Unsure => {
                        let after = self.settings.second_look_after;
                        let end = End::Later {
                            after,
                            failed: false,
                            yields: true,
                            spoils: false,
                            unsure: false,
                        };
                        (end, "the notification named no version: looking again".into())
                    }
                    Reason::Stale => {
                        let error = format!(
                            "the owner answered version {version}, older than the notification's {}",
                            run.floor
                        );
                        (self.again_or_park(run, &error, None, false), error)
                    }
                    Reason::Unknown => {
                        let error = "the owner does not know this id";
                        (self.again_or_park(run, error, second_look, false), error.into())
                    }
                }
            }
        }
    }

    /// Another try from memory while there are few, later from the table. `unanswered` says that
    /// the callback failed because of this key.
    pub(crate) fn again_or_park(
        &self,
        run: &Run<Held>,
        error: &str,
        first_delay: Option<Duration>,
        unanswered: bool,
    ) -> End {
        let settings = &self.settings;
        let attempts = run.attempts + 1;
        if planted("give-up-after-three") && attempts >= 3 {
            return End::Done;
        }
        let crowded = self.progress.retrying.get() >= settings.max_retrying_keys as i64;
        if attempts < settings.max_attempts_in_memory && !crowded {
            let usual = settings.retry.delay(attempts, run.id.as_str());
            let after = first_delay.filter(|_| attempts == 1).unwrap_or(usual);
            return End::Later {
                after,
                failed: true,
                yields: !unanswered,
                spoils: unanswered,
                unsure: run.unsure,
            };
        }
        let parked = attempts.saturating_sub(settings.max_attempts_in_memory) + 1;
        let retry_after = match attempts < settings.max_attempts_in_memory {
            // Parked only because memory is crowded: its own pace goes on.
            true => settings.retry.delay(attempts, run.id.as_str()).max(settings.second_look_after),
            false => settings.parked_retry.delay(parked, run.id.as_str()),
        };
        let (id, floor, error) = (run.id.clone(), run.floor, error.to_owned());
        End::Park(Parking {
            id,
            floor,
            answered: Version::NONE,
            error,
            attempts,
            retry_after: Some(retry_after),
        })
    }

    /// A failure that a retry alone does not mend. `answered` is the version that the owner
    /// answered, if it did.
    pub(crate) fn dead(&self, run: &Run<Held>, answered: Version, error: &str) -> End {
        End::Park(Parking {
            id: run.id.clone(),
            floor: run.floor.max(answered),
            answered,
            error: error.to_owned(),
            attempts: run.attempts + 1,
            retry_after: None,
        })
    }

    /// Writes the dead-letter table, then acknowledges. In that order: a key is only given back to
    /// the broker once it is durable in the read model or in the table.
    pub(crate) async fn end(
        &self,
        runs: Vec<Run<Held>>,
        ends: Vec<(End, String)>,
    ) -> Vec<(EntityId, Finish<Held>)> {
        let parkings: Vec<_> = ends
            .iter()
            .filter_map(
                |(end, _)| {
                    if let End::Park(parking) = end { Some(parking.clone()) } else { None }
                },
            )
            .collect();
        let parked = match parkings.is_empty() || planted("parked-and-forgotten") {
            true => Ok(()),
            false => self.dead_letters.park(&parkings).await,
        };
        if !parkings.is_empty() {
            self.parking.note(parked.is_err());
        }
        if let Err(error) = &parked {
            tracing::warn!(entity = %self.entity, %error, "cannot write dead letters: will try again");
        }
        let mut finished = Vec::with_capacity(runs.len());
        let mut handled = Vec::new();
        for (run, (end, reason)) in runs.into_iter().zip(ends) {
            let id = run.id.clone();
            let finish = match end {
                End::Park(_) if parked.is_err() => {
                    let after = self.parking.delay(&self.settings.retry, run.id.as_str());
                    let Run { tokens, floor, unsure, .. } = run;
                    let (failed, yields, spoils) = (false, false, false);
                    Finish::Again(Again { after, tokens, floor, unsure, failed, yields, spoils })
                }
                End::Later { .. } if planted("ack-on-error") => {
                    handled.extend(run.tokens);
                    Finish::Done
                }
                End::Later { after, failed, yields, spoils, unsure } => {
                    self.note(EventKind::Retried, &run.id, &reason);
                    let Run { tokens, floor, .. } = run;
                    Finish::Again(Again { after, tokens, floor, unsure, failed, yields, spoils })
                }
                End::Park(Parking { retry_after, .. }) => {
                    let kind = match retry_after {
                        Some(_) => EventKind::Retried,
                        None => EventKind::DeadLettered,
                    };
                    self.note(kind, &run.id, &reason);
                    handled.extend(run.tokens);
                    Finish::Done
                }
                End::Done => {
                    handled.extend(run.tokens);
                    Finish::Done
                }
            };
            finished.push((id, finish));
        }
        if !planted("never-acknowledged") {
            ack_all(handled).await;
        }
        finished
    }

    fn note(&self, kind: EventKind, id: &EntityId, reason: &str) {
        match kind {
            EventKind::DeadLettered => {
                self.progress.dead_lettered.inc();
                tracing::warn!(entity = %self.entity, %id, error = reason, "dead letter");
            }
            _ => {
                self.progress.retried.inc();
            }
        }
        let detail = Some(reason.to_owned());
        self.events.emit(|| Event { detail, ..event(kind, &self.entity, id) });
    }
}
