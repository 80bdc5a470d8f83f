use proptest::prelude::*;

use super::*;

/// The budget of these tests, in entities a second.
const RATE: f64 = 1_000.0;
const SECOND: Duration = Duration::from_secs(1);
/// Who is refused, if nobody is.
const NOBODY: [usize; 0] = [];

/// A subscriber that asks again as soon as it is answered.
#[derive(Clone, Copy, Debug)]
struct Eager {
    lane: Lane,
    /// Callbacks at a time.
    at_once: usize,
    entities: usize,
}

const REBUILD: Eager = Eager { lane: Lane::Backlog, at_once: 4, entities: 256 };

fn limited(now: Instant) -> Turns<usize> {
    let mut turns = Turns::new(|_| true, now);
    turns.limit(Some(RATE));
    turns
}

fn name(n: usize) -> String {
    format!("s{n}")
}

/// The entities that each is granted in so much time.
fn shares(eager: &[Eager], time: Duration) -> Vec<usize> {
    let start = Instant::now();
    let (mut turns, mut granted) = (limited(start), vec![0; eager.len()]);
    let mut asks = Vec::from_iter((0..eager.len()).flat_map(|n| vec![n; eager[n].at_once]));
    let mut now = start;
    while now < start + time {
        while let Some(n) = asks.pop() {
            let Eager { lane, entities, .. } = eager[n];
            match turns.ask(&name(n), lane, entities, now) {
                Some(some) => {
                    granted[n] += some;
                    asks.push(n);
                }
                None => assert_eq!(turns.wait(&name(n), lane, entities, n, now), NOBODY),
            }
        }
        now = turns.due().expect("they wait").max(now);
        while let Some((n, some)) = turns.next(now) {
            granted[n] += some;
            asks.push(n);
        }
    }
    granted
}

fn budget(time: Duration) -> f64 {
    RATE * (time + BURST).as_secs_f64()
}

#[test]
fn one_subscriber_gets_all_of_it_and_no_more() {
    let time = 20 * SECOND;
    for lane in Lane::ALL {
        let granted = shares(&[Eager { lane, ..REBUILD }], time)[0] as f64;
        let most = budget(time);
        assert!(granted <= most + 100.0 && granted >= most * 0.95, "{granted} of {most}");
    }
}

#[test]
fn without_a_limit_everything_is_granted_whole_and_counted() {
    let now = Instant::now();
    let mut turns: Turns<()> = Turns::new(|_| true, now);
    for _ in 0..1_000 {
        assert_eq!(turns.ask("a", Lane::Backlog, 512, now), Some(512));
    }
    let taken = turns.taken().find(|(name, lane, _)| (*name, *lane) == ("a", Lane::Backlog));
    assert_eq!(taken.expect("it has a place").2.entities, 512_000);
}

/// Whoever is in the fresh lane with everything gains nothing; nor does who asks for more at a time, or more often.
#[test]
fn whatever_they_claim_each_gets_the_same() {
    let liar = Eager { lane: Lane::Fresh, ..REBUILD };
    let greedy = Eager { at_once: 20, entities: 512, ..REBUILD };
    let small = Eager { at_once: 8, entities: 20, ..REBUILD };
    let granted = shares(&[REBUILD, liar, greedy, small], 60 * SECOND);
    let fair = granted.iter().sum::<usize>() as f64 / granted.len() as f64;
    for (n, granted) in granted.iter().enumerate() {
        // What may be used at once is the first comer's.
        assert!((*granted as f64 - fair).abs() < fair * 0.1, "{n}: {granted} instead of {fair}");
    }
}

#[test]
fn a_liar_in_both_lanes_gets_no_more_than_anybody() {
    let start = Instant::now();
    let (mut turns, mut granted) = (limited(start), [0; 2]);
    // Each has one callback in each of its lanes, always.
    let who = [(0, Lane::Fresh), (0, Lane::Backlog), (1, Lane::Backlog), (1, Lane::Backlog)];
    let mut ids: Vec<usize> = (0..who.len()).collect();
    let mut now = start;
    while now < start + 60 * SECOND {
        for id in ids.drain(..) {
            let (n, lane) = who[id];
            match turns.ask(&name(n), lane, 50, now) {
                Some(some) => granted[n] += some,
                None => drop(turns.wait(&name(n), lane, 50, id, now)),
            }
        }
        now = turns.due().map_or(now, |due| due.max(now));
        while let Some((id, some)) = turns.next(now) {
            granted[who[id].0] += some;
            ids.push(id);
        }
        if turns.due().is_none() && ids.is_empty() {
            ids = (0..who.len()).collect();
        }
    }
    let ratio = granted[0] as f64 / granted[1] as f64;
    assert!((0.9..1.1).contains(&ratio), "{granted:?}");
}

/// 15 rebuild, each with all the callbacks that it may have; the sixteenth too, and it has a fresh change now and then.
#[test]
fn a_fresh_change_waits_for_one_turn_however_many_rebuild() {
    let start = Instant::now();
    let mut turns = limited(start);
    for n in 0..16 {
        for _ in 0..3 {
            if turns.ask(&name(n), Lane::Backlog, 256, start).is_none() {
                turns.wait(&name(n), Lane::Backlog, 256, n, start);
            }
        }
    }
    let mut now = start;
    for _ in 0..50 {
        now = turns.due().unwrap().max(now);
        let (n, _) = turns.next(now).expect("somebody's turn");
        turns.wait(&name(n), Lane::Backlog, 256, n, now);
        assert_eq!(turns.ask("s7", Lane::Fresh, 1, now), None, "others wait");
        turns.wait("s7", Lane::Fresh, 1, 1_000, now);
        now = turns.due().unwrap().max(now);
        assert_eq!(turns.next(now), Some((1_000, 1)), "it is next");
        now += SECOND / 4;
        while let Some((n, _)) = turns.next(now) {
            turns.wait(&name(n), Lane::Backlog, 256, n, now);
        }
    }
}

#[test]
fn what_nobody_uses_is_not_saved_up_beyond_a_few_turns() {
    let start = Instant::now();
    let mut turns = limited(start);
    let now = start + 3_600 * SECOND;
    let mut granted = 0;
    while let Some(some) = turns.ask("a", Lane::Backlog, 256, now) {
        granted += some;
    }
    let at_once = (RATE * BURST.as_secs_f64()) as usize;
    assert!((at_once..=at_once + 100).contains(&granted), "{granted}");
}

/// A clock that goes back, as it should not.
#[test]
fn a_moment_that_comes_before_the_last_one_does_no_harm() {
    let start = Instant::now() + 100 * SECOND;
    let mut turns = limited(start);
    while turns.ask("a", Lane::Backlog, 256, start).is_some() {}
    let before = start - SECOND;
    assert_eq!(turns.ask("a", Lane::Fresh, 1, before), None);
    turns.wait("a", Lane::Fresh, 1, 1, before);
    assert_eq!(turns.next(before), None);
    assert_eq!(turns.next(start + SECOND), Some((1, 1)));
}

#[test]
fn made_up_names_share_one_place_and_its_memory() {
    let start = Instant::now();
    let mut turns = limited(start);
    for n in 0..10_000 {
        let made_up = format!("made-up-{n}");
        if turns.ask(&made_up, Lane::Backlog, 256, start).is_none() {
            turns.wait(&made_up, Lane::Backlog, 256, n, start);
        }
    }
    assert_eq!(turns.places.len(), MAX_SUBSCRIBERS + 1);
    assert!(turns.waiting() <= MAX_WAITING);
    // Nobody of theirs asks any more: a new one gets a place of its own.
    let later = start + FORGOTTEN_AFTER + SECOND;
    while turns.next(later + 3_600 * SECOND).is_some() {}
    turns.ask("new", Lane::Fresh, 1, later);
    assert!(turns.places.contains_key("new") && turns.places.contains_key(OTHERS));
}

#[test]
fn who_fills_the_room_makes_room() {
    let start = Instant::now();
    let mut turns = limited(start);
    while turns.ask("greedy", Lane::Backlog, 256, start).is_some() {}
    let full = fill(&mut turns, "greedy", Lane::Backlog, start);
    assert!((35..=40).contains(&full), "turns of 50 ms, for at most 2 s: {full}");
    assert_eq!(turns.wait("greedy", Lane::Backlog, 256, 100, start), [100], "itself");
    assert_eq!(turns.wait("modest", Lane::Backlog, 256, 101, start), [full - 1]);
    assert_eq!(turns.wait("greedy", Lane::Fresh, 256, 102, start), [full - 2], "its own");
    assert_eq!(turns.waiting(), full);
}

/// Lets callbacks wait until one is refused. Returns how many do.
fn fill(turns: &mut Turns<usize>, name: &str, lane: Lane, now: Instant) -> usize {
    let before = turns.waiting();
    for n in before.. {
        match turns.wait(name, lane, 256, n, now)[..] {
            [] => {}
            [refused] if refused == n => break,
            ref others => panic!("{others:?}"),
        }
    }
    turns.waiting()
}

/// However it came about: as long as any backlog waits, a subscriber for which nothing else waits is not refused a fresh change.
#[test]
fn a_fresh_change_finds_room_while_backlog_waits() {
    let start = Instant::now();
    let mut turns = limited(start);
    // So that each of those that wait has a place of its own.
    turns.limit(Some(10.0));
    while turns.ask("s0", Lane::Backlog, 256, start).is_some() {}
    let mut n = 0;
    while turns.wait(&name(n), Lane::Backlog, 256, n, start).is_empty() {
        n += 1;
    }
    assert_eq!(turns.waiting(), n, "each has one callback that waits");
    assert_eq!(turns.wait("new", Lane::Backlog, 1, 100, start), [100], "they are equally many");
    for fresh in 0..n {
        let made_room = turns.wait(&format!("f{fresh}"), Lane::Fresh, 256, 200 + fresh, start);
        assert!(matches!(made_room[..], [backlog] if backlog < n), "{fresh}: {made_room:?}");
    }
    // All that waits is fresh by now, and of one subscriber each.
    assert_eq!(turns.wait("late", Lane::Fresh, 1, 300, start), [300]);
    assert_eq!(turns.wait("f0", Lane::Fresh, 1, 301, start), [301]);
}

/// Whoever claims that all it asks for is fresh does not push out what others wait for.
#[test]
fn a_subscriber_with_much_that_is_fresh_makes_room_itself() {
    let start = Instant::now();
    let mut turns = limited(start);
    while turns.ask("modest", Lane::Backlog, 256, start).is_some() {}
    for n in 1_000..1_003 {
        assert_eq!(turns.wait("modest", Lane::Backlog, 256, n, start), NOBODY);
    }
    let full = fill(&mut turns, "liar", Lane::Fresh, start);
    let place = |name: &str| turns.places[name].waiting();
    assert_eq!((place("modest"), place("liar")), (3, full - 3));
}

#[test]
fn who_gave_up_waiting_costs_nothing() {
    let start = Instant::now();
    let mut turns = Turns::new(|n: &usize| *n != 1, start);
    turns.limit(Some(RATE));
    while turns.ask("a", Lane::Backlog, 50, start).is_some() {}
    for n in 0..3 {
        turns.wait("a", Lane::Backlog, 50, n, start);
    }
    let due = turns.due().unwrap();
    assert_eq!(turns.next(due), Some((0, 50)));
    let due = turns.due().unwrap();
    assert_eq!(turns.next(due), Some((2, 50)));
    assert_eq!(turns.due(), None);
}

#[test]
fn the_wait_that_is_asked_for_follows_from_what_is_before() {
    let start = Instant::now();
    let mut turns = limited(start);
    assert_eq!(turns.refuse("a", Lane::Fresh, start), 1);
    while turns.ask("a", Lane::Backlog, 256, start).is_some() {}
    for n in 0..10 {
        turns.wait("a", Lane::Backlog, 256, n, start);
    }
    assert_eq!(turns.refuse("a", Lane::Backlog, start), 1, "ten turns");
    fill(&mut turns, "a", Lane::Backlog, start);
    assert_eq!(turns.refuse("a", Lane::Backlog, start), 2, "all that may wait");
    // It took the share of six seconds, and there is another one.
    turns.wait("b", Lane::Backlog, 256, 1_000, start);
    turns.charge("a", Lane::Backlog, 6_000, start);
    assert_eq!(turns.refuse("a", Lane::Backlog, start), 9);
    assert_eq!(turns.refuse("b", Lane::Backlog, start), 3);
    turns.limit(Some(0.1));
    assert_eq!(turns.refuse("a", Lane::Backlog, start), 10);
}

/// What is asked for as a whole: a page of a list, fresh versions, or more than a second's budget of anything.
#[test]
fn what_costs_more_than_a_second_is_answered_and_paid_for_afterwards() {
    for rate in [1.0, 10.0] {
        let start = Instant::now();
        let mut turns = Turns::new(|_: &usize| true, start);
        turns.limit(Some(rate));
        let mut now = start;
        for entities in [10, 512, 200] {
            let granted = turns.ask("a", Lane::Backlog, entities, now).expect("nobody waits");
            assert_eq!(granted, 1, "a turn");
            turns.charge("a", Lane::Backlog, entities - granted, now);
            now = turns.used_until;
        }
        assert!(now - start <= 3 * (MAX_DEBT + SECOND), "others wait no longer");
        // Others come first until they have had as much.
        turns.wait("a", Lane::Backlog, 1, 0, now);
        for n in 1..200 {
            now = turns.due().unwrap().max(now);
            assert_eq!(turns.wait("b", Lane::Backlog, 1, n, now), NOBODY, "{rate}");
            assert_eq!(turns.next(now), Some((n, 1)), "{rate}");
        }
    }
}

#[test]
fn what_an_answer_cost_besides_is_paid_by_who_asked() {
    let start = Instant::now();
    let mut turns = limited(start);
    while turns.ask("a", Lane::Backlog, 1, start).is_some() {}
    turns.charge("a", Lane::Backlog, 100_000, start);
    assert!(turns.used_until <= start + MAX_DEBT, "others wait no longer");
    turns.wait("a", Lane::Backlog, 1, 0, start);
    let mut now = start;
    for n in 1..1_000 {
        turns.wait("b", Lane::Backlog, 50, n, now);
        now = turns.due().unwrap().max(now);
        assert_eq!(turns.next(now), Some((n, 50)));
    }
}

/// A callback: of which subscriber, whether it is fresh, for how many entities, and the pause after it in milliseconds.
type Step = (usize, bool, usize, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0_usize..6, any::<bool>(), 1_usize..512, 0_u64..300), 1..300)
}

proptest! {
    /// Whatever waits: nobody is asked to wait longer than is stated, and whoever comes again then is next, or is told a
    /// shorter wait.
    #[test]
    fn who_is_refused_and_comes_again_is_next(steps in steps(), rate in 1.0..2_000.0_f64) {
        let start = Instant::now();
        let mut turns = Turns::new(|_: &usize| true, start);
        turns.limit(Some(rate));
        let mut now = start;
        let (least, most) = RETRY_AFTER_SECONDS;
        for (n, is_fresh, entities, pause) in steps {
            let lane = if is_fresh { Lane::Fresh } else { Lane::Backlog };
            if turns.ask(&name(n), lane, entities, now).is_some() {
                turns.charge(&name(n), lane, entities / 10, now);
            } else if turns.wait(&name(n), lane, entities, n, now).contains(&n) {
                let told = turns.refuse(&name(n), lane, now);
                prop_assert!((least as u64..=most as u64).contains(&told));
                prop_assert!(turns.drained_in(now) <= (MAX_WAIT + MAX_DEBT).as_secs_f64() + 1.0);
                let mut later = turns.clone();
                let again = now + told as u32 * SECOND;
                while later.due().is_some_and(|due| due <= again) {
                    let due = later.due().expect("somebody waits").max(now);
                    later.next(due);
                }
                let is_next = later.ask(&name(n), lane, entities, again).is_some();
                prop_assert!(is_next || later.refuse(&name(n), lane, again) < told);
            }
            now += Duration::from_millis(pause);
            while turns.next(now).is_some() {}
        }
    }

    /// Whatever happens: never more than the budget, never a turn before it is due, nobody forgotten.
    #[test]
    fn no_more_is_granted_than_the_budget(steps in steps()) {
        let start = Instant::now();
        let (mut turns, mut now, mut granted) = (limited(start), start, Vec::new());
        let (mut waiting, mut answered) = (0, 0);
        for (n, is_fresh, entities, pause) in steps {
            let lane = if is_fresh { Lane::Fresh } else { Lane::Backlog };
            match turns.ask(&name(n), lane, entities, now) {
                Some(some) => granted.push((now, some)),
                None => {
                    waiting += 1;
                    answered += turns.wait(&name(n), lane, entities, n, now).len();
                }
            }
            now += Duration::from_millis(pause);
            while let Some((_, some)) = turns.next(now) {
                prop_assert!(some > 0 && some <= 50);
                granted.push((now, some));
                answered += 1;
            }
        }
        // From whichever moment on.
        for from in 0..granted.len() {
            let mut all = 0;
            for (at, some) in &granted[from..] {
                all += some;
                let most = budget(*at - granted[from].0) + 50.0;
                prop_assert!(all as f64 <= most, "{all} of {most}");
            }
        }
        while let Some(due) = turns.due() {
            now = now.max(due);
            answered += usize::from(turns.next(now).is_some());
        }
        prop_assert_eq!(waiting, answered);
    }
}
