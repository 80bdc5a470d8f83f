//! One batch of keys: callback, judgement, guarded apply, acknowledgement.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use nudge_protocol::{
    EntityId, EntityName, Timestamp, Version,
    sync_api::{Item, ItemStatus},
};
use tokio::time::Instant;

use crate::{
    acknowledge::Held,
    apply::{Applied, Applier, Apply, EntityState},
    breaker::Breaker,
    dead_letter::{DeadLetters, Parking},
    events::{Event, EventKind, Events},
    outcome::{Answer, Asked, Reason, Verdict, judge},
    owner_client::{FetchError, FetchErrorKind, OwnerClient, fetch_all},
    progress::Progress,
    settings::Settings,
    wait::Waiters,
    work_queue::{Again, Finish, Run},
};

/// An owner, and the breaker that all its followed entities share.
#[derive(Clone)]
pub(crate) struct OwnerLink {
    pub(crate) client: Arc<dyn OwnerClient>,
    pub(crate) breaker: Arc<Mutex<Breaker>>,
}

impl OwnerLink {
    pub(crate) fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn failed(&self, error: &FetchError) {
        self.breaker()
            .failure(Instant::now().into_std(), error.retry_after);
    }
}

/// What all batches of one followed entity share.
pub(crate) struct Batches<A> {
    pub(crate) entity: EntityName,
    pub(crate) owner: OwnerLink,
    pub(crate) applier: Applier<A>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) waiters: Waiters,
    pub(crate) events: Events,
    pub(crate) progress: Arc<Progress>,
    pub(crate) settings: Settings,
    pub(crate) after_commit: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// How a batch ended.
#[derive(Default)]
pub(crate) struct Ended {
    /// Keys whose run is over.
    pub(crate) finished: Vec<(EntityId, Finish<Held>)>,
    /// Smaller batches to run in this one's place, to find the key that spoils it.
    pub(crate) split: Vec<Vec<Run<Held>>>,
}

/// How one run ends, before acknowledgements and the dead-letter table are written.
enum End {
    Done,
    Later {
        after: Duration,
        failed: bool,
        yields: bool,
        unsure: bool,
    },
    Park(Parking),
}

impl<A: Apply> Batches<A> {
    /// Runs a batch to its end.
    pub(crate) async fn run(&self, runs: Vec<Run<Held>>) -> Ended {
        let ids: Vec<_> = runs.iter().map(|run| run.id.clone()).collect();
        self.progress.callbacks.inc();
        match fetch_all(&*self.owner.client, &self.entity, &ids, A::FIELDS).await {
            Ok(items) => {
                self.owner.breaker().success();
                self.progress.fetched.inc_by(items.len() as u64);
                let ends = self.judge_and_apply(&runs, items).await;
                Ended {
                    finished: self.end(runs, ends).await,
                    split: Vec::new(),
                }
            }
            Err(error) => self.fetch_failed(runs, error).await,
        }
    }

    /// Finds out whose fault a failed callback is: the owner's (nothing counts against any key),
    /// or that of some key in the batch.
    async fn fetch_failed(&self, mut runs: Vec<Run<Held>>, error: FetchError) -> Ended {
        let owners_fault = match error.kind {
            FetchErrorKind::Unavailable | FetchErrorKind::Misconfigured => Some(error.clone()),
            FetchErrorKind::Refused => None,
            FetchErrorKind::Broken => self.owner.client.probe(&self.entity).await.err(),
        };
        if let Some(fault) = owners_fault {
            self.owner.failed(&fault);
            self.progress.set_error(Some(fault.message.clone()));
            let after = self.settings.retry.initial;
            let end = |run: &Run<Held>| {
                let unsure = run.unsure;
                (
                    End::Later {
                        after,
                        failed: false,
                        yields: false,
                        unsure,
                    },
                    fault.message.clone(),
                )
            };
            let ends = runs.iter().map(end).collect();
            return Ended {
                finished: self.end(runs, ends).await,
                split: Vec::new(),
            };
        }
        self.owner.breaker().success();
        if runs.len() > 1 {
            let right = runs.split_off(runs.len() / 2);
            return Ended {
                finished: Vec::new(),
                split: vec![runs, right],
            };
        }
        let refused = error.kind == FetchErrorKind::Refused;
        let end = |run: &Run<Held>| match refused {
            true => self.dead(run, run.floor, &error.message),
            false => self.again_or_park(run, &error.message, None, false),
        };
        let ends = runs
            .iter()
            .map(|run| (end(run), error.message.clone()))
            .collect();
        Ended {
            finished: self.end(runs, ends).await,
            split: Vec::new(),
        }
    }

    /// Applies what the owner answered. Returns an end for each run, in order, with its reason.
    async fn judge_and_apply(&self, runs: &[Run<Held>], items: Vec<Item>) -> Vec<(End, String)> {
        let mut entities = Vec::with_capacity(items.len());
        let mut answers: HashMap<EntityId, Result<Answer, String>> =
            HashMap::with_capacity(items.len());
        for item in items {
            self.events.emit(|| Event {
                version: item.version,
                deleted: Some(item.status == ItemStatus::Deleted),
                ..Event::now(EventKind::Fetched, &self.entity, &item.id)
            });
            let answer = decode::<A>(&item, &mut entities);
            answers.insert(item.id, answer);
        }
        let mut applied = HashMap::with_capacity(entities.len());
        if !entities.is_empty() {
            let changed: HashMap<EntityId, (Version, Timestamp, bool)> = entities
                .iter()
                .map(|e| (e.id.clone(), (e.version, e.changed_at, e.state.is_none())))
                .collect();
            applied.extend(self.applier.apply(&mut entities).await);
            self.tell(&applied, &changed);
        }
        let end = |run: &Run<Held>| match answers.get(&run.id) {
            Some(Ok(answer)) => self.end_of(run, *answer, applied.get(&run.id)),
            Some(Err(error)) => (self.dead(run, run.floor, error), error.clone()),
            // `fetch_all` answers for every id, or fails.
            None => (
                self.again_or_park(run, "not answered", None, false),
                "not answered".into(),
            ),
        };
        runs.iter().map(end).collect()
    }

    fn end_of(&self, run: &Run<Held>, answer: Answer, applied: Option<&Applied>) -> (End, String) {
        let verdict = judge(
            answer,
            Asked {
                floor: run.floor,
                unsure: run.unsure,
            },
        );
        let version = match answer {
            Answer::Live(version) | Answer::Deleted(version) => version,
            Answer::Unknown => Version::NONE,
        };
        match (applied, verdict) {
            (Some(Applied::Later(error)), _) => {
                let after = self.settings.retry.delay(2, run.id.as_str());
                let end = End::Later {
                    after,
                    failed: false,
                    yields: false,
                    unsure: run.unsure,
                };
                (end, error.clone())
            }
            (Some(Applied::Refused(error)), _) => (self.dead(run, version, error), error.clone()),
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
                            unsure: false,
                        };
                        (
                            end,
                            "the notification named no version: looking again".into(),
                        )
                    }
                    Reason::Stale => {
                        let error = format!(
                            "the owner answered version {version}, older than the notification's {}",
                            run.floor
                        );
                        (self.again_or_park(run, &error, None, true), error)
                    }
                    Reason::Unknown => {
                        let error = "the owner does not know this id";
                        (
                            self.again_or_park(run, error, second_look, true),
                            error.into(),
                        )
                    }
                }
            }
        }
    }

    /// Another try from memory while there are few, later from the table.
    fn again_or_park(
        &self,
        run: &Run<Held>,
        error: &str,
        first_delay: Option<Duration>,
        yields: bool,
    ) -> End {
        let settings = &self.settings;
        let attempts = run.attempts + 1;
        let crowded = self.progress.retrying.get() >= settings.max_retrying_keys as i64;
        if attempts < settings.max_attempts_in_memory && !crowded {
            let usual = settings.retry.delay(attempts, run.id.as_str());
            let after = first_delay.filter(|_| attempts == 1).unwrap_or(usual);
            return End::Later {
                after,
                failed: true,
                yields,
                unsure: run.unsure,
            };
        }
        let parked = attempts.saturating_sub(settings.max_attempts_in_memory) + 1;
        let retry_after = match attempts < settings.max_attempts_in_memory {
            // Parked only because memory is crowded: its own pace goes on.
            true => settings
                .retry
                .delay(attempts, run.id.as_str())
                .max(settings.second_look_after),
            false => settings.parked_retry.delay(parked, run.id.as_str()),
        };
        let (id, floor, error) = (run.id.clone(), run.floor, error.to_owned());
        End::Park(Parking {
            id,
            floor,
            error,
            attempts,
            retry_after: Some(retry_after),
        })
    }

    /// A failure that a retry alone does not mend.
    fn dead(&self, run: &Run<Held>, version: Version, error: &str) -> End {
        End::Park(Parking {
            id: run.id.clone(),
            floor: run.floor.max(version),
            error: error.to_owned(),
            attempts: run.attempts + 1,
            retry_after: None,
        })
    }

    /// Tells metrics, watchers and waiters what was committed.
    fn tell(
        &self,
        applied: &HashMap<EntityId, Applied>,
        changed: &HashMap<EntityId, (Version, Timestamp, bool)>,
    ) {
        let now = Timestamp::now();
        let mut any = false;
        for (id, applied) in applied {
            let Some(&(version, changed_at, deleted)) = changed.get(id) else {
                continue;
            };
            let lag = now.seconds_since(changed_at).max(0.0);
            let kind = match applied {
                Applied::Newer => {
                    self.progress.applied.inc();
                    self.progress.lag.observe(lag);
                    self.progress
                        .last_lag_micros
                        .store((lag * 1e6) as i64, Relaxed);
                    EventKind::Applied
                }
                Applied::NotNewer => {
                    self.progress.ignored.inc();
                    EventKind::Ignored
                }
                Applied::Later(_) | Applied::Refused(_) => continue,
            };
            any = true;
            self.events.emit(|| Event {
                version: Some(version),
                lag_seconds: Some(lag),
                deleted: Some(deleted),
                ..Event::now(kind, &self.entity, id)
            });
        }
        if any {
            self.progress.progressed();
            self.progress.set_error(None);
            self.waiters.wake(applied.keys());
            if let Some(after_commit) = &self.after_commit {
                after_commit();
            }
        }
    }

    /// Writes the dead-letter table, then acknowledges. In that order: a key is only given back to
    /// the broker once it is durable in the read model or in the table.
    async fn end(
        &self,
        runs: Vec<Run<Held>>,
        ends: Vec<(End, String)>,
    ) -> Vec<(EntityId, Finish<Held>)> {
        let parkings: Vec<_> = ends
            .iter()
            .filter_map(|(end, _)| {
                if let End::Park(parking) = end {
                    Some(parking.clone())
                } else {
                    None
                }
            })
            .collect();
        let parked = match parkings.is_empty() {
            true => Ok(()),
            false => self.dead_letters.park(&parkings).await,
        };
        if let Err(error) = &parked {
            tracing::warn!(entity = %self.entity, %error, "cannot write dead letters: will try again");
        }
        let mut finished = Vec::with_capacity(runs.len());
        for (run, (end, reason)) in runs.into_iter().zip(ends) {
            let id = run.id.clone();
            let finish = match end {
                End::Park(_) if parked.is_err() => {
                    let after = self.settings.retry.delay(2, run.id.as_str());
                    let Run {
                        tokens,
                        floor,
                        unsure,
                        ..
                    } = run;
                    let (failed, yields) = (false, false);
                    Finish::Again(Again {
                        after,
                        tokens,
                        floor,
                        unsure,
                        failed,
                        yields,
                    })
                }
                End::Later {
                    after,
                    failed,
                    yields,
                    unsure,
                } => {
                    self.note(EventKind::Retried, &run.id, &reason);
                    let Run { tokens, floor, .. } = run;
                    Finish::Again(Again {
                        after,
                        tokens,
                        floor,
                        unsure,
                        failed,
                        yields,
                    })
                }
                End::Park(Parking { retry_after, .. }) => {
                    let kind = match retry_after {
                        Some(_) => EventKind::Retried,
                        None => EventKind::DeadLettered,
                    };
                    self.note(kind, &run.id, &reason);
                    self.done(run.tokens).await
                }
                End::Done => self.done(run.tokens).await,
            };
            finished.push((id, finish));
        }
        finished
    }

    async fn done(&self, tokens: Vec<Held>) -> Finish<Held> {
        for token in tokens {
            token.ack().await;
        }
        Finish::Done
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
        self.events.emit(|| Event {
            detail,
            ..Event::now(kind, &self.entity, id)
        });
    }
}

/// Reads one item: pushes what is to be applied, and says what the owner answered. An error is
/// about this one entity.
fn decode<A: Apply>(
    item: &Item,
    entities: &mut Vec<EntityState<A::State>>,
) -> Result<Answer, String> {
    let known = || item.version.ok_or("the answer has no version".to_owned());
    let answer = match item.status {
        ItemStatus::Unknown => return Ok(Answer::Unknown),
        ItemStatus::Deleted => Answer::Deleted(known()?),
        ItemStatus::Live => Answer::Live(known()?),
    };
    let state = match (&answer, &item.state) {
        (Answer::Live(_), Some(state)) => {
            let state = serde_json::from_str(state.get());
            Some(state.map_err(|error| format!("the state cannot be read: {error}"))?)
        }
        (Answer::Live(_), None) => return Err("the answer has no state".to_owned()),
        _ => None,
    };
    entities.push(EntityState {
        id: item.id.clone(),
        version: known()?,
        changed_at: item.changed_at.unwrap_or_else(Timestamp::now),
        state,
    });
    Ok(answer)
}
