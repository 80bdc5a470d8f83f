//! A plan from a seed.

use std::collections::BTreeMap;

use nudge_chance::Random;
use nudge_testbed::Way;

use super::{Cast, Databases, FORMAT, Fault, Kind, Plan, Target, Words};

/// Random stream that plans are drawn from.
const STREAM: u64 = 1;
/// Quiet time at the start, so that there is something to disturb.
const QUIET_START_MILLIS: u64 = 1_000;
/// Quiet time at the end of the edits.
const QUIET_END_MILLIS: u64 = 500;
/// Least time between two faults of one group on the same target, which must be up again first.
const APART_MILLIS: u64 = 1_500;
/// Attempts to find a place for a fault before the next kind is taken.
const MAX_TRIES: u32 = 8;
/// How much longer a subscriber is away than the messages that the broker loses go back.
const MARGIN_MILLIS: (u64, u64) = (300, 1_200);
/// Stores of a run.
const STORES: u64 = 300;
const EDIT_EVERY_MILLIS: u64 = 20;

/// Time from one start to the next. Small against [`length`], so that several faults overlap.
fn gap(random: &mut Random, millis: u64) -> u64 {
    // A short run has every kind once, if it can; a long one has time to calm down in between.
    let usual = millis.saturating_sub(QUIET_START_MILLIS + QUIET_END_MILLIS) / 18;
    let usual = usual.clamp(250, 1_500);
    random.between(usual / 4, usual * 7 / 4)
}

fn length(random: &mut Random, kind: Kind, millis: u64) -> u64 {
    let longest = (millis / 6).clamp(1_000, 8_000);
    match kind {
        // What is done at once: there is no end to it.
        Kind::StreamDelete | Kind::ConsumerDelete => 0,
        // Long enough that some pass, also when other faults hold them up.
        Kind::NatsRollback | Kind::Reorder | Kind::Duplicate | Kind::Drop => {
            random.between(longest / 3, longest)
        }
        _ => match random.below(4) {
            0 => random.between(longest / 2, longest),
            _ => random.between(200, longest / 2),
        },
    }
}

/// What a fault is drawn from: its kind, and its possible targets.
type Card = (Kind, Vec<Target>);

/// One card of each kind, and two for the database server: among everything that can be killed and frozen
/// it would be hit too rarely for its importance.
fn deck(databases: Databases, cast: &Cast) -> Vec<Card> {
    let other = |on: &Target| *on != Target::Database;
    let of = |kind: Kind| kind.targets(cast).into_iter().filter(other).collect();
    let mut deck: Vec<Card> = databases.kinds().map(|kind| (kind, of(kind))).collect();
    if databases == Databases::Postgres {
        deck.extend([Kind::Kill, Kind::Freeze].map(|kind| (kind, vec![Target::Database])));
    }
    deck
}

impl Plan {
    /// The plan of a seed for a run of this length on such databases, with this many replicas, of the demo alone.
    #[cfg(test)]
    pub(in crate::chaos) fn generate(
        seed: u64,
        millis: u64,
        databases: Databases,
        replicas: u64,
    ) -> Self {
        let with = BTreeMap::new();
        Self::generate_with(seed, millis, databases, replicas, with).expect("a good plan")
    }

    /// The plan of a seed for a run of this length on such databases, with this many replicas, and with these programs of
    /// others. An error if they cannot take part.
    pub(in crate::chaos) fn generate_with(
        seed: u64,
        millis: u64,
        databases: Databases,
        replicas: u64,
        with: BTreeMap<String, Words>,
    ) -> Result<Self, String> {
        let cast = Cast::with(&with)?;
        let mut random = Random::stream(seed, STREAM);
        let mut faults: Vec<Fault> = Vec::new();
        // Each card comes once before any comes again.
        let mut cards: Vec<Card> = Vec::new();
        let mut at_millis = QUIET_START_MILLIS;
        let end = millis - QUIET_END_MILLIS;
        let fits = |faults: &[Fault], fault: &Fault| {
            fault.at_millis + fault.for_millis <= end
                && !faults.iter().any(|other| other.excludes(fault, APART_MILLIS))
        };
        while at_millis < end {
            let card = cards.pop().unwrap_or_else(|| {
                cards = deck(databases, &cast);
                random.shuffle(&mut cards);
                cards.pop().expect("there are kinds")
            });
            let found = (0..MAX_TRIES).find_map(|_| {
                let fault = draw(&mut random, &card, at_millis, millis);
                let fault = Fault { replica: draw_replica(&mut random, &fault, replicas), ..fault };
                fits(&faults, &fault).then_some(fault)
            });
            match found {
                Some(fault) => {
                    let away = (0..MAX_TRIES).find_map(|_| {
                        let away = draw_away(&mut random, &fault, &cast)?;
                        // What one replica misses another may have seen.
                        let of = |replica| Fault { replica, ..away.clone() };
                        let all: Vec<_> = (1..=replicas).map(of).collect();
                        all.iter().all(|away| fits(&faults, away)).then_some(all)
                    });
                    faults.push(fault);
                    faults.extend(away.into_iter().flatten());
                }
                // Later there may be room.
                None => cards.insert(0, card),
            }
            at_millis += gap(&mut random, millis);
        }
        faults.sort_by_key(|fault| fault.at_millis);
        let (stores, edit_every_millis) = (STORES, EDIT_EVERY_MILLIS);
        let plan = Self {
            format: FORMAT,
            seed,
            millis,
            replicas,
            with,
            stores,
            edit_every_millis,
            faults,
        };
        plan.check().map(|()| plan)
    }
}

fn draw(random: &mut Random, card: &Card, at_millis: u64, millis: u64) -> Fault {
    let (kind, ref targets) = *card;
    let on: Target = *random.one_of(targets);
    let for_millis = length(random, kind, millis);
    let way = *random.one_of(&[None, Some(Way::There), Some(Way::Back)]);
    let late = random.between(5, 400);
    Fault {
        at_millis,
        for_millis,
        kind,
        on,
        replica: 1,
        way: way.filter(|_| kind == Kind::Stall),
        late_millis: (kind == Kind::Latency).then_some(late),
    }
}

/// With one replica there is no choice, so its plans do not depend on this.
fn draw_replica(random: &mut Random, fault: &Fault, replicas: u64) -> u64 {
    match fault.kind.choices(fault.on, replicas) {
        1 => 1,
        several => random.between(1, several),
    }
}

/// For a fault in which the broker loses notifications: a subscriber that is away meanwhile. Losing
/// what everyone has already seen is no loss.
fn draw_away(random: &mut Random, lost: &Fault, cast: &Cast) -> Option<Fault> {
    if !matches!(lost.kind, Kind::NatsRollback | Kind::StreamDelete) {
        return None;
    }
    let kind = *random.one_of(&[Kind::Freeze, Kind::Kill, Kind::Refuse, Kind::Stall]);
    let subscribers: Vec<_> = cast.subscribers().collect();
    let subscriber = *random.one_of(&subscribers);
    let on = match kind {
        Kind::Freeze | Kind::Kill => Target::Program(subscriber),
        _ => Target::ToNats(subscriber),
    };
    let (least, most) = MARGIN_MILLIS;
    let before = random.between(least, most).min(lost.at_millis);
    let for_millis = before + lost.for_millis + random.between(least, most);
    let at_millis = lost.at_millis - before;
    Some(Fault { at_millis, for_millis, kind, on, replica: 1, way: None, late_millis: None })
}
