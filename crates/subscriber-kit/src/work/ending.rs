//! How a run ends: done, again, or in the dead-letter table. Pure, like [`outcome`](super::outcome), whose verdict it
//! turns into an action.

use std::time::Duration;

use nudge_protocol::Version;
use nudge_runtime::mutated;

use crate::{
    read_model::{dead_letter::Parking, guard::Applied},
    retry::database_delay,
    settings::Settings,
    work::{
        outcome::{Answer, Asked, Reason, Verdict, judge},
        run::{Cause, Run},
    },
};

/// How one run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing is left to do.
    Done,
    /// It must run again.
    Again { cause: Cause, after: Duration, reason: String },
    /// It goes into the dead-letter table, as a parked key or as a dead letter.
    Park(Parking),
}

/// What an end depends on besides the run itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace<'a> {
    pub(crate) settings: &'a Settings,
    /// Keys in memory whose last run failed.
    pub(crate) retrying: usize,
    /// Number of consecutive failures to write the read model's database.
    pub(crate) database_failures: u32,
}

impl Pace<'_> {
    /// The end of a run whose key the owner answered. `applied` says what became of the answer.
    pub(crate) fn answered<T>(
        &self,
        run: &Run<T>,
        answer: Answer,
        applied: Option<&Applied>,
    ) -> End {
        let verdict = judge(answer, Asked { floor: run.floor, unsure: run.unsure });
        match (applied, verdict) {
            (Some(Applied::Later(error) | Applied::Unclear(error)), _) => {
                self.database_failed(run, error)
            }
            (Some(Applied::Failed(error)), _) => self.key_failed(run, error),
            // Only a final answer can make the failure final.
            (Some(Applied::Refused(error)), Verdict::Apply) => dead(run, answer.version(), error),
            (_, Verdict::Apply) => End::Done,
            (_, Verdict::ApplyAndLookAgain(reason) | Verdict::LookAgain(reason)) => {
                self.look_again(run, answer, reason)
            }
        }
    }

    fn look_again<T>(&self, run: &Run<T>, answer: Answer, reason: Reason) -> End {
        let second_look = self.settings.second_look_after;
        match reason {
            Reason::Unsure => End::Again {
                cause: Cause::SecondLook,
                after: second_look,
                reason: "the notification has no version: asking again".to_owned(),
            },
            Reason::Stale => {
                let (version, floor) = (answer.version(), run.floor);
                let error = format!(
                    "the owner answered with version {version}, older than the notification's {floor}"
                );
                self.again_or_park(run, Cause::NotYet, &error, None)
            }
            Reason::Unknown => {
                let error = "the owner does not know this ID";
                let end = self.again_or_park(run, Cause::Unknown, error, Some(second_look));
                self.wait_for_owner(end)
            }
        }
    }

    /// A key that the owner does not know usually does not exist, so it is asked for less and less often.
    fn wait_for_owner(&self, end: End) -> End {
        let End::Park(parking) = end else {
            return end;
        };
        let parked = (parking.attempts + 1).checked_sub(self.settings.max_attempts_in_memory);
        let retry_after = match parked.filter(|parked| *parked > 0) {
            Some(parked) => Some(self.settings.unknown_retry.delay(parked, parking.id.as_str())),
            None => parking.retry_after,
        };
        End::Park(Parking { unknown: true, retry_after, ..parking })
    }

    /// The owner fails for every key.
    pub(crate) fn owner_failed(&self, reason: &str) -> End {
        let after = self.settings.retry.initial;
        End::Again { cause: Cause::OwnerFailed, after, reason: reason.to_owned() }
    }

    /// The read model's database, or its dead-letter table, could not be written.
    pub(crate) fn database_failed<T>(&self, run: &Run<T>, reason: &str) -> End {
        let after = database_delay(&self.settings.retry, self.database_failures, run.id.as_str());
        End::Again { cause: Cause::DatabaseFailed, after, reason: reason.to_owned() }
    }

    /// The callback, or applying its answer, failed because of this key.
    pub(crate) fn key_failed<T>(&self, run: &Run<T>, error: &str) -> End {
        self.again_or_park(run, Cause::KeyFailed, error, None)
    }

    /// Retries from memory at first, and from the table after too many attempts or while too many keys fail.
    /// `first_delay` replaces the usual delay after the first failure.
    fn again_or_park<T>(
        &self,
        run: &Run<T>,
        cause: Cause,
        error: &str,
        first_delay: Option<Duration>,
    ) -> End {
        let (settings, id, attempts) =
            (self.settings, run.id.as_str(), run.attempts.saturating_add(1));
        let crowded = self.retrying >= settings.max_retrying_keys;
        let few = attempts < settings.max_attempts_in_memory;
        let end = if few && !crowded {
            let usual = settings.retry.delay(attempts, id);
            let after = first_delay.filter(|_| attempts == 1).unwrap_or(usual);
            End::Again { cause, after, reason: error.to_owned() }
        } else {
            let retry_after = match few {
                // Parked only because too many keys fail: its usual delays continue.
                true => settings.retry.delay(attempts, id).max(settings.second_look_after),
                false => {
                    let parked = attempts - settings.max_attempts_in_memory + 1;
                    settings.parked_retry.delay(parked, id)
                }
            };
            End::Park(Parking {
                id: run.id.clone(),
                floor: run.floor,
                answered: Version::NONE,
                error: error.to_owned(),
                attempts,
                retry_after: Some(retry_after),
                unknown: false,
            })
        };
        mutated!(GiveUpAfterThree: end => if attempts < 3 { end } else { End::Done })
    }
}

/// A failure that a retry alone cannot fix. `answered` is the version that the owner answered, if it did.
pub(crate) fn dead<T>(run: &Run<T>, answered: Version, error: &str) -> End {
    End::Park(Parking {
        id: run.id.clone(),
        floor: run.floor.max(answered),
        answered,
        error: error.to_owned(),
        attempts: run.attempts.saturating_add(1),
        retry_after: None,
        unknown: false,
    })
}

#[cfg(test)]
mod tests {
    use nudge_protocol::{EntityId, Timestamp};

    use super::*;
    use crate::work::run::Heard;

    fn v(n: u64) -> Version {
        Version::new(n).unwrap()
    }

    fn run(attempts: u32) -> Run<()> {
        let id = EntityId::new("42").unwrap();
        Run {
            lane: crate::work::run::Lane::Backlog,
            id,
            tokens: Vec::new(),
            floor: v(10),
            unsure: false,
            attempts,
            unknown_since: None,
            heard: Heard::unasked(Timestamp::default()),
            error: None,
        }
    }

    fn with_pace<R>(retrying: usize, test: impl FnOnce(Pace<'_>) -> R) -> R {
        let settings = Settings::default();
        test(Pace { settings: &settings, retrying, database_failures: 0 })
    }

    fn cause(end: &End) -> Option<Cause> {
        match end {
            End::Again { cause, .. } => Some(*cause),
            _ => None,
        }
    }

    #[test]
    fn an_answer_at_the_floor_ends_the_run_whether_it_was_newer_or_not() {
        with_pace(0, |pace| {
            for applied in [Applied::Newer, Applied::NotNewer] {
                let end = pace.answered(&run(0), Answer::Live(v(10)), Some(&applied));
                assert_eq!(end, End::Done);
            }
        });
    }

    #[test]
    fn only_the_last_word_of_the_owner_can_become_a_dead_letter() {
        let refused = Applied::Refused("too long".to_owned());
        with_pace(0, |pace| {
            let End::Park(parking) = pace.answered(&run(2), Answer::Live(v(11)), Some(&refused))
            else {
                panic!("it is a dead letter");
            };
            assert_eq!((parking.retry_after, parking.floor, parking.attempts), (None, v(11), 3));
            let stale = pace.answered(&run(2), Answer::Live(v(9)), Some(&refused));
            assert_eq!(cause(&stale), Some(Cause::NotYet));
        });
    }

    #[test]
    fn a_database_in_trouble_is_no_fault_of_the_key_whatever_the_owner_said() {
        let error = || "full".to_owned();
        with_pace(usize::MAX, |pace| {
            for applied in [Applied::Later(error()), Applied::Unclear(error())] {
                for answer in [Answer::Live(v(10)), Answer::Deleted(v(9))] {
                    let end = pace.answered(&run(99), answer, Some(&applied));
                    assert_eq!(cause(&end), Some(Cause::DatabaseFailed));
                }
            }
        });
    }

    #[test]
    fn a_key_that_fails_alone_for_no_clear_reason_is_tried_again_and_never_a_dead_letter() {
        let failed = Applied::Failed("too slow".to_owned());
        with_pace(0, |pace| {
            let end = pace.answered(&run(0), Answer::Live(v(10)), Some(&failed));
            assert_eq!(cause(&end), Some(Cause::KeyFailed));
            let End::Park(parking) = pace.answered(&run(99), Answer::Live(v(10)), Some(&failed))
            else {
                panic!("it is parked");
            };
            assert!(parking.retry_after.is_some());
        });
    }

    #[test]
    fn unknown_gets_its_second_look_soon_and_is_never_done() {
        with_pace(0, |pace| {
            let End::Again { cause, after, .. } = pace.answered(&run(0), Answer::Unknown, None)
            else {
                panic!("it is looked at again");
            };
            assert_eq!((cause, after), (Cause::Unknown, pace.settings.second_look_after));
            let late = pace.settings.max_attempts_in_memory - 1;
            assert!(matches!(pace.answered(&run(late), Answer::Unknown, None), End::Park(_)));
        });
    }

    #[test]
    fn a_key_that_fails_is_parked_at_just_the_attempt_that_the_settings_name() {
        with_pace(0, |pace| {
            let most = pace.settings.max_attempts_in_memory;
            assert_eq!(cause(&pace.key_failed(&run(most - 2), "x")), Some(Cause::KeyFailed));
            let End::Park(parking) = pace.key_failed(&run(most - 1), "x") else {
                panic!("it is parked");
            };
            assert_eq!((parking.attempts, parking.answered), (most, Version::NONE));
            assert_eq!(parking.retry_after, Some(pace.settings.parked_retry.delay(1, "42")));
        });
    }

    #[test]
    fn when_memory_is_crowded_a_key_is_parked_at_its_own_pace() {
        let most = Settings::default().max_retrying_keys;
        with_pace(most - 1, |pace| assert!(cause(&pace.key_failed(&run(0), "x")).is_some()));
        with_pace(most, |pace| {
            let End::Park(parking) = pace.key_failed(&run(0), "x") else {
                panic!("it is parked");
            };
            let own = pace.settings.retry.delay(1, "42").max(pace.settings.second_look_after);
            assert_eq!(parking.retry_after, Some(own));
        });
    }
}
