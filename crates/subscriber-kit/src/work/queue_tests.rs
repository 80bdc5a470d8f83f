use std::collections::BTreeMap;

use nudge_protocol::Timestamp;
use proptest::prelude::*;

use super::*;

const DISTANCE: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(2);

fn queue() -> WorkQueue<u32> {
    WorkQueue::new(Limits { min_distance: DISTANCE, max_wait: MAX_WAIT })
}

fn id(name: &str) -> EntityId {
    EntityId::new(name).unwrap()
}

fn work(token: u32) -> Work<u32> {
    let heard = Heard::message(Timestamp::from_unix_micros(i64::from(token)), 0, None);
    let (lane, floor) = (Lane::Fresh, Version::NONE);
    Work { lane, token: Some(token), floor, unsure: false, attempts: 0, heard }
}

fn backlog(token: u32) -> Work<u32> {
    Work { lane: Lane::Backlog, ..work(token) }
}

const CAUSES: [Cause; 6] = [
    Cause::OwnerFailed,
    Cause::DatabaseFailed,
    Cause::SecondLook,
    Cause::NotYet,
    Cause::Unknown,
    Cause::KeyFailed,
];

/// Both lanes may run.
fn either_lane(_: Lane) -> bool {
    true
}

/// Takes the only run that is due.
fn one(queue: &mut WorkQueue<u32>, now: Instant) -> Run<u32> {
    let mut runs = queue.take(1, either_lane, now);
    assert_eq!(runs.len(), 1);
    runs.remove(0)
}

fn names(runs: &[Run<u32>]) -> Vec<&str> {
    runs.iter().map(|run| run.id.as_str()).collect()
}

#[test]
fn the_first_run_starts_at_once_and_carries_everything_that_came_before() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("a"), work(1), now);
    queue.push(id("a"), work(2), now);
    let runs = queue.take(10, either_lane, now);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].tokens, [1, 2]);
    assert_eq!((queue.queued(), queue.processing()), (0, 1));
}

#[test]
fn work_that_arrives_during_a_run_belongs_to_exactly_one_next_run() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("a"), work(1), now);
    assert_eq!(queue.take(10, either_lane, now)[0].tokens, [1]);
    for token in 2..=9 {
        queue.push(id("a"), work(token), now);
    }
    assert!(
        queue.take(10, either_lane, now + DISTANCE).is_empty(),
        "never two runs of a key at once"
    );
    queue.done(&id("a"), now + DISTANCE);
    let runs = queue.take(10, either_lane, now + DISTANCE);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].tokens, (2..=9).collect::<Vec<_>>());
    queue.done(&id("a"), now + DISTANCE * 3);
    assert!(queue.take(10, either_lane, now + DISTANCE * 3).is_empty());
}

#[test]
fn a_batch_is_of_one_lane_and_a_lane_that_may_not_run_keeps_no_other_waiting() {
    let (mut queue, now) = (queue(), Instant::now());
    for (name, token) in [("a", 1), ("b", 2)] {
        queue.push(id(name), backlog(token), now);
        queue.push(id(&format!("fresh-{name}")), work(token), now);
    }
    let backlog_alone = |lane| lane == Lane::Backlog;
    assert_eq!(names(&queue.take(1, backlog_alone, now)), ["a"]);
    let runs = queue.take(9, either_lane, now);
    assert_eq!(names(&runs), ["fresh-a", "fresh-b"]);
    assert!(runs.iter().all(|run| run.lane == Lane::Fresh));
    assert!(queue.take(9, |lane| lane == Lane::Fresh, now + MAX_WAIT).is_empty());
    assert_eq!(names(&queue.take(9, either_lane, now)), ["b"]);
    // The owner was busy: its change is as fresh as before.
    for run in runs {
        queue.again(run, Cause::OwnerFailed, DISTANCE, now);
    }
    let runs = queue.take(9, |lane| lane == Lane::Fresh, now + DISTANCE);
    assert_eq!(names(&runs), ["fresh-a", "fresh-b"]);
}

#[test]
fn what_waited_while_nothing_could_be_asked_for_is_fresh_again_only_by_news() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("old"), backlog(1), now);
    queue.push(id("a"), work(2), now);
    let run = one(&mut queue, now);
    queue.again(run, Cause::OwnerFailed, DISTANCE, now);
    queue.push(id("b"), work(3), now);
    queue.is_backlog_by_now();
    let now = now + DISTANCE;
    queue.push(id("b"), work(4), now);
    queue.push(id("new"), work(5), now);
    let fresh = queue.take(9, |lane| lane == Lane::Fresh, now);
    assert_eq!(names(&fresh), ["b", "new"]);
    assert_eq!(fresh[0].tokens, [3, 4]);
    let rest = queue.take(9, |lane| lane == Lane::Backlog, now);
    assert_eq!(names(&rest), ["old", "a"]);
}

/// Rows come back from the dead-letter table while their keys already wait for a run, fresh or not.
#[test]
fn what_fails_rides_with_neither_lane_of_what_does_not_and_is_as_fresh_as_its_news() {
    let (mut queue, now) = (queue(), Instant::now());
    let failed = |work: Work<u32>| Work { attempts: 3, ..work };
    queue.push(id("news"), work(1), now);
    queue.push(id("news"), failed(backlog(2)), now);
    queue.push(id("old"), failed(backlog(3)), now);
    queue.push(id("newer"), failed(backlog(4)), now);
    queue.push(id("newer"), work(5), now);
    queue.push(id("good"), work(6), now);
    queue.push(id("backlog"), backlog(7), now);
    let mut batches = Vec::new();
    loop {
        let runs = queue.take(9, either_lane, now);
        let Some(first) = runs.first() else { break };
        assert!(runs.iter().all(|run| run.lane == first.lane), "{:?}", names(&runs));
        batches.push((first.lane, names(&runs).join(" ")));
    }
    let batch = |lane, names: &str| (lane, names.to_owned());
    assert_eq!(
        batches,
        [
            batch(Lane::Fresh, "good"),
            batch(Lane::Backlog, "backlog"),
            batch(Lane::Fresh, "news newer"),
            batch(Lane::Backlog, "old"),
        ]
    );
}

#[test]
fn what_an_answer_left_out_is_next_in_its_order_and_has_not_run() {
    let (mut queue, now) = (queue(), Instant::now());
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        queue.push(id(name), work(n as u32), now);
    }
    let mut runs = queue.take(3, either_lane, now);
    queue.push(id("c"), backlog(10), now);
    queue.done(&runs.remove(0).id, now);
    queue.put_back(runs, now);
    assert_eq!((queue.queued(), queue.retrying()), (3, 0));
    let runs = queue.take(9, |lane| lane == Lane::Fresh, now);
    assert_eq!(names(&runs), ["b", "c", "d"]);
    assert_eq!(runs[1].tokens, [2, 10], "what arrived meanwhile is as fresh");
    // A busy owner makes nothing less fresh either, whatever else brings the same key meanwhile.
    queue.push(id("b"), backlog(11), now);
    for run in runs {
        queue.again(run, Cause::OwnerFailed, DISTANCE, now);
    }
    let runs = queue.take(9, |lane| lane == Lane::Fresh, now + DISTANCE);
    assert_eq!(names(&runs), ["b", "c", "d"]);
}

#[test]
fn further_runs_keep_the_minimum_distance_and_then_the_key_is_forgotten() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("a"), work(1), now);
    queue.take(1, either_lane, now);
    queue.done(&id("a"), now);
    queue.push(id("a"), work(2), now + DISTANCE / 2);
    assert!(queue.take(1, either_lane, now + DISTANCE / 2).is_empty());
    assert_eq!(queue.next_due(), Some(now + DISTANCE));
    assert_eq!(queue.take(1, either_lane, now + DISTANCE).len(), 1);
    queue.done(&id("a"), now + DISTANCE);
    queue.take(1, either_lane, now + DISTANCE * 2);
    assert!(queue.entries.is_empty() && queue.timers.is_empty());
}

#[test]
fn new_work_does_not_shorten_a_backoff() {
    let backoff = Duration::from_secs(5);
    for cause in [Cause::OwnerFailed, Cause::DatabaseFailed, Cause::KeyFailed] {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(id("a"), work(1), now);
        let run = one(&mut queue, now);
        queue.again(run, cause, backoff, now);
        queue.push(id("a"), work(2), now + DISTANCE);
        assert!(queue.take(1, either_lane, now + backoff - DISTANCE).is_empty(), "{cause:?}");
        assert_eq!(one(&mut queue, now + backoff).tokens, [1, 2]);
    }
}

#[test]
fn work_that_arrived_during_a_failing_run_waits_for_the_backoff_too() {
    let (mut queue, now) = (queue(), Instant::now());
    let backoff = Duration::from_secs(5);
    queue.push(id("a"), work(1), now);
    let run = one(&mut queue, now);
    queue.push(id("a"), work(2), now);
    queue.again(run, Cause::KeyFailed, backoff, now);
    assert!(queue.take(1, either_lane, now + backoff - DISTANCE).is_empty());
    assert_eq!(one(&mut queue, now + backoff).tokens, [1, 2]);
}

#[test]
fn new_work_runs_before_a_second_look_and_before_what_is_not_there_yet() {
    for cause in [Cause::SecondLook, Cause::NotYet, Cause::Unknown] {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(id("a"), work(1), now);
        let run = one(&mut queue, now);
        queue.again(run, cause, Duration::from_secs(1), now);
        queue.push(id("a"), work(2), now + DISTANCE * 2);
        assert_eq!(one(&mut queue, now + DISTANCE * 2).tokens, [1, 2]);
        // The same if it arrived during the run.
        queue.push(id("b"), work(3), now);
        let run = one(&mut queue, now);
        queue.push(id("b"), work(4), now);
        queue.again(run, cause, Duration::from_secs(1), now);
        assert_eq!(one(&mut queue, now + DISTANCE).tokens, [3, 4]);
    }
}

#[test]
fn only_what_the_key_is_to_blame_for_counts_as_its_failure() {
    for cause in CAUSES {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(id("a"), work(1), now);
        let run = one(&mut queue, now);
        queue.again(run, cause, DISTANCE, now);
        let failures =
            u32::from(matches!(cause, Cause::NotYet | Cause::Unknown | Cause::KeyFailed));
        assert_eq!(queue.retrying(), failures as usize, "{cause:?}");
        assert_eq!(one(&mut queue, now + DISTANCE).attempts, failures, "{cause:?}");
    }
}

#[test]
fn since_when_the_owner_does_not_know_a_key_is_remembered_until_it_is_done() {
    for cause in CAUSES {
        let (mut queue, now) = (queue(), Instant::now());
        let since = (cause == Cause::Unknown).then_some(now);
        queue.push(id("a"), work(1), now);
        let run = one(&mut queue, now);
        assert_eq!(run.unknown_since, None);
        queue.again(run, cause, DISTANCE, now);
        for (again, later) in [(Cause::KeyFailed, 1), (cause, 2)] {
            let run = one(&mut queue, now + DISTANCE * later);
            assert_eq!(run.unknown_since, since, "{cause:?}");
            queue.again(run, again, DISTANCE, now + DISTANCE * later);
        }
        let now = now + DISTANCE * 3;
        let run = one(&mut queue, now);
        assert_eq!(run.unknown_since, since, "{cause:?}");
        queue.push(id("a"), work(2), now);
        queue.done(&run.id, now);
        assert_eq!(one(&mut queue, now + DISTANCE).unknown_since, None);
    }
}

#[test]
fn floors_and_doubts_are_joined_and_end_with_the_run() {
    let (mut queue, now) = (queue(), Instant::now());
    let floor = |n| Version::new(n).unwrap();
    queue.push(id("a"), Work { floor: floor(9), ..work(1) }, now);
    queue.push(id("a"), Work { floor: floor(10), unsure: true, ..work(2) }, now);
    let run = one(&mut queue, now);
    assert_eq!((run.floor, run.unsure), (floor(10), true));
    queue.again(run, Cause::OwnerFailed, DISTANCE, now);
    let now = now + DISTANCE;
    let run = one(&mut queue, now);
    assert_eq!((run.floor, run.unsure), (floor(10), true), "a run that did not end keeps them");
    queue.done(&run.id, now);
    queue.push(id("a"), work(3), now + DISTANCE);
    let run = one(&mut queue, now + DISTANCE);
    assert_eq!((run.floor, run.unsure), (Version::NONE, false));
}

#[test]
fn a_second_look_is_owed_until_it_is_taken() {
    for cause in CAUSES {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(id("a"), Work { unsure: true, ..work(1) }, now);
        let run = one(&mut queue, now);
        queue.again(run, cause, DISTANCE, now);
        let owed = one(&mut queue, now + DISTANCE).unsure;
        assert_eq!(owed, cause != Cause::SecondLook, "{cause:?}");
    }
}

#[test]
fn further_notifications_do_not_cost_a_key_its_place() {
    for (lane, again) in
        [(Lane::Fresh, Lane::Fresh), (Lane::Fresh, Lane::Backlog), (Lane::Backlog, Lane::Backlog)]
    {
        let (mut queue, now) = (queue(), Instant::now());
        queue.push(id("a"), Work { lane, ..work(1) }, now);
        queue.push(id("b"), Work { lane, ..work(2) }, now);
        queue.push(id("a"), Work { lane: again, ..work(3) }, now);
        assert_eq!(names(&queue.take(1, either_lane, now)), ["a"]);
    }
}

#[test]
fn acknowledgements_that_are_held_can_be_reached() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("a"), work(1), now);
    queue.push(id("b"), work(2), now);
    queue.push(id("b"), work(3), now);
    let mut held: Vec<_> = queue.tokens_mut().map(|token| *token).collect();
    held.sort_unstable();
    assert_eq!((held, queue.queued()), (vec![1, 2, 3], 2));
}

#[test]
fn fresh_goes_first_until_backlog_has_waited_long_enough() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("old"), backlog(1), now);
    queue.push(id("new"), work(2), now);
    assert_eq!(names(&queue.take(1, either_lane, now)), ["new"]);
    queue.push(id("newer"), work(3), now + MAX_WAIT);
    assert_eq!(names(&queue.take(1, either_lane, now + MAX_WAIT)), ["old"]);
}

#[test]
fn a_fresh_notification_lifts_a_waiting_key_out_of_the_backlog() {
    let (mut queue, now) = (queue(), Instant::now());
    for n in 0..10u32 {
        queue.push(id(&format!("b{n}")), backlog(n), now);
    }
    queue.push(id("b9"), work(10), now);
    let run = queue.take(1, either_lane, now).remove(0);
    assert_eq!((run.id.as_str(), run.tokens), ("b9", vec![9, 10]));
    assert_eq!(queue.take(100, either_lane, now).len(), 9, "its old place does not run it twice");
}

#[test]
fn a_key_that_spoiled_its_batch_runs_apart_from_the_others_and_after_them() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("bad"), work(1), now);
    queue.push(id("good"), work(2), now);
    let mut both = queue.take(9, either_lane, now);
    assert_eq!(names(&both), ["bad", "good"]);
    queue.done(&id("good"), now);
    queue.again(both.remove(0), Cause::KeyFailed, DISTANCE, now);
    let later = now + DISTANCE;
    // The same goes for a key that comes back from the dead-letter table.
    let parked = Work { attempts: 8, ..backlog(3) };
    queue.push(id("parked"), parked, later);
    queue.push(id("good"), work(4), later);
    assert_eq!(names(&queue.take(9, either_lane, later)), ["good"]);
    assert_eq!(names(&queue.take(1, either_lane, later)), ["parked"]);
    let bad = one(&mut queue, later);
    assert_eq!(bad.id.as_str(), "bad");
    queue.done(&id("good"), later);
    queue.done(&id("parked"), later);
    queue.again(bad, Cause::KeyFailed, DISTANCE, later);
    // They wait for the others only for a limited time.
    let late = later + DISTANCE + MAX_WAIT;
    queue.tick(later + DISTANCE);
    queue.push(id("good"), work(5), late);
    assert_eq!(names(&queue.take(9, either_lane, late)), ["bad"]);
    assert_eq!(names(&queue.take(9, either_lane, late)), ["good"]);
    queue.done(&id("bad"), late);
    // It succeeded, and runs with the others again.
    queue.push(id("bad"), work(6), late + DISTANCE);
    queue.push(id("other"), work(7), late + DISTANCE);
    assert_eq!(names(&queue.take(9, either_lane, late + DISTANCE)), ["bad", "other"]);
}

/// Each change brings a new notification, which the broker counts as a first delivery. Without this, a failing key that
/// keeps changing would never be parked.
#[test]
fn a_key_that_keeps_failing_counts_until_it_succeeds_however_often_it_changes() {
    let (mut queue, mut now) = (queue(), Instant::now());
    for attempts in 0..3 {
        queue.push(id("a"), work(attempts), now);
        let run = one(&mut queue, now);
        assert_eq!(run.attempts, attempts);
        queue.push(id("a"), work(attempts + 10), now);
        queue.again(run, Cause::KeyFailed, DISTANCE, now);
        queue.push(id("a"), work(attempts + 20), now);
        assert_eq!(queue.retrying(), 1);
        now += DISTANCE;
    }
    queue.take(1, either_lane, now);
    queue.done(&id("a"), now);
    assert_eq!(queue.retrying(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, bool),
    Take(usize),
    FinishOldest(bool, u64),
    LeaveOut,
    AllIsBacklog,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..4, any::<bool>()).prop_map(|(key, fresh)| Step::Push(key, fresh)),
        (1usize..4).prop_map(Step::Take),
        (any::<bool>(), 0u64..300).prop_map(|(done, after)| Step::FinishOldest(done, after)),
        Just(Step::LeaveOut),
        Just(Step::AllIsBacklog),
        (0u64..200).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// In any order of events, no key is in two runs at once, and every token ends in exactly one run that started
    /// after it arrived and succeeded.
    #[test]
    fn every_token_ends_in_a_run_that_began_after_it(steps in steps()) {
        let (mut queue, mut now) = (queue(), Instant::now());
        let mut arrived: BTreeMap<u32, Instant> = BTreeMap::new();
        let mut running: Vec<(Run<u32>, Instant)> = Vec::new();
        let mut acknowledged = Vec::new();
        let mut next_token = 0;
        let settle = [Step::Wait(400), Step::Take(9), Step::FinishOldest(true, 0)];
        let settle = settle.into_iter().cycle().take(60);
        for step in steps.into_iter().chain(settle) {
            match step {
                Step::Push(key, fresh) => {
                    let work = if fresh { work(next_token) } else { backlog(next_token) };
                    queue.push(id(&key.to_string()), work, now);
                    arrived.insert(next_token, now);
                    next_token += 1;
                }
                Step::Take(max) => for run in queue.take(max, either_lane, now) {
                    prop_assert!(running.iter().all(|(other, _)| other.id != run.id));
                    running.push((run, now));
                },
                Step::FinishOldest(done, after) if !running.is_empty() => {
                    let (run, began) = running.remove(0);
                    for token in &run.tokens {
                        prop_assert!(arrived[token] <= began);
                    }
                    if done {
                        acknowledged.extend(run.tokens);
                        queue.done(&run.id, now);
                    } else {
                        let cause = CAUSES[after as usize % CAUSES.len()];
                        queue.again(run, cause, Duration::from_millis(after), now);
                    }
                }
                Step::FinishOldest(..) => {}
                Step::LeaveOut => {
                    let left_out = running.split_off(running.len() / 2);
                    queue.put_back(left_out.into_iter().map(|(run, _)| run).collect(), now);
                }
                Step::AllIsBacklog => queue.is_backlog_by_now(),
                Step::Wait(ms) => now += Duration::from_millis(ms),
            }
            queue.tick(now);
            prop_assert!(queue.next_due().is_none_or(|due| due > now), "a loop would spin");
            prop_assert_eq!(queue.processing(), running.len());
            let failing = queue.entries.values().filter(|entry| entry.attempts > 0).count();
            prop_assert_eq!(queue.retrying(), failing);
        }
        acknowledged.sort_unstable();
        prop_assert_eq!(acknowledged, (0..next_token).collect::<Vec<_>>());
        prop_assert_eq!((queue.queued(), queue.processing()), (0, 0));
        queue.take(9, either_lane, now + DISTANCE);
        prop_assert!(queue.entries.is_empty(), "keys are forgotten once idle");
    }
}

#[test]
fn what_has_waited_longest_is_known_however_often_it_ran() {
    let (mut queue, now) = (queue(), Instant::now());
    assert_eq!(queue.oldest(), None);
    assert!(!queue.push(id("a"), work(1), now));
    assert!(!queue.push(id("b"), work(2), now + DISTANCE));
    assert!(queue.push(id("a"), work(3), now + DISTANCE), "it needed a run already");
    assert_eq!(queue.oldest(), Some(now));
    let run = one(&mut queue, now + DISTANCE);
    assert_eq!((run.id.as_str(), queue.oldest()), ("a", Some(now + DISTANCE)));
    // A run that failed has changed nothing, and delays are part of the wait.
    queue.again(run, Cause::KeyFailed, MAX_WAIT, now + DISTANCE);
    assert_eq!(queue.oldest(), Some(now));
    let b = one(&mut queue, now + DISTANCE);
    queue.push(id("b"), work(4), now + DISTANCE * 2);
    queue.done(&b.id, now + DISTANCE * 3);
    let a = one(&mut queue, now + DISTANCE + MAX_WAIT);
    assert_eq!(a.id.as_str(), "b");
    queue.done(&a.id, now + DISTANCE + MAX_WAIT);
    // What arrives during a run has waited since then.
    let run = one(&mut queue, now + DISTANCE + MAX_WAIT);
    queue.push(run.id.clone(), work(5), now + MAX_WAIT * 2);
    queue.done(&run.id, now + MAX_WAIT * 2);
    assert_eq!(queue.oldest(), Some(now + MAX_WAIT * 2));
}

#[test]
fn a_key_is_told_with_what_it_is_to_run_for() {
    let (mut queue, now) = (queue(), Instant::now());
    assert!(queue.standing(&id("a")).is_none());
    let message = |at, sequence| Heard::message(Timestamp::from_unix_micros(at), sequence, None);
    queue.push(id("a"), Work { heard: message(5, 41), ..work(1) }, now);
    queue.push(id("a"), Work { heard: message(6, 43), ..work(2) }, now);
    queue.push(id("a"), Work { heard: message(7, 42), ..work(3) }, now);
    let standing = queue.standing(&id("a")).unwrap();
    let expected = Heard { notifications: 3, ..message(5, 43) };
    assert_eq!((standing.processing, standing.heard), (false, expected));
    let run = one(&mut queue, now);
    assert_eq!(run.heard, expected);
    // What arrives meanwhile is for the next run.
    queue.push(id("a"), Work { heard: message(8, 44), ..work(4) }, now);
    let standing = queue.standing(&id("a")).unwrap();
    assert_eq!((standing.processing, standing.heard), (true, expected));
    queue.done(&run.id, now);
    assert_eq!(queue.standing(&id("a")).unwrap().heard, message(8, 44));
    let run = one(&mut queue, now + DISTANCE);
    queue.done(&run.id, now + DISTANCE);
    assert!(queue.standing(&id("a")).is_none(), "nothing is left to do");
}

#[test]
fn a_key_that_failed_is_told_with_its_error_and_everything_that_it_is_for() {
    let (mut queue, now) = (queue(), Instant::now());
    queue.push(id("a"), work(1), now);
    let mut run = one(&mut queue, now);
    queue.push(id("a"), work(2), now);
    run.error = Some("it failed".into());
    queue.again(run, Cause::KeyFailed, MAX_WAIT, now);
    let standing = queue.standing(&id("a")).unwrap();
    assert_eq!((standing.attempts, standing.heard.notifications), (1, 2));
    assert_eq!(
        (standing.due, standing.error.as_deref()),
        (Some(now + MAX_WAIT), Some("it failed"))
    );
    let run = one(&mut queue, now + MAX_WAIT);
    assert_eq!(run.heard.notifications, 2);
    queue.done(&run.id, now + MAX_WAIT);
    queue.push(id("a"), work(3), now + MAX_WAIT);
    assert_eq!(queue.standing(&id("a")).unwrap().error, None, "that is over");
}
