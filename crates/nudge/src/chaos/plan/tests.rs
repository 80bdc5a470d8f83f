use std::collections::BTreeSet;

use nudge_testbed::Service;

use super::*;

const SHORT: u64 = 18_000;
const SQLITE: Databases = Databases::Sqlite;
const POSTGRES: Databases = Databases::Postgres;
const SEARCH: Who = Who::Demo(Service::Search);

#[test]
fn a_seed_always_gives_the_same_plan_and_another_seed_another() {
    for seed in 0..20 {
        let plan = Plan::generate(seed, 60_000, SQLITE, 1);
        assert_eq!(plan, Plan::generate(seed, 60_000, SQLITE, 1));
        assert_ne!(plan.faults, Plan::generate(seed + 1, 60_000, SQLITE, 1).faults);
    }
}

/// Replaying what was written down elsewhere depends on it; a change here needs no new format.
#[test]
fn the_numbers_of_a_seed_do_not_change() {
    let mut random = nudge_chance::Random::stream(1, 1);
    let drawn = [random.below(1_000), random.below(1_000), random.below(1_000)];
    assert_eq!(drawn, [78, 410, 719]);
}

#[test]
fn every_plan_is_one_that_may_be_read() {
    for seed in 0..200 {
        for millis in [MIN_MILLIS, SHORT, 60_000, 600_000] {
            for databases in [SQLITE, POSTGRES] {
                let plan = Plan::generate(seed, millis, databases, 1);
                plan.check_on(databases).unwrap();
                assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan));
            }
        }
    }
}

#[test]
fn a_short_run_has_many_kinds_and_a_handful_of_seeds_has_all_on_all_targets() {
    for databases in [SQLITE, POSTGRES] {
        let (mut kinds, mut pairs) = (BTreeSet::new(), BTreeSet::new());
        for seed in 1..=5 {
            let plan = Plan::generate(seed, SHORT, databases, 1);
            let of_one: BTreeSet<_> = plan.faults.iter().map(|fault| fault.kind).collect();
            assert!(of_one.len() >= 7, "seed {seed}: {of_one:?}");
            kinds.extend(of_one);
        }
        assert_eq!(kinds, databases.kinds().collect());
        for seed in 1..=200 {
            let plan = Plan::generate(seed, 60_000, databases, 1);
            pairs.extend(plan.faults.iter().map(|fault| (fault.kind, fault.on)));
        }
        let targets =
            |kind: Kind| kind.targets(&Cast::default()).into_iter().map(move |on| (kind, on));
        let possible = |(kind, on): &(Kind, Target)| match databases {
            Databases::Sqlite => *on != Target::Database,
            Databases::Postgres => *kind != Kind::DiskFull,
        };
        let all = Kind::ALL.into_iter().flat_map(targets).filter(possible);
        assert_eq!(pairs, all.collect());
    }
}

#[test]
fn the_database_server_is_killed_and_frozen_in_nearly_every_run_on_one() {
    let of =
        |plan: &Plan, kind| plan.faults.iter().any(|f| (f.kind, f.on) == (kind, Target::Database));
    let plans = (1..=40).map(|seed| Plan::generate(seed, 60_000, POSTGRES, 1));
    let both = plans.filter(|plan| of(plan, Kind::Kill) && of(plan, Kind::Freeze)).count();
    assert!(both >= 38, "{both}");
}

#[test]
fn a_fault_that_cannot_happen_to_the_databases_is_refused() {
    let plan = |kind, on| Plan {
        faults: vec![fault(1_000, kind, on)],
        ..Plan::generate(1, SHORT, SQLITE, 1)
    };
    let killed = plan(Kind::Kill, Target::Database);
    assert_eq!(Plan::from_json(&killed.to_json()), Ok(killed.clone()));
    let refusal = killed.check_on(SQLITE).unwrap_err().to_string();
    let expected = "the plan has kill database at 1000 ms, but there is a database server only with \
                    --postgres-command";
    assert_eq!(refusal, expected);
    killed.check_on(POSTGRES).unwrap();
    let full = plan(Kind::DiskFull, Target::Program(SEARCH));
    full.check_on(SQLITE).unwrap();
    assert!(full.check_on(POSTGRES).unwrap_err().to_string().contains("disk-full search"));
    plan(Kind::Refuse, Target::Database).check().unwrap_err();
}

#[test]
fn faults_overlap() {
    let plan = Plan::generate(1, 60_000, SQLITE, 1);
    let under_way = |at: u64| {
        let faults = plan.faults.iter();
        faults.filter(|f| (f.at_millis..f.at_millis + f.for_millis).contains(&at)).count()
    };
    assert!((0..60_000).any(|at| under_way(at) >= 2));
}

/// Else nothing would be lost by it that matters: a relay that never publishes again went unnoticed.
#[test]
fn mostly_a_subscriber_is_away_while_the_broker_loses_something() {
    let (mut lost, mut unseen) = (0, 0);
    for plan in (1..=40).map(|seed| Plan::generate(seed, SHORT, SQLITE, 1)) {
        let losses = [Kind::NatsRollback, Kind::StreamDelete];
        for loss in plan.faults.iter().filter(|fault| losses.contains(&fault.kind)) {
            let away = [Kind::Freeze, Kind::Kill, Kind::Refuse, Kind::Stall];
            let end = |fault: &Fault| fault.at_millis + fault.for_millis;
            let spans = |f: &&Fault| f.at_millis < loss.at_millis && end(f) > end(loss);
            let mut others = plan.faults.iter().filter(|fault| away.contains(&fault.kind));
            lost += 1;
            unseen += usize::from(others.any(|fault| spans(&fault)));
        }
    }
    assert!(lost > 40 && unseen * 4 > lost * 3, "{unseen} of {lost}");
}

#[test]
fn with_replicas_any_of_them_is_hit_and_all_are_away_while_the_broker_loses_something() {
    let plans: Vec<_> = (1..=100).map(|seed| Plan::generate(seed, 60_000, POSTGRES, 2)).collect();
    let faults: Vec<_> = plans.iter().flat_map(|plan| &plan.faults).collect();
    for kind in Kind::ALL.into_iter().filter(|kind| POSTGRES.kinds().any(|one| one == *kind)) {
        for on in kind.targets(&Cast::default()) {
            let hit = |f: &&&Fault| (f.kind, f.on) == (kind, on);
            let hit: BTreeSet<_> = faults.iter().filter(hit).map(|fault| fault.replica).collect();
            assert_eq!(hit, (1..=kind.choices(on, 2)).collect(), "{kind} {on}");
        }
    }
    for plan in &plans {
        plan.check_on(POSTGRES).unwrap();
        assert_eq!(Plan::from_json(&plan.to_json()), Ok(plan.clone()));
    }
    let lost = faults.iter().filter(|fault| fault.kind == Kind::NatsRollback).count();
    let around = |loss: &Fault, replica| {
        let spans = |f: &&Fault| f.replica == replica && f.at_millis < loss.at_millis;
        let end = |f: &Fault| f.at_millis + f.for_millis;
        faults.iter().any(|f| spans(f) && f.on != Target::Nats && end(f) > end(loss))
    };
    let losses = faults.iter().filter(|fault| fault.kind == Kind::NatsRollback);
    let unseen = losses.filter(|loss| around(loss, 1) && around(loss, 2)).count();
    assert!(lost > 10 && unseen * 4 > lost * 3, "{unseen} of {lost}");
}

#[test]
fn a_plan_without_replicas_is_written_as_ever_and_one_with_them_names_the_victim() {
    let plan = Plan::generate(1, SHORT, SQLITE, 1);
    assert!(!plan.to_json().contains("replica"));
    let second = Fault { replica: 2, ..fault(1_000, Kind::Kill, Target::Program(SEARCH)) };
    let line = Fault { replica: 2, ..fault(1_000, Kind::Drop, Target::ToNats(SEARCH)) };
    assert_eq!([&second, &line].map(ToString::to_string), ["kill search-2", "drop search-2→nats"]);
    let with =
        |replicas, fault: &Fault| Plan { replicas, faults: vec![fault.clone()], ..plan.clone() };
    with(2, &second).check().unwrap();
    assert_eq!(with(1, &second).check().unwrap_err(), "there is no search-2");
    for shared in [(Kind::Kill, Target::Nats), (Kind::ConsumerDelete, Target::Program(SEARCH))] {
        let fault = Fault { replica: 2, ..fault(1_000, shared.0, shared.1) };
        with(2, &fault).check().unwrap_err();
    }
    for replicas in [0, MAX_REPLICAS + 1] {
        Plan { replicas, ..plan.clone() }.check().unwrap_err();
    }
    let first = fault(1_200, Kind::Freeze, Target::Program(SEARCH));
    let both = |other| Plan { replicas: 2, faults: vec![other, first.clone()], ..plan.clone() };
    both(second).check().unwrap();
    both(fault(1_000, Kind::Kill, Target::Program(SEARCH))).check().unwrap_err();
}

#[test]
fn a_plan_is_readable_and_what_makes_no_sense_is_refused() {
    let good = Plan {
        faults: vec![fault(1_000, Kind::Kill, Target::Nats)],
        ..Plan::generate(1, SHORT, SQLITE, 1)
    };
    let text = good.to_json();
    assert!(text.contains(r#""kind": "kill""#) && text.contains(r#""on": "nats""#), "{text}");
    assert!(!text.contains("way") && !text.contains("late_millis"), "{text}");
    assert_eq!(Plan::from_json(&text), Ok(good.clone()));
    for (from, to) in [
        (r#""on": "nats""#, r#""on": "search→nats""#),
        (r#""on": "nats""#, r#""on": "moon""#),
        (r#""at_millis": 1000"#, r#""at_millis": 17900"#),
        (r#""at_millis": 1000"#, r#""at_millis": 18446744073709551615"#),
        (r#""format": 1"#, r#""format": 2"#),
        (r#""millis": 18000"#, r#""millis": 10"#),
        (r#""stores": 300"#, r#""stores": 0"#),
        (r#""edit_every_millis": 20"#, r#""edit_every_millis": 0"#),
        (r#""seed": 1"#, r#""seed": 1, "more": 1"#),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        assert!(Plan::from_json(&changed).is_err(), "{to}");
    }
}

#[test]
fn programs_of_others_are_victims_and_a_plan_says_how_they_are_started() {
    let with = BTreeMap::from([("names".to_owned(), vec!["./names".to_owned(), "-v".to_owned()])]);
    let plan = |seed| Plan::generate_with(seed, 60_000, SQLITE, 1, with.clone()).unwrap();
    let plans: Vec<_> = (1..=30).map(plan).collect();
    let hit: BTreeSet<_> = plans.iter().flat_map(|plan| &plan.faults).map(|f| f.on).collect();
    let names = Who::Guest("names");
    for on in [Target::Program(names), Target::ToNats(names), Target::Line(names, Service::Review)]
    {
        assert!(hit.contains(&on), "{on}");
    }
    let text = plans[0].to_json();
    assert!(text.contains(r#""names": ["#), "{text}");
    assert_eq!(Plan::from_json(&text), Ok(plans[0].clone()));
    // Whoever is a victim takes part.
    let alone = Plan { with: BTreeMap::new(), ..plans[0].clone() };
    assert!(alone.check().unwrap_err().contains("cannot happen to names"));
    for bad in
        [("search", vec!["x".to_owned()]), ("names", Vec::new()), ("Names", vec!["x".to_owned()])]
    {
        let with = BTreeMap::from([(bad.0.to_owned(), bad.1)]);
        Plan::generate_with(1, SHORT, SQLITE, 1, with).unwrap_err();
    }
}

#[test]
fn two_faults_that_exclude_each_other_are_refused() {
    let plan = |faults| Plan { faults, ..Plan::generate(1, SHORT, SQLITE, 1) };
    let check = |one, other| plan(vec![one, other]).check();
    use Target::Nats;
    let (search, review) = (Target::Program(SEARCH), Target::Program(Who::Demo(Service::Review)));
    let kill = |at, on| fault(at, Kind::Kill, on);
    check(kill(1_000, Nats), fault(1_200, Kind::Freeze, Nats)).unwrap_err();
    check(fault(1_200, Kind::NatsRollback, Nats), kill(1_000, Nats)).unwrap_err();
    check(kill(1_000, Nats), fault(1_200, Kind::ConsumerDelete, search)).unwrap_err();
    check(kill(1_000, search), kill(1_000, review)).unwrap();
    check(kill(1_000, Nats), kill(1_500, Nats)).unwrap();
}

fn fault(at_millis: u64, kind: Kind, on: Target) -> Fault {
    Fault { at_millis, for_millis: 500, kind, on, replica: 1, way: None, late_millis: None }
}
